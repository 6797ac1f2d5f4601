"""What workers tell the screens.

Workers run in threads and never touch a widget; they post one of these, and a
handler on the screen draws it. A picture may be replaced by a newer one that is
already waiting (``can_replace``), so a slow terminal skips frames instead of
falling behind. Log lines are told once each and are never dropped.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from textual.message import Message

from ecellm_mlx.jobs import RunDirectory
from tui.device import Diagnosis, Machine
from tui.history import LogLine, RunView
from tui.runs import RunSummary


class Picture(Message):
    """A message of which only the newest matters."""

    def can_replace(self, message: Message) -> bool:
        """Whether ``message``, which came later, makes this one needless."""
        return type(message) is type(self)


@dataclass
class MachineRead(Picture):
    """Memory and disk were read."""

    machine: Machine


@dataclass
class RunsRead(Picture):
    """The list of runs was read; ``problem`` says why it could not be."""

    runs: list[RunSummary]
    problem: str = ""


@dataclass
class RunRead(Picture):
    """A run was looked at."""

    view: RunView


@dataclass
class FormChecked(Picture):
    """The Train form was checked: a sentence for each field that is wrong."""

    problems: dict[str, str]


@dataclass
class RunLogged(Message):
    """New lines for a run's log."""

    lines: list[LogLine]


@dataclass
class Diagnosed(Message):
    """The doctor has spoken, or could not."""

    diagnosis: Diagnosis


@dataclass
class ChoicesRead(Message):
    """What the Train form can offer, as (label, value) each."""

    models: list[tuple[str, str]]
    datasets: list[tuple[str, str]]


@dataclass
class RunChosen(Message):
    """The user wants to see a run; anyone may have started it."""

    path: Path


@dataclass
class JobStarted(Message):
    """A job's process was started; whoever takes this must keep the process."""

    run: RunDirectory
    process: subprocess.Popen[bytes]


@dataclass
class JobResumed(Message):
    """A new process takes up a run; whoever takes this must keep the process."""

    process: subprocess.Popen[bytes]


@dataclass
class JobRefused(Message):
    """A job could not be started; ``sentence`` is for the user."""

    sentence: str


@dataclass
class Asked(Message):
    """A control word was sent, or could not be: then ``problem`` says why."""

    word: str
    problem: str = ""


@dataclass
class LiveRunsRead(Message):
    """The answer to the question which jobs would outlive the app."""

    runs: list[RunSummary]


@dataclass
class StopsRequested(Message):
    """All live jobs were asked to stop; ``problems`` names those that were not."""

    problems: list[str]
