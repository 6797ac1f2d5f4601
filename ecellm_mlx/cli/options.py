"""Options that several verbs share, declared once; ``grouped`` takes them by the dozen."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

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
    """A verb whose parameters of a dataclass type stand for one option per field.

    The fields are annotated as a verb's own parameters are, and have defaults.
    """
    parameters: list[inspect.Parameter] = []
    groups: dict[str, Any] = {}
    for parameter in inspect.signature(function, eval_str=True).parameters.values():
        if not is_dataclass(parameter.annotation):
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        groups[parameter.name] = parameter.annotation
        hints = get_type_hints(parameter.annotation, include_extras=True)
        parameters += [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=field.default,
                annotation=hints[field.name],
            )
            for field in fields(parameter.annotation)
        ]

    @wraps(function)
    def call(**values: Any) -> None:
        for name, group in groups.items():
            values[name] = group(**{f.name: values.pop(f.name) for f in fields(group)})
        function(**values)

    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {p.name: p.annotation for p in parameters}
    return call
