"""Models: what can be pulled, what is here, and whether it fits this machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import DataTable, Static
from textual.worker import get_current_worker

from ecellm_mlx import workspace
from ecellm_mlx.errors import EcellmError
from tui.cells import BAD, GOOD, WARNING, cell
from tui.child import CommandRun, command_line
from tui.dialog import Field
from tui.messages import ModelsRead, PlaceWanted
from tui.screens.base import PlaceScreen, chosen_row
from tui.widgets.activity import Activity
from tui.widgets.table import Table

REFRESH_S = 3.0
TIGHT = 0.8  # of the memory; above it, other programs may have to go
FITS = {"yes": GOOD, "tight": WARNING, "no": BAD}
FIT_MARKS = {"yes": "✓ ", "tight": "! ", "no": "✗ "}
COLUMNS = ("Model", "Here", "Fits?", "Size", "Bits", "Licence")


@dataclass(frozen=True)
class ModelEntry:
    """One model, known or installed. Sizes are in GB (10⁹ bytes), ``None`` unknown."""

    name: str
    title: str = ""
    here: bool = False
    size_gb: float | None = None
    bits: int | None = None
    licence: str = ""
    problem: str = ""
    path: str = ""
    install: str = ""
    gate: str = ""
    repo: str = ""
    base: str = ""
    model_type: str = ""
    parameters_b: float | None = None
    fit: str = ""
    fit_detail: str = ""


class ModelTable(Table):
    """The models; Enter trains with the one under the cursor."""

    BINDINGS = [Binding("enter", "select_cursor", "Train with it", id="models.train")]


class ModelsScreen(PlaceScreen):
    """A table of models, details of one, and commands on it."""

    PLACE = "models"
    HELP = """
    Models lists the paper's variants and their bases, and every model that is installed.

    Pull fetches the model under the cursor from the hub; an interrupted pull goes on
    where it was. Import turns a GGUF file into a model folder without loss; SmolLM2 comes
    out of an installed wheel, so that a first try needs no hub. Quantize writes a smaller
    copy. Nothing else in ecellm touches the network.

    "Fits?" compares what training and answering need with the memory of this machine.
    """
    BINDINGS = [
        Binding("p", "pull", "Pull", id="models.pull", tooltip="Install the chosen model"),
        Binding("i", "import", "Import GGUF", id="models.import"),
        Binding("z", "quantize", "Quantize", id="models.quantize"),
        Binding("g", "playground", "Try it", id="models.playground"),
    ]
    AUTO_FOCUS = "#models"

    def __init__(self) -> None:
        super().__init__()
        self.entries: dict[str, ModelEntry] = {}
        self._wanted = ""

    def body(self) -> ComposeResult:
        """The table, the details, the command."""
        with VerticalScroll(id="models-list", classes="pane", can_focus=False) as pane:
            pane.border_title = "Models"
            pane.border_subtitle = "enter train · p pull · i import · z quantize · g try"
            yield ModelTable(id="models", cursor_type="row")
        with VerticalScroll(id="model-details", classes="pane", can_focus=False) as pane:
            pane.border_title = "Details"
            yield Static(id="details", markup=False)
        yield Activity()

    def on_mount(self) -> None:
        """Read the list, now and then again."""
        table = self.query_one(ModelTable)
        for name in COLUMNS:
            table.add_column(name, key=name)
        self.set_interval(REFRESH_S, self._refresh)

    def look(self) -> None:
        """Something may have been installed meanwhile."""
        self._read()

    def preset(self, values: dict[str, str]) -> None:
        """Put the cursor on a model."""
        self._wanted = values.get("model", "")
        self._go_to_wanted()

    def command_ended(self, run: CommandRun) -> None:
        """Show what is new."""
        self._read()

    def action_pull(self) -> None:
        """Install the chosen model: a pull, or the import of its wheel."""
        if entry := self._chosen():
            words = (entry.install or f"ecellm models pull {entry.name}").split()[1:]
            self.run_command(words)

    def action_import(self) -> None:
        """Ask for a GGUF file and import it."""
        self.ask_command(
            "Import a GGUF file",
            "Weights are taken over exactly; the file stays as it is.",
            [
                Field("file", "File", hint="model.gguf"),
                Field("name", "Name", hint="its name here (optional)", optional=True),
            ],
            lambda v: [
                "models",
                "import",
                v["file"],
                *(["--name", v["name"]] if v["name"] else []),
            ],
        )

    def action_quantize(self) -> None:
        """Ask for the bits and quantize the chosen model."""
        entry = self._chosen()
        if not entry or not entry.here:
            self.notify("Install the model first: p pulls it.", severity="warning")
            return
        self.ask_command(
            f"Quantize {entry.name}",
            "Writes a smaller copy; the model itself stays as it is.",
            [Field("bits", "Bits", "4", choices=("4", "8"))],
            lambda v: ["models", "quantize", entry.name, "--bits", v["bits"]],
        )

    def action_playground(self) -> None:
        """Ask the chosen model something."""
        if entry := self._chosen():
            self.post_message(PlaceWanted("playground", {"model": entry.name}))

    @on(DataTable.RowSelected, "#models")
    def _row_selected(self, event: DataTable.RowSelected) -> None:
        event.stop()
        entry = self.entries[str(event.row_key.value)]
        if entry.here:
            self.post_message(PlaceWanted("train", {"model": entry.name}))
        else:
            self.notify(f"{entry.name} is not installed yet: p installs it.", markup=False)

    @on(DataTable.RowHighlighted, "#models")
    def _row_highlighted(self, event: DataTable.RowHighlighted) -> None:
        event.stop()
        self._show_details()

    @on(ModelsRead)
    def _models_read(self, event: ModelsRead) -> None:
        table = self.query_one(ModelTable)
        entries = {entry.name: entry for entry in event.entries}
        if list(entries) != list(self.entries):
            chosen = chosen_row(table)
            table.clear()
            for entry in event.entries:
                table.add_row(*self._cells(entry), key=entry.name)
            if chosen in entries:
                table.move_cursor(row=list(entries).index(chosen))
        else:
            for entry in event.entries:
                if entry != self.entries[entry.name]:
                    for column, cell in zip(COLUMNS, self._cells(entry), strict=True):
                        table.update_cell(entry.name, column, cell, update_width=True)
        self.entries = entries
        self._go_to_wanted()
        self._show_details()

    def _cells(self, entry: ModelEntry) -> list[Text]:
        if entry.problem:
            here = cell("✗ damaged", self.app, BAD)
        elif entry.here:
            here = cell("✓ yes", self.app, GOOD)
        else:
            here = cell("– no")
        return [
            cell(entry.name),
            here,
            cell(FIT_MARKS.get(entry.fit, "") + entry.fit, self.app, FITS.get(entry.fit, "")),
            cell("" if entry.size_gb is None else f"{entry.size_gb:.1f} GB"),
            cell(str(entry.bits or "–")),
            cell(entry.licence or "–"),
        ]

    def _chosen(self) -> ModelEntry | None:
        return self.entries.get(chosen_row(self.query_one(ModelTable)) or "")

    def _go_to_wanted(self) -> None:
        """Put the cursor where another place asked for it, once the row is there."""
        if self._wanted in self.entries:
            row = list(self.entries).index(self._wanted)
            self.query_one(ModelTable).move_cursor(row=row)
            self._wanted = ""

    def _show_details(self) -> None:
        if not (entry := self._chosen()):
            return
        self.query_one("#model-details").border_title = Content(entry.name)
        self.query_one("#details", Static).update(_details(entry))
        if entry.here:
            self.show_command(command_line(["models", "show", entry.name]))
        else:
            self.show_command(entry.install)

    def _refresh(self) -> None:
        if self.is_current:
            self._read()

    @work(thread=True, exclusive=True, group="models")
    def _read(self) -> None:
        try:
            entries = _entries()
        except (EcellmError, OSError) as error:
            self.app.call_from_thread(self.notify, str(error), severity="error", markup=False)
            return
        if not get_current_worker().is_cancelled:
            self.post_message(ModelsRead(entries))


def _entries() -> list[ModelEntry]:
    """All models: installed ones first, then those that can be had."""
    from ecellm_mlx.models import registry

    local = {model.name: model for model in registry.installed(workspace.current())}
    names = [*local, *(name for name in registry.REGISTRY if name not in local)]
    entries = []
    for name in names:
        model = local.get(name)
        card = registry.REGISTRY.get(name) or (model.card if model else None)
        entries.append(
            ModelEntry(
                name=name,
                title=card.title if card else "",
                here=model is not None,
                size_gb=model.size_gb if model else card.download_gb if card else None,
                bits=model.bits if model else None,
                licence=card.licence if card else "",
                problem=model.problem if model else "",
                path=_short(model.path) if model else "",
                install=card.install if card else "",
                gate=card.gate if card else "",
                repo=card.repo if card else "",
                base=card.base or "" if card else "",
                model_type=model.model_type if model else card.model_type if card else "",
                parameters_b=card.parameters_b if card else None,
                **_fit(name),
            )
        )
    return entries


def _fit(name: str) -> dict[str, str]:
    """Whether training fits into this machine's memory, on rows of ECInstruct's lengths."""
    from ecellm_mlx import device
    from ecellm_mlx.device import runtime
    from ecellm_mlx.models import shape
    from ecellm_mlx.training import memory, plan
    from ecellm_mlx.training.recipe import Recipe

    try:
        base, traits = shape.of(name), device.expected()
    except EcellmError as error:
        return {"fit": "?", "fit_detail": str(error)}
    recipe, limit = Recipe(), runtime.memory_limit_gb()
    lengths = plan.ECINSTRUCT_LENGTHS
    work = memory.workload(lengths, recipe)
    peak = memory.predict(base, recipe, work, traits).peak_gb
    detail = f"training by the paper's recipe peaks at {peak:.1f} of {limit:.1f} GiB"
    if peak <= limit:
        return {"fit": "yes" if peak <= TIGHT * limit else "tight", "fit_detail": detail}
    hint = plan.suggestions(base, recipe, lengths, limit, traits)[0]
    # With other settings it may fit all the same.
    return {
        "fit": "tight" if hint.startswith("--set") else "no",
        "fit_detail": f"{detail}; {hint}",
    }


def _short(path: Path) -> str:
    try:
        return str(Path("~") / path.relative_to(Path.home()))
    except ValueError:
        return str(path)


def _details(entry: ModelEntry) -> Content:
    facts = [
        ("what", entry.title),
        ("problem", entry.problem),
        ("fits?", entry.fit_detail),
        ("size", "" if entry.parameters_b is None else f"{entry.parameters_b:g} B parameters"),
        ("kind", entry.model_type),
        ("base", entry.base),
        ("hub", "" if entry.here else entry.repo),
        ("needs", entry.gate),
        ("folder", entry.path),
    ]
    lines = [
        Content.styled(label.ljust(9), "$foreground 65%") + Content(value)
        for label, value in facts
        if value
    ]
    return Content("\n").join(lines)
