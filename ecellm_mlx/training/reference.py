"""The table of all settings in ``docs/training.md``, made from their declaration.

    python -m ecellm_mlx.training.reference docs/training.md

writes the page anew between its two markers; a test holds that it is current.
"""

from __future__ import annotations

import sys
from pathlib import Path

from ecellm_mlx.training import recipe

START, END = "<!-- settings: generated -->", "<!-- /settings -->"


def table() -> str:
    """Every setting as a row of a Markdown table."""
    lines = ["| setting | takes | default | meaning |", "| --- | --- | --- | --- |"]
    for key, kind, default, doc in recipe.describe():
        value = recipe.as_text(default)
        shown = f"`{value}`" if value else "none"
        lines.append(f"| `{key}` | {kind} | {shown} | {doc} |")
    return "\n".join(lines)


def updated(page: str) -> str:
    """``page`` with the current table between its markers.

    Raises:
        ValueError: a marker is missing.
    """
    head, _, rest = page.partition(START)
    _, end, tail = rest.partition(END)
    if not end:
        raise ValueError(f"the page lacks {START} or {END}")
    return f"{head}{START}\n{table()}\n{END}{tail}"


if __name__ == "__main__":
    for name in sys.argv[1:]:
        path = Path(name)
        path.write_text(updated(path.read_text(encoding="utf-8")), encoding="utf-8")
