"""The verbs of ``ecellm``. Contract: names, flags and JSON keys are stable."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ecellm_mlx.cli import (
    adapters,
    catalog,
    data,
    evaluate,
    export,
    generate,
    launch,
    models,
    plan,
    push,
    runs,
    serve,
    study,
)
from ecellm_mlx.cli.output import emit, emit_json, emit_table

app = typer.Typer(
    name="ecellm",
    help="Fine-tune, check and run e-commerce language models on this machine.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(models.app, name="models")
app.add_typer(data.app, name="data")
app.add_typer(catalog.app, name="catalog")
app.add_typer(adapters.app, name="adapters")
app.add_typer(export.app, name="export")
runs.register(app)
plan.register(app)
evaluate.register(app)
generate.register(app)
serve.register(app)
study.register(app)
push.register(app)
launch.register(app)

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    web: Annotated[bool, typer.Option("--web", help="Serve the UI to a browser.")] = False,
    host: Annotated[str, typer.Option(help="With --web: the address.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="With --web: the port.")] = 8765,
) -> None:
    """Without a verb, open the terminal UI. --debug shows tracebacks."""
    if version:
        from ecellm_mlx import __version__

        emit(f"ecellm-mlx {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        _open_face("tui", **({"web": (host, port)} if web else {}))


@app.command()
def demo(
    out: Annotated[
        Path | None, typer.Option(help="Folder for all that the demo makes.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Fewer rows, under 3 minutes.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Tour: train on real rows, compare before and after, export to PEFT, run a catalog.

    Example: ecellm demo --quick
    """
    from ecellm_mlx.cli import demo as tour

    results = tour.run(out, quick=quick)
    if json:
        emit_json(results)
    else:
        tour.show(results)


@app.command()
def doctor(json: JsonFlag = False) -> None:
    """Check device, BLAS, memory, disk and versions; each finding comes with its cure.

    Example: ecellm doctor --json
    """
    from ecellm_mlx.cli import doctor as doctor_module

    report = doctor_module.examine()
    if json:
        emit_json(report)
    else:
        doctor_module.show(report)
    if any(check["status"] == "fail" for check in report["checks"]):
        raise typer.Exit(1)


@app.command()
def locate(
    what: Annotated[
        str, typer.Argument(help="models, datasets, runs or config; all when left out.")
    ] = "",
) -> None:
    """Print where models, datasets, runs and settings live.

    Example: ecellm locate models
    """
    from ecellm_mlx import workspace
    from ecellm_mlx.errors import UsageError

    home = workspace.current()
    places = {
        "models": home.models,
        "datasets": home.datasets,
        "runs": home.runs,
        "config": home.config,
    }
    if not what:
        emit_table("", ["what", "folder"], [[k, str(v)] for k, v in places.items()])
    elif what in places:
        emit(str(places[what]))
    else:
        raise UsageError(f"locate {what!r} is unknown", expected=", ".join(places))


def _open_face(name: str, **options: Any) -> None:
    """Start a face that the installation offers; the engine imports none by itself."""
    from importlib.metadata import entry_points

    from ecellm_mlx.errors import EcellmError

    faces = entry_points(group="ecellm_mlx.faces", name=name)
    if not faces:
        raise EcellmError(
            "the terminal UI is not installed", cure="install ecellm-mlx again with pip"
        )
    next(iter(faces)).load()(**options)
