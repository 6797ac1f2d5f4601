"""The tables of settings in ``docs/``, made from their declarations.

    python -m ecellm_mlx.cli.reference docs

writes the pages of a folder anew between their markers; a test holds that they are current.
"""

from __future__ import annotations

import sys
from dataclasses import MISSING
from pathlib import Path
from typing import Any

from ecellm_mlx.evaluation.settings import EvaluationSettings
from ecellm_mlx.settings import as_text, described
from ecellm_mlx.training.recipe import Recipe

START, END = "<!-- settings: {} -->", "<!-- /settings -->"
# Groups by page, and by the name in their marker there.
PAGES: dict[str, dict[str, type[Any]]] = {
    "training.md": {"recipe": Recipe},
    "evaluation.md": {"evaluation": EvaluationSettings},
}


def table(group: type[Any]) -> str:
    """Every setting of a group as a row of a Markdown table."""
    lines = ["| setting | takes | default | meaning |", "| --- | --- | --- | --- |"]
    for setting in described(group):
        value = "" if setting.default is MISSING else as_text(setting.default)
        shown = f"`{value}`" if value else "none"
        if setting.default is MISSING:
            shown = "required"
        lines.append(f"| `{setting.name}` | {setting.kind} | {shown} | {setting.doc} |")
    return "\n".join(lines)


def updated(name: str, page: str) -> str:
    """The text ``page`` of the page ``name`` with current tables between its markers.

    Raises:
        ValueError: a marker is missing.
    """
    for key, group in PAGES[name].items():
        start = START.format(key)
        head, _, rest = page.partition(start)
        _, end, tail = rest.partition(END)
        if not end:
            raise ValueError(f"the page lacks {start} or {END}")
        page = f"{head}{start}\n{table(group)}\n{END}{tail}"
    return page


if __name__ == "__main__":
    for folder in map(Path, sys.argv[1:]):
        for name in PAGES:
            text = (folder / name).read_text(encoding="utf-8")
            (folder / name).write_text(updated(name, text), encoding="utf-8")
