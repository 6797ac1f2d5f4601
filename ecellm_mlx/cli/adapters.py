"""``ecellm adapters``: inspect, convert, verify."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ecellm_mlx.cli import options
from ecellm_mlx.cli.output import emit, emit_json, emit_table, narrate

app = typer.Typer(help="Adapters: inspect, to-peft, from-peft, verify.", no_args_is_help=True)

# A table shows nested values up to this many.
SHOWN = 8

MlxAdapter = Annotated[str, typer.Argument(help="An MLX adapter folder, or a run.")]
Base = Annotated[str, typer.Option("--base", help="The base model: registry name or folder.")]


@app.command()
def inspect(
    adapter: Annotated[str, typer.Argument(help="An MLX or PEFT adapter folder, or a run.")],
    json: options.Json = False,
) -> None:
    """What an adapter is: base, type, rank, alpha, targets, size, where it comes from.

    Takes MLX and PEFT folders alike.

    Example: ecellm adapters inspect RUN
    """
    from ecellm_mlx.device import backend  # noqa: F401 - loads a fast BLAS before converters do
    from ecellm_mlx.models.adapter_files import folder_of

    from converters.describe import describe

    facts = describe(folder_of(adapter))
    if json:
        emit_json(facts)
    else:
        emit_table("", ["", "adapter"], [[k, _text(v)] for k, v in facts.items()])


@app.command("to-peft")
def to_peft(
    adapter: MlxAdapter,
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    base: Annotated[
        str | None,
        typer.Option("--base", help="The base, if it is not the one that the adapter names."),
    ] = None,
    phi_layout: Annotated[
        Literal["native", "legacy"] | None,
        typer.Option("--phi-layout", help="Names of Phi's layers; the default is as it came."),
    ] = None,
) -> None:
    """Convert an MLX adapter to the Hugging Face PEFT format.

    Example: ecellm adapters to-peft RUN my-adapter-peft
    """
    from ecellm_mlx.export import peft as exporting

    emit(str(exporting.to_peft(adapter, out, base=base, layout=phi_layout)))


@app.command("from-peft")
def from_peft(
    adapter: Annotated[Path, typer.Argument(help="A PEFT adapter folder.")],
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    base: Base,
) -> None:
    """Convert a PEFT adapter to the MLX format and check that it fits the base.

    Example: ecellm adapters from-peft peft-adapter mlx-adapter --base phi-2
    """
    from ecellm_mlx.export import peft as exporting

    emit(str(exporting.from_peft(adapter, out, base=base, warn=narrate)))


@app.command()
def verify(
    adapter: MlxAdapter,
    peft: Annotated[Path, typer.Argument(help="The PEFT adapter to compare with.")],
    base: Annotated[
        str | None,
        typer.Option("--base", help="Compare logits on this base, too: name or folder."),
    ] = None,
    json: options.Json = False,
) -> None:
    """Prove that an MLX and a PEFT adapter are the same.

    The updates are compared tensor by tensor. With --base, and with PyTorch and PEFT
    installed, the logits of both sides are compared as well.

    Example: ecellm adapters verify RUN my-adapter-peft --base phi-2
    """
    from ecellm_mlx.export import proof

    result = proof.verify(adapter, peft, base=base)
    for note in result.notes:
        narrate(note)
    if json:
        emit_json(result.to_json())
    else:
        emit_table("", ["", "MLX against PEFT"], [[k, _text(v)] for k, v in result.rows()])
    result.require_equal()


def _text(value: object) -> str:
    """A value of a table: nested ones as one ``key value`` list."""
    if isinstance(value, dict):
        if len(value) > SHOWN:
            return f"{len(value)} entries; see --json"
        return ", ".join(f"{key} {_text(item)}" for key, item in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "unknown" if value is None else str(value)
