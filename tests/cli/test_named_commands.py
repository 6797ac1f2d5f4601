"""Every command that an error, a hint or a document names can be typed as it stands.

Read are the strings of the product's code, whatever they are used for, the recipes and the
documents: what stands in backquotes or after ``Example:``, and the lines of code blocks.
"""

from __future__ import annotations

import ast
import difflib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from ecellm_mlx.cli.app import app
from ecellm_mlx.models.registry import REGISTRY

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]
PRODUCT = ("ecellm_mlx", "converters", "tui")
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/*.md")
SPAN = re.compile(r"(?<!`)(`{1,2})(?!`)([^`]+)\1(?!`)")
EXAMPLE = re.compile(r"Example: (.+)")
FENCE = re.compile(r"^```[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"^ {4}.*$", re.MULTILINE)
# What a string leaves open, and what a document does.
FILLED_IN = "FILLED_IN"
LEFT_OPEN = re.compile(rf"{FILLED_IN}|[A-Z_]+|…|\.\.\.")
ECELLM: Any = typer.main.get_command(app)
# Of models and recipes.
NAMES = REGISTRY.keys() | {path.stem for path in ROOT.glob("ecellm_mlx/recipes/*.toml")}
# Understood before the command line is parsed.
GLOBAL = {"--debug", "--help", "-h"}


def strings(path: Path) -> Iterator[tuple[int, str]]:
    """Line and text of every string of a Python file; what is filled in is not known."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            inside |= {id(part) for part in node.values}
            text = "".join(
                str(part.value) if isinstance(part, ast.Constant) else FILLED_IN
                for part in node.values
            )
            yield node.lineno, text
        elif isinstance(node, ast.Constant) and id(node) not in inside:
            yield node.lineno, str(node.value)


def commands_of_text(text: str) -> Iterator[str]:
    """What stands in backquotes, and examples."""
    for match in SPAN.finditer(text):
        yield " ".join(match[2].split())
    for match in EXAMPLE.finditer(text):
        yield match[1]


def commands_of_document(text: str) -> Iterator[str]:
    """The same, and the lines of code blocks without their comments."""
    blocks = [match[1] for match in FENCE.finditer(text)]
    text = FENCE.sub("", text)
    blocks.append("\n".join(INDENTED.findall(text)))
    yield from commands_of_text(text)
    for block in blocks:
        for line in block.replace("\\\n", " ").splitlines():
            for part in re.split(r"\s(?:&&|\|)\s", re.sub(r"(^|\s)#.*", "", line)):
                yield part.strip().removeprefix("$ ")


def words_of(command: str) -> list[str]:
    """The words of a command; the brackets of optional parts are dropped."""
    plain = command.replace("[", " ").replace("]", " ")
    try:
        return shlex.split(plain)
    except ValueError:
        return plain.split()


def problem(command: str) -> str:
    """Why the command cannot be typed; empty if it can, or if it is something else."""
    words = words_of(command)
    if not words:
        return ""
    program, rest = words[0], words[1:]
    if program == "ecellm":
        return _unknown(ECELLM, rest)
    if re.search(r"[_./<=:(]", program) or program in NAMES:
        return ""
    close = difflib.get_close_matches(program, ["ecellm"], cutoff=0.7)
    verb = bool(rest) and rest[0] in ECELLM.commands
    if program.startswith("ecell") or (close and verb):
        return f"there is no program {program}"
    return ""


def _unknown(command: Any, words: list[str]) -> str:
    """The first verb or option that ``command`` does not know."""
    options = {name: p for p in command.params for name in (*p.opts, *p.secondary_opts)}
    words = list(words)
    while words:
        word = words.pop(0)
        if word.startswith("-") and word.strip("-"):
            name, _, value = word.partition("=")
            if name in GLOBAL:
                continue
            if name not in options:
                return f"{command.name} has no option {name}"
            if not (value or options[name].is_flag) and words:
                words.pop(0)
        elif hasattr(command, "commands"):
            if LEFT_OPEN.fullmatch(word):
                return ""
            # ``pause|stop RUN`` stands for two commands.
            for verb in word.split("|"):
                if verb not in command.commands:
                    return f"{command.name} has no verb {verb}"
                if why := _unknown(command.commands[verb], words):
                    return why
            return ""
        elif command.name == "launch":
            # What follows is the command that every rank runs.
            return _unknown(ECELLM, [word, *words])
    return ""


def test_commands_in_the_code() -> None:
    wrong, seen = [], 0
    for package in PRODUCT:
        for path in sorted((ROOT / package).rglob("*.py")):
            for line, text in strings(path):
                for command in commands_of_text(text):
                    seen += command.startswith("ecellm ")
                    if why := problem(command):
                        wrong.append(f"{path.relative_to(ROOT)}:{line}: `{command}`: {why}")
    assert not wrong, "\n".join(wrong)
    assert seen > 100, "they are still found"


@pytest.mark.parametrize("pattern", [*DOCUMENTS, "ecellm_mlx/**/*.md", "ecellm_mlx/**/*.toml"])
def test_commands_in_documents_and_recipes(pattern: str) -> None:
    wrong, seen = [], 0
    for path in sorted(ROOT.glob(pattern)):
        for command in commands_of_document(path.read_text(encoding="utf-8")):
            seen += command.startswith("ecellm ")
            if why := problem(command):
                wrong.append(f"{path.relative_to(ROOT)}: `{command}`: {why}")
    assert not wrong, "\n".join(wrong)
    assert seen or pattern in ("CONTRIBUTING.md", "CHANGELOG.md"), "they are still found"


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("ecell resume RUN", "no program ecell"),
        ("ecell", "no program ecell"),
        ("ecelm resume RUN", "no program ecelm"),
        ("ecellm-train", "no program ecellm-train"),
        ("ecellm resum RUN", "no verb resum"),
        ("ecellm models fetch X", "no verb fetch"),
        ("ecellm train --modle M", "no option --modle"),
        ("ecellm launch -n 2 trian --model M", "no verb trian"),
        ("ecellm launch -n 2 train --modle M", "no option --modle"),
        ("ecellm launch --hots a,b train", "no option --hots"),
        ("ecellm pause|stip RUN", "no verb stip"),
        ("ecellm eval [--limt N]", "no option --limt"),
    ],
)
def test_what_cannot_be_typed_is_noticed(command: str, why: str) -> None:
    assert why in problem(command)


@pytest.mark.parametrize(
    "command",
    [
        "ecellm",
        "ecellm --help",
        "ecellm catalog",
        "ecellm WORDS",
        "ecellm pause|stop RUN",
        "ecellm train … --detach",
        "ecellm train --set rank=4 -m M --data=D --debug",
        "ecellm launch --hosts a,b catalog run shop.csv … --out x.csv",
        "ecellm_mlx.jobs.events",
        "ecellm-s",
        "ecellm-s-laptop",
        "cell",
    ],
)
def test_what_can_be_typed_passes(command: str) -> None:
    assert problem(command) == ""
