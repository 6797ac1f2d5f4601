"""Every command that an error, a hint or a document names can be given as it stands there."""

from __future__ import annotations

import ast
import difflib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from ecellm_mlx.cli.app import app

ROOT = Path(__file__).parents[2]
SOURCES = sorted(
    path for name in ("ecellm_mlx", "tui", "converters") for path in (ROOT / name).rglob("*.py")
)
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
QUOTED = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
FENCED = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"^    (ecellm .*)$", re.MULTILINE)
ASIDE = "BLANK"  # in place of what an f-string fills in
# What a verb does not say by itself: where the words of another command begin.
NESTED = {"launch"}


def spoken(node: ast.AST) -> Iterator[str]:
    """Texts of a module, f-strings with ``ASIDE`` for what is filled in."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.JoinedStr):
            parts = (
                str(part.value) if isinstance(part, ast.Constant) else ASIDE
                for part in inner.values
            )
            yield "".join(parts)
        elif isinstance(inner, ast.Constant) and isinstance(inner.value, str):
            yield inner.value


def commands_of_source(path: Path) -> Iterator[str]:
    """What stands in backquotes, and the examples of help texts."""
    for text in spoken(ast.parse(path.read_text(encoding="utf-8"))):
        joined = re.sub(r"(?<!`)`([^`]*)\n\s*([^`]*)`(?!`)", r"`\1 \2`", text)
        yield from QUOTED.findall(joined)
        if example := re.search(r"^\s*Example: (.*?)\s*\Z", text, re.MULTILINE | re.DOTALL):
            yield " ".join(example[1].replace("\\\n", "\n").split())


def commands_of_document(path: Path) -> Iterator[str]:
    """What stands in backquotes, and every line of a shell's."""
    text = path.read_text(encoding="utf-8")
    for block in FENCED.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            yield line.split(" #")[0].strip()
    yield from INDENTED.findall(text)
    yield from QUOTED.findall(re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))


def problem_of(text: str) -> str:
    """Why ``text`` is no command of ours, if it pretends to be one."""
    try:
        words = shlex.split(text)
    except ValueError:
        return ""
    if not words:
        return ""
    name = Path(words[0]).name
    if name != "ecellm":
        alike = difflib.SequenceMatcher(None, name, "ecellm").ratio() > 0.8
        return f"{name} is no command" if alike and len(words) > 1 else ""
    return _problem(typer.main.get_command(app), words[1:])


def _problem(command: Any, words: list[str]) -> str:
    """What is wrong with ``words`` after ``command``, one of click's."""
    options = {
        name: option
        for option in command.params
        if option.param_type_name == "option"
        for name in (*option.opts, *option.secondary_opts)
    }
    verbs = getattr(command, "commands", {})
    known = {*options, "--help", "-h", "--debug"}
    words = list(words)
    while words:
        word = words.pop(0)
        if word in ("|", "&&", ";", ">", "2>", "…", "...", ASIDE):
            return ""
        if word.startswith("-") and len(word) > 1:
            if word not in known:
                return f"`{command.name}` has no option {word}"
            option = options.get(word)
            if option is not None and not option.is_flag and words:
                words.pop(0)
        elif verbs:
            names = word.split("|")
            if unknown := [name for name in names if name not in verbs]:
                # VERB and Name are placeholders in a sentence.
                return "" if word.isupper() else f"{unknown[0]!r} is no verb"
            if len(names) > 1:
                return ""
            return _problem(verbs[word], words)
        elif command.name in NESTED:
            return _problem(typer.main.get_command(app), [word, *words])
    return ""


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_documents_name_commands_that_exist(path: Path) -> None:
    assert not [
        f"{text}: {why}" for text in commands_of_document(path) if (why := problem_of(text))
    ]


def test_errors_and_hints_name_commands_that_exist() -> None:
    wrong, seen = [], 0
    for path in SOURCES:
        for text in commands_of_source(path):
            seen += text.startswith("ecellm ")
            if why := problem_of(text):
                wrong.append(f"{path.relative_to(ROOT)}: {text}: {why}")
    assert not wrong
    assert seen > 50


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("ecell data check rows.jsonl", "ecell is no command"),
        ("ecellm date check rows.jsonl", "'date' is no verb"),
        ("ecellm data chek rows.jsonl", "'chek' is no verb"),
        ("ecellm train --modell x", "`train` has no option --modell"),
        ("ecellm launch --hosts a,b train --modell x", "`train` has no option --modell"),
        ("ecellm models list|pull|import", ""),
        ("ecellm eval --model M --json", ""),
        ("git push", ""),
    ],
)
def test_a_command_that_does_not_exist_is_noticed(text: str, problem: str) -> None:
    assert problem_of(text) == problem
