"""``ecellm adapters``: inspect, convert, verify."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ecellm_mlx.cli import options
from ecellm_mlx.cli.output import emit, emit_json, emit_table

app = typer.Typer(help="Adapters: inspect, to-peft, from-peft, verify.", no_args_is_help=True)

MlxAdapter = Annotated[str, typer.Argument(help="An MLX adapter folder, or a run.")]
Base = Annotated[str, typer.Option("--base", help="The base model: registry name or folder.")]


@app.command()
def inspect(adapter: MlxAdapter, json: options.Json = False) -> None:
    """What an adapter is: base, rank, scale, targets, size, provenance.

    Example: ecellm adapters inspect RUN
    """
    from ecellm_mlx.models.adapter_files import folder_of

    from converters.peft import MLX_WEIGHTS, read_mlx

    folder = folder_of(adapter)
    content = read_mlx(folder)
    facts = {
        "path": str(folder),
        "base": content.ecellm.get("base", {}).get("name"),
        "type": "dora" if content.dora else "lora",
        "rank": content.rank,
        "alpha": content.alpha,
        "scale": content.scale,
        "rslora": content.rslora,
        "targets": sorted({name.rsplit(".", 1)[-1] for name in content.modules}),
        "modules": len(content.modules),
        "parameters": sum(
            x.size for parts in content.modules.values() for x in parts if x is not None
        ),
        "size_mb": round((folder / MLX_WEIGHTS).stat().st_size / 1e6, 2),
        "metrics": content.ecellm.get("metrics"),
    }
    if json:
        emit_json(facts)
    else:
        emit_table("", ["", "adapter"], [[k, str(v)] for k, v in facts.items()])


@app.command("to-peft")
def to_peft(
    adapter: MlxAdapter,
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    base: Annotated[
        str | None,
        typer.Option("--base", help="What PEFT shall load as its base: hub name or folder."),
    ] = None,
) -> None:
    """Convert an MLX adapter to the Hugging Face PEFT format.

    Example: ecellm adapters to-peft RUN my-adapter-peft
    """
    from ecellm_mlx.models import exporting

    emit(str(exporting.to_peft(adapter, out, base=base)))


@app.command("from-peft")
def from_peft(
    adapter: Annotated[Path, typer.Argument(help="A PEFT adapter folder.")],
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    base: Base,
) -> None:
    """Convert a PEFT adapter to the MLX format and check that it fits the base.

    Example: ecellm adapters from-peft peft-adapter mlx-adapter --base phi-2
    """
    from ecellm_mlx.models import exporting

    emit(str(exporting.from_peft(adapter, out, base=base)))


@app.command()
def verify(
    adapter: MlxAdapter,
    peft: Annotated[Path, typer.Argument(help="The PEFT adapter to compare with.")],
    json: options.Json = False,
) -> None:
    """Prove that an MLX and a PEFT adapter are the same update, tensor by tensor.

    Example: ecellm adapters verify RUN my-adapter-peft
    """
    from ecellm_mlx import backend  # noqa: F401 - loads a fast BLAS before converters do
    from ecellm_mlx.errors import AdapterError
    from ecellm_mlx.models.adapter_files import folder_of

    from converters.verify import compare

    result = compare(folder_of(adapter), peft)
    facts = {
        "modules": result.modules,
        "max_abs_error": result.max_abs_error,
        "bit_identical": result.bit_identical,
    }
    if json:
        emit_json(facts)
    else:
        emit_table("", ["", "MLX against PEFT"], [[k, str(v)] for k, v in facts.items()])
    if result.max_abs_error > 1e-6:
        raise AdapterError("the two adapters differ", got=f"{result.max_abs_error:.2e}")
