"""How verbs speak: data to stdout, narration to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any


def emit_json(value: Any) -> None:
    """Print one JSON document to stdout."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def emit(text: str = "") -> None:
    """Print one line of data to stdout."""
    sys.stdout.write(text + "\n")


def narrate(text: str) -> None:
    """Print one line of narration to stderr."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def emit_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table to stdout; numbers are aligned by the caller's formatting."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title or None, title_justify="left", title_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    # In a pipe nothing is folded: a line of the table stays a line.
    width = None if sys.stdout.isatty() else 10_000
    Console(file=sys.stdout, highlight=False, width=width).print(table)


def number(value: float | None) -> str:
    """Three digits, or what a metric that could not be computed reads."""
    return "not computed" if value is None else f"{value:.3f}"
