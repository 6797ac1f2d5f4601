"""What workers tell the screens.

Workers run in threads and never touch a widget; they post one of these, and a
handler on the screen draws it. A picture may be replaced by a newer one that is
already waiting (``can_replace``), so a slow terminal skips frames instead of
falling behind. Log lines are told once each and are never dropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from textual.message import Message

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from ecellm_mlx.catalog.review import ReviewFile
    from ecellm_mlx.jobs import RunDirectory
    from tui.child import CommandRun
    from tui.device import Diagnosis, Machine
    from tui.evaluations import Line, Miss
    from tui.history import LogLine, RunView
    from tui.on_disk import StoredAdapter
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
class StepsRead(Picture):
    """Which of the first steps are done, by key."""

    done: set[str]


@dataclass
class ModelsRead(Picture):
    """The models were read: ``ModelEntry`` each (``tui.screens.models``)."""

    entries: list[Any]


@dataclass
class OptionsRead(Picture):
    """What a form's lists can offer, by the id of the field."""

    options: dict[str, list[tuple[str, str]]]


@dataclass
class FileRead(Picture):
    """A file of rows was read: ``FileContent`` (``tui.screens.data``)."""

    content: Any


@dataclass
class TokensRead(Picture):
    """A row was tokenized: an event of ``ecellm_mlx.data.token_view``."""

    event: dict[str, Any]


@dataclass
class RunRead(Picture):
    """A run was looked at."""

    view: RunView


@dataclass
class OtherRead(Picture):
    """The run that is compared with was looked at."""

    view: RunView


@dataclass
class RunsListed(Message):
    """Runs to choose from."""

    runs: list[RunSummary]


@dataclass
class FormChecked(Picture):
    """The Train form was checked: a sentence for each field that is wrong."""

    problems: dict[str, str]


@dataclass
class PlanRead(Picture):
    """What a run will need: what ``ecellm plan --json`` says, or why it says nothing."""

    value: dict[str, Any] | None
    problem: str


@dataclass
class RunLogged(Message):
    """New lines for a run's log."""

    lines: list[LogLine]


@dataclass
class Diagnosed(Message):
    """The doctor has spoken, or could not."""

    diagnosis: Diagnosis


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


@dataclass
class CommandSaid(Message):
    """A child command said a line."""

    run: CommandRun
    text: str


@dataclass
class CommandEnded(Message):
    """A child command has ended; its code and output are known."""

    run: CommandRun


@dataclass
class PlaceWanted(Message):
    """Go to a place and fill in what is known already, by field name.

    ``action`` is one of the place's own, run once the place knows what is there.
    """

    mode: str
    values: dict[str, str]
    action: str = ""


@dataclass
class ChildSaid(Message):
    """A ``LineChild`` sent an event."""

    event: dict[str, Any]


@dataclass
class ChildEnded(Message):
    """A ``LineChild`` ended by itself; ``words`` is the end of its stderr."""

    code: int
    words: str


@dataclass
class ExampleRead(Message):
    """A sample row for the form of a task; no values if there is none."""

    values: dict[str, str]
    reference: str


@dataclass
class AdaptersRead(Picture):
    """The adapters on disk were read."""

    entries: list[StoredAdapter]


@dataclass
class Inspected(Message):
    """An adapter was looked into: facts by name, or the problem."""

    path: str
    facts: dict[str, Any] | None
    problem: str


@dataclass
class EvaluationsRead(Picture):
    """The evaluations that a form asks for: a run or None for each column."""

    runs: list[RunDirectory | None]
    lines: list[Line]


@dataclass
class ComparisonRead(Message):
    """A column was compared with the base: what ``ecellm compare --json`` says."""

    column: int
    value: Any
    problem: str


@dataclass
class MissesRead(Picture):
    """Rows of a task that were answered otherwise."""

    task: str
    misses: list[Miss]
    problem: str = ""


@dataclass
class Progressed(Message):
    """A job that a screen waits for; None once there is none left.

    ``process`` comes once, with the first message of a job that was started here.
    """

    run: RunDirectory | None
    words: str
    process: subprocess.Popen[bytes] | None = None


@dataclass
class CatalogRunsRead(Picture):
    """Finished catalog runs, the newest first."""

    runs: list[Path]


@dataclass
class TableRead(Picture):
    """A table was looked at: what ``ecellm catalog show --json`` says."""

    value: Any
    problem: str


@dataclass
class PreviewRead(Message):
    """The first rows: what ``ecellm catalog preview --json`` says."""

    value: Any
    problem: str
    answered: bool


@dataclass
class ReviewRead(Message):
    """The review file of a run, or why there is none."""

    file: ReviewFile | None
    problem: str = ""


@dataclass
class Applied(Message):
    """Decisions were taken over: what ``ecellm catalog correct --json`` says."""

    value: Any
    problem: str
