"""``ecellm adapters fuse`` and ``ecellm export``: hand results over to other programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ecellm_mlx.cli import adapters, options
from ecellm_mlx.cli.output import emit, emit_json, narrate
from ecellm_mlx.cli.progress import byte_bar

if TYPE_CHECKING:
    from ecellm_mlx.export.write import Written

app = typer.Typer(help="Hand over: hf, gguf.", no_args_is_help=True)

Source = Annotated[str, typer.Argument(help="An adapter folder, a run, or a model.")]
Out = Annotated[Path, typer.Argument(help="Folder to write; it must not exist yet.")]
Base = Annotated[
    str | None,
    typer.Option("--base", help="The base model; the one the adapter names by default."),
]
Dtype = Annotated[
    Literal["float32", "float16", "bfloat16"] | None,
    typer.Option("--dtype", help="Float type of the weights; the base's by default."),
]
Evaluations = Annotated[
    list[Path] | None,
    typer.Option("--eval", help="An `ecellm eval` run whose metrics the model card shows."),
]


@adapters.app.command()
def fuse(
    adapter: adapters.MlxAdapter,
    out: Out,
    base: Base = None,
    quantize: Annotated[
        int, typer.Option("--quantize", help="4 or 8 bits; 0 de-quantizes everything.")
    ] = 0,
    keep_adapted: Annotated[
        bool,
        typer.Option(
            "--keep-adapted",
            help="Store adapted layers one step finer: 8 bits for 4, floats for 8.",
        ),
    ] = False,
    dtype: Dtype = None,
    measure: Annotated[
        bool,
        typer.Option(help="Measure what quantization changed; loads both models in turn."),
    ] = True,
    evaluations: Evaluations = None,
    json: options.Json = False,
) -> None:
    """Fuse an adapter into its base: one MLX model that needs no adapter.

    Example: ecellm adapters fuse RUN my-model --quantize 4
    """
    from ecellm_mlx.export import write

    with byte_bar("fuse") as progress:
        written = write.fuse(
            adapter,
            out,
            base=base,
            bits=quantize,
            keep_adapted=keep_adapted,
            dtype=dtype,
            measure=measure,
            scores=_scores(evaluations),
            progress=progress,
        )
    report(written, json=json, cure="--quantize 8, or --keep-adapted")


@app.command()
def hf(
    source: Source,
    out: Out,
    base: Base = None,
    dtype: Dtype = None,
    evaluations: Evaluations = None,
    json: options.Json = False,
) -> None:
    """Write a model that Hugging Face transformers loads, an adapter fused into it.

    Example: ecellm export hf RUN my-model-hf --dtype bfloat16
    """
    from ecellm_mlx.export import write

    with byte_bar("export") as progress:
        written = write.export_hf(
            write.Source.find(source, base),
            out,
            dtype=dtype,
            scores=_scores(evaluations),
            progress=progress,
        )
    report(written, json=json)


@app.command()
def gguf(
    source: Source,
    out: Out,
    base: Base = None,
    kind: Annotated[
        str | None,
        typer.Option("--type", help="f32, f16 or q8_0; f16 by default, f32 for an adapter."),
    ] = None,
    adapter_only: Annotated[
        bool,
        typer.Option(
            "--adapter-only", help="The adapter alone, for a base that is GGUF already."
        ),
    ] = False,
    split_qkv: Annotated[
        bool,
        typer.Option(
            "--split-qkv",
            help="Phi-2: attn_q, attn_k and attn_v instead of attn_qkv; an adapter must have "
            "what its base has.",
        ),
    ] = False,
    evaluations: Evaluations = None,
    json: options.Json = False,
) -> None:
    """Write a GGUF file for Ollama, LM Studio and llama.cpp, an adapter fused into it.

    Example: ecellm export gguf RUN my-model-gguf --type q8_0
    """
    from ecellm_mlx.export import gguf, write

    with byte_bar("export") as progress:
        _, written = gguf.export(
            write.Source.find(source, base),
            out,
            kind=kind or ("f32" if adapter_only else "f16"),
            adapter_only=adapter_only,
            split_qkv=split_qkv,
            scores=_scores(evaluations),
            progress=progress,
        )
    report(written, json=json)


def report(written: Written, *, json: bool, cure: str = "") -> None:
    """Print what was written, and what quantization did to it."""
    narrate(
        f"{written.size_bytes / 1e9:.2f} GB in {written.dtype}"
        + (f", quantized to {written.bits} bits" if written.bits else "")
        + (f"; {written.adapted_modules} layers fused" if written.adapted_modules else "")
    )
    if difference := written.divergence:
        beside = difference.kl_of_fine_tune
        narrate(
            f"mean KL from the unquantized model {difference.kl:.4f} nats per answer token"
            + (f", the fine-tune itself: {beside:.4f}" if beside is not None else "")
            + f"; same likeliest token at {difference.same_top_token:.1%} of "
            f"{difference.positions} positions"
        )
        if difference.risky and cure:
            narrate(f"warning: quantization took a part of the fine-tune back; try {cure}")
    if json:
        emit_json(written.to_dict())
    else:
        emit(str(written.path))


def _scores(evaluations: list[Path] | None) -> tuple[dict[str, Any], ...]:
    from ecellm_mlx.export.card import read_scores

    return tuple(read_scores(path) for path in evaluations or [])
