"""Every package says what it is, and its map lists every module that it has."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[1]
PACKAGES = sorted(
    file.parent.relative_to(ROOT)
    for name in ("ecellm_mlx", "converters", "tui")
    for file in (ROOT / name).rglob("__init__.py")
)


@pytest.mark.parametrize("package", PACKAGES, ids=str)
def test_a_map_lists_every_module(package: Path) -> None:
    folder = ROOT / package
    text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8")))
    assert text, "its __init__ says nothing"
    modules = {file.stem for file in folder.glob("*.py") if not file.stem.startswith("__")}
    rooms = {file.parent.name for file in folder.glob("*/__init__.py")}
    # A line of a map: four spaces, the name, what it is.
    lines = [line.split() for line in text.splitlines() if line.startswith("    ")]
    named = {words[0].rstrip("/") for words in lines if len(words) > 1}
    assert not (modules | rooms) - named, "the map lacks them"
    assert len([line for line in text.splitlines() if line.strip()]) >= 3
