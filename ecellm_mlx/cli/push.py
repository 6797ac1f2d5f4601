"""``ecellm push``: publish a folder on the hub."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ecellm_mlx.cli import options
from ecellm_mlx.cli.output import emit, emit_json, narrate


def register(app: typer.Typer) -> None:
    """Add the verb to the top-level app."""
    app.command()(push)


def push(
    source: Annotated[
        Path, typer.Argument(help="A folder that fuse, export or to-peft wrote, or a run.")
    ],
    repo: Annotated[str, typer.Argument(help="owner/name on the hub.")],
    private: Annotated[
        bool, typer.Option("--private", help="Create it as a private repository.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be sent.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Publish a model or an adapter on the hub; an interrupted push goes on.

    Example: ecellm push my-model-hf me/my-model --private --dry-run
    """
    from ecellm_mlx.export import publish

    planned = publish.plan(source, repo, private=private)
    for name, size in planned.files:
        narrate(
            f"{size / 1e6:12,.2f} MB  {name}"
            + ("  (there already)" if name in planned.unchanged else "")
        )
    narrate(
        f"{repo} {'exists' if planned.exists else 'will be created'}, "
        f"{'private' if planned.private else 'public'}: {planned.bytes_to_send / 1e9:.3f} of "
        f"{planned.bytes_total / 1e9:.3f} GB to send"
    )
    if planned.card is not None:
        narrate("README.md is written from what the adapter says of itself")
    elif not any(name == "README.md" for name, _ in planned.files):
        narrate("warning: there is no README.md, so nobody will know what this is")
    url = None
    if not dry_run:
        if not sys.stderr.isatty():
            from huggingface_hub.utils.tqdm import disable_progress_bars

            disable_progress_bars()
        url = publish.push(planned, lambda name, _: narrate(f"sending {name}"))
    if json:
        emit_json({**planned.to_dict(), "dry_run": dry_run, "url": url})
    elif url:
        emit(url)
