"""``ecellm serve``: a model and its adapter for OpenAI-compatible clients."""

from __future__ import annotations

from typing import Annotated

import typer

from ecellm_mlx.cli import options
from ecellm_mlx.cli.output import narrate


def register(app: typer.Typer) -> None:
    """Add the verb to the root command."""
    app.command()(serve)


def serve(
    model: options.Model,
    adapter: options.Adapter = None,
    host: Annotated[
        str, typer.Option(help="Address to listen at; others than 127.0.0.1 are open to all.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="TCP port.")] = 8080,
    max_tokens: Annotated[
        int, typer.Option(min=1, help="Longest answer, where a request does not say.")
    ] = 512,
) -> None:
    """Start an OpenAI-compatible server (mlx-lm's) with a model and its adapter.

    Example: ecellm serve --model smollm2-135m --adapter RUN --port 8080
    """
    from ecellm_mlx.inference import server

    server.serve(
        model, adapter=adapter, host=host, port=port, max_tokens=max_tokens, say=narrate
    )
