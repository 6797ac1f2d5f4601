"""The tables of settings in ``docs/``, made from their declarations.

    python -m ecellm_mlx.cli.reference docs

writes the pages of a folder anew between their markers; a test holds that they are current.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import MISSING
from itertools import chain
from pathlib import Path
from typing import Any

from ecellm_mlx.catalog.settings import Asked, CatalogSettings, Reading
from ecellm_mlx.evaluation.settings import EvaluationSettings
from ecellm_mlx.matching.settings import MatchSettings, PairSettings
from ecellm_mlx.settings import as_text, described
from ecellm_mlx.training.recipe import Recipe

START, END = "<!-- settings: {} -->", "<!-- /settings -->"
# Groups by page, and by the name in their marker there.
PAGES: dict[str, dict[str, tuple[type[Any], ...]]] = {
    "training.md": {"recipe": (Recipe,)},
    "evaluation.md": {"evaluation": (EvaluationSettings,)},
    "catalog.md": {
        "catalog": (CatalogSettings, Asked, Reading),
        "match": (MatchSettings,),
        "pairs": (PairSettings,),
    },
}


def table(groups: Iterable[type[Any]]) -> str:
    """Every setting of some groups as a row of a Markdown table."""
    lines = ["| setting | takes | default | meaning |", "| --- | --- | --- | --- |"]
    for setting in chain.from_iterable(map(described, groups)):
        value = "" if setting.default is MISSING else as_text(setting.default)
        shown = f"`{value}`" if value else "none"
        if setting.default is MISSING:
            shown = "required"
        elif setting.flags and setting.default is False:
            shown = "off"
        lines.append(f"| `{setting.name}` | {setting.kind} | {shown} | {setting.doc} |")
    return "\n".join(lines)


def updated(name: str, page: str) -> str:
    """The text ``page`` of the page ``name`` with current tables between its markers.

    Raises:
        ValueError: a marker is missing.
    """
    for key, groups in PAGES[name].items():
        start = START.format(key)
        head, _, rest = page.partition(start)
        _, end, tail = rest.partition(END)
        if not end:
            raise ValueError(f"the page lacks {start} or {END}")
        page = f"{head}{start}\n{table(groups)}\n{END}{tail}"
    return page


if __name__ == "__main__":
    for folder in map(Path, sys.argv[1:]):
        for name in PAGES:
            text = (folder / name).read_text(encoding="utf-8")
            (folder / name).write_text(updated(name, text), encoding="utf-8")
