"""Options that several verbs share, and options that are made from declared settings."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, is_dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from ecellm_mlx import settings
from ecellm_mlx.settings import Setting

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Model = Annotated[str, typer.Option("--model", "-m", help="Registry name or folder.")]
Adapter = Annotated[str | None, typer.Option("--adapter", "-a", help="Adapter folder or run.")]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Rows computed at once.")]
Values = Annotated[
    str, typer.Option("--values", help="Attribute values: source (from the text only) or free.")
]
RunFolder = Annotated[Path | None, typer.Option("--out", help="Run directory to create.")]
Run = Annotated[str, typer.Argument(help="Run directory, or its name in `ecellm runs`.")]


def grouped(function: Callable[..., None]) -> Callable[..., None]:
    """A verb whose parameters of a dataclass type stand for one option per setting.

    What cannot be read, is unknown or contradicts itself is a ``UsageError``.
    """
    parameters: list[inspect.Parameter] = []
    groups: dict[str, Any] = {}
    for parameter in inspect.signature(function, eval_str=True).parameters.values():
        group = parameter.annotation
        if isinstance(group, type) and is_dataclass(group):
            groups[parameter.name] = group
            parameters += map(_parameter, settings.described(group))
        else:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))

    @wraps(function)
    def call(**values: Any) -> None:
        for name, group in groups.items():
            said = {one.key: values.pop(one.key) for one in settings.described(group)}
            # An option that takes several values and was not given is None.
            given = {key: value for key, value in said.items() if value is not None}
            values[name] = settings.make(group, given)
        function(**values)

    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {p.name: p.annotation for p in parameters}
    return call


def _parameter(setting: Setting) -> inspect.Parameter:
    """A setting as a parameter that typer reads."""
    plain = setting.hint in (bool, int, float, Path)
    kind: Any = setting.hint if plain else list[str] if setting.repeated else str
    default = setting.default
    if setting.repeated or default is None:
        kind, default = kind | None, None
    elif not plain and default is not MISSING:
        default = settings.as_text(default)
    declared = typer.Option(
        *setting.flags, help=explanation(setting), min=setting.at_least, max=setting.at_most
    )
    return inspect.Parameter(
        setting.key,
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if default is MISSING else default,
        annotation=Annotated[kind, declared],
    )


def explanation(setting: Setting) -> str:
    """What a setting does, as the sentence that ``--help`` shows."""
    notes = []
    if setting.choices and setting.hint is not bool:
        notes.append(" or ".join(setting.choices))
    if setting.repeated:
        notes.append("repeatable")
    doc = setting.doc
    if doc.partition(" ")[0].rstrip(",:;").isalpha():
        doc = doc[0].upper() + doc[1:]
    return f"{doc} ({'; '.join(notes)})." if notes else f"{doc}."
