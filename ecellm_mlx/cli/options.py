"""Options that several verbs share, declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Model = Annotated[str, typer.Option("--model", "-m", help="Registry name or folder.")]
Adapter = Annotated[str | None, typer.Option("--adapter", "-a", help="Adapter folder or run.")]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Rows computed at once.")]
RunFolder = Annotated[Path | None, typer.Option("--out", help="Run directory to create.")]
Run = Annotated[str, typer.Argument(help="Run directory, or its name in `ecellm runs`.")]
