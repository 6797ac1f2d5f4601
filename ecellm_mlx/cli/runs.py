"""Verbs on runs: train, resume, runs, stop, pause, checkpoint, watch."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ecellm_mlx.cli import options
from ecellm_mlx.cli.output import emit, emit_json, emit_table, narrate
from ecellm_mlx.jobs import RunDirectory


def register(app: typer.Typer) -> None:
    """Add the verbs to the root command."""
    app.command()(train)
    app.command()(resume)
    app.command("runs")(list_runs)
    app.command()(stop)
    app.command()(pause)
    app.command()(checkpoint)
    app.command()(watch)


def train(
    model: options.Model,
    data: Annotated[
        str, typer.Option("--data", "-d", help="Folder with train.jsonl, val.jsonl.")
    ],
    recipe: Annotated[str | None, typer.Option(help="Recipe name or TOML file.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A setting as key=value; repeatable.")
    ] = None,
    out: options.RunFolder = None,
    detach: Annotated[bool, typer.Option("--detach", help="Return at once.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Start even if it is predicted not to fit.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Train a LoRA adapter.

    Example: ecellm train --model smollm2-135m --data my-rows --recipe smollm2 --set epochs=1
    """
    from ecellm_mlx.distributed.launched import launched
    from ecellm_mlx.training.setup import create_run

    if launched():
        from ecellm_mlx.cli import together

        together.train(model, data, recipe, settings or (), out, force=force, json=json)
        return
    start_and_follow(
        create_run(model, data, recipe, settings or (), out, force=force), detach, json
    )


def resume(
    run: options.Run,
    detach: Annotated[bool, typer.Option("--detach", help="Return at once.")] = False,
    json: options.Json = False,
) -> None:
    """Continue a paused run, or a stopped, failed or killed one from its newest checkpoint.

    Example: ecellm resume train-20260131-101500-ab12
    """
    from ecellm_mlx import jobs
    from ecellm_mlx.distributed.launched import launched

    if launched():
        from ecellm_mlx.cli import together

        together.resume(run, json=json)
        return
    directory = jobs.find(run)
    if directory.status().state is not jobs.State.PAUSED:
        start_and_follow(jobs.require_resumable(directory), detach, json)
        return
    directory.request(jobs.Control.RESUME)
    if detach:
        narrate(f"resumed; watch it with `ecellm watch {run}`")
        emit(str(directory.path))
    else:
        _report(directory, json, from_start=False)


def list_runs(json: options.Json = False) -> None:
    """Runs of this workspace, newest first.

    Example: ecellm runs
    """
    from ecellm_mlx import jobs

    entries = [_entry(run) for run in jobs.recent(50)]
    if json:
        emit_json(entries)
    elif not entries:
        narrate("no runs yet; start one with `ecellm train` or `ecellm demo`")
    else:
        rows = [
            [e["name"], e["kind"], e["state"], f"{e['step']}/{e['total_steps']}"]
            for e in entries
        ]
        emit_table(
            "", ["run", "kind", "state", "step"], [[str(c) for c in row] for row in rows]
        )


def _entry(run: RunDirectory) -> dict[str, Any]:
    """One run for the list; a damaged one is listed with its problem."""
    from ecellm_mlx.errors import JobError

    status = run.status()
    kind, model, message = "", "", status.message
    try:
        job = run.job()
        kind, model = job.kind, job.model
    except (JobError, AttributeError) as error:
        message = str(error)
    return {
        "name": run.path.name,
        "path": str(run.path),
        "kind": kind,
        "model": model,
        "state": str(status.state),
        "step": status.step,
        "total_steps": status.total_steps,
        "heartbeat": status.heartbeat,
        "message": message,
    }


def stop(run: options.Run) -> None:
    """Ask a run to save a checkpoint and end at its next step.

    Example: ecellm stop train-20260131-101500-ab12
    """
    _ask(run, "stop", "stop and save")


def pause(run: options.Run) -> None:
    """Ask a run to save a checkpoint and wait; `ecellm resume` lets it go on.

    Example: ecellm pause train-20260131-101500-ab12
    """
    _ask(run, "pause", "pause")


def checkpoint(run: options.Run) -> None:
    """Ask a run to save a checkpoint at its next step and go on.

    Example: ecellm checkpoint train-20260131-101500-ab12
    """
    _ask(run, "checkpoint", "save a checkpoint")


def _ask(run: str, order: str, words: str) -> None:
    from ecellm_mlx import jobs

    directory = jobs.find(run)
    directory.request(jobs.Control(order))
    narrate(f"asked {directory.path.name} to {words}; watch it with `ecellm watch {run}`")


def watch(run: options.Run, json: options.Json = False) -> None:
    """Follow a run until it ends. Ctrl-C asks it to stop.

    Example: ecellm watch train-20260131-101500-ab12
    """
    from ecellm_mlx import jobs

    _report(jobs.find(run), json)


def start_and_follow(run: RunDirectory, detach: bool, json: bool) -> dict[str, Any]:
    """Start a job's process and follow it, or only name it when detached."""
    from ecellm_mlx import jobs

    reader_start = run.events_file.exists()
    jobs.start(run)
    if detach:
        narrate(f"started; watch it with `ecellm watch {run.path}`")
        emit(str(run.path))
        return {}
    return _report(run, json, from_start=not reader_start)


def _report(run: RunDirectory, json: bool, *, from_start: bool = True) -> dict[str, Any]:
    from ecellm_mlx.cli.follow import follow

    results = follow(run, from_start=from_start)
    if json:
        emit_json({"run": str(run.path), **results})
    else:
        emit(str(run.path))
    return results
