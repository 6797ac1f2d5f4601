"""Adapters: what was trained or brought here, and the ways out."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import DataTable, Static
from textual.worker import get_current_worker

from tui import child, formats, on_disk, places
from tui.cells import cell
from tui.child import CommandRun, command_line
from tui.dialog import Field
from tui.messages import AdaptersRead, Inspected, PlaceWanted
from tui.on_disk import StoredAdapter
from tui.screens.base import PlaceScreen, chosen_row
from tui.widgets.activity import Activity
from tui.widgets.facts import MUTED
from tui.widgets.table import Table

REFRESH_S = 3.0
TRAIN_KEY = places.find("train").key_label
NO_ADAPTERS = (
    f"No adapters yet.\n\nTrain one ({TRAIN_KEY}), or bring one in PEFT format with i. "
    "Finished runs show up here by themselves."
)


class AdapterTable(Table):
    """The adapters; Enter inspects the one under the cursor."""

    BINDINGS = [Binding("enter", "select_cursor", "Inspect", id="adapters.inspect")]


class AdaptersScreen(PlaceScreen):
    """A table of adapters, facts about one, and commands on it."""

    PLACE = "adapters"
    HELP = """
    Adapters lists what your runs have trained, and what you have imported.

    To PEFT and from PEFT convert exactly; verify proves it on your own files, tensor by
    tensor. Fuse merges an adapter into its base. Export hands the merged model over as
    GGUF (Ollama, LM Studio) or as a Hugging Face folder. Push is the only one that touches
    the network, and asks first.
    """
    BINDINGS = [
        Binding("p", "to_peft", "To PEFT", id="adapters.to-peft"),
        Binding("i", "from_peft", "From PEFT", id="adapters.from-peft"),
        Binding("v", "verify", "Verify", id="adapters.verify"),
        Binding("f", "fuse", "Fuse", id="adapters.fuse"),
        Binding("e", "export", "Export", id="adapters.export"),
        Binding("u", "push", "Push", id="adapters.push"),
        Binding("g", "playground", "Try it", show=False, id="adapters.playground"),
    ]
    AUTO_FOCUS = "#adapters"

    def __init__(self) -> None:
        super().__init__()
        self.entries: dict[str, StoredAdapter] = {}
        self._facts: dict[str, tuple[Any, str]] = {}

    def body(self) -> ComposeResult:
        """The table, the facts, the command."""
        with VerticalScroll(id="adapter-list", classes="pane", can_focus=False) as pane:
            pane.border_title = "Adapters"
            pane.border_subtitle = (
                "enter inspect · p to, i from PEFT · v verify · f fuse · e export · u push"
            )
            yield Static(NO_ADAPTERS, id="no-adapters", markup=False)
            yield AdapterTable(id="adapters", cursor_type="row")
        with VerticalScroll(id="adapter-details", classes="pane", can_focus=False) as pane:
            pane.border_title = "Details"
            yield Static(id="details", markup=False)
        yield Activity()

    def on_mount(self) -> None:
        """Read the list, now and then again."""
        table = self.query_one(AdapterTable)
        for name in ("Adapter", "Base", "Format", "Size", "Age"):
            table.add_column(name, key=name)
        table.display = False
        self.set_interval(REFRESH_S, self._refresh)

    def look(self) -> None:
        """A run may have finished meanwhile."""
        self._read()

    def command_ended(self, run: CommandRun) -> None:
        """Something may have come in."""
        self._read()

    def action_to_peft(self) -> None:
        """Ask where to, then convert."""
        if entry := self._wanted():
            self.ask_command(
                f"{entry.name} to PEFT",
                "Writes the same update in the Hugging Face PEFT format.",
                [
                    Field("out", "Folder", hint="a new folder"),
                    Field("base", "Base", entry.base, hint="hub name or folder", optional=True),
                ],
                lambda v: [
                    *("adapters", "to-peft", entry.reference, v["out"]),
                    *(["--base", v["base"]] if v["base"] else []),
                ],
            )

    def action_from_peft(self) -> None:
        """Ask for a PEFT folder and its base, then convert."""
        folder = str(on_disk.adapters_folder())
        self.ask_command(
            "Import a PEFT adapter",
            "Converts it exactly, or says by name what cannot be represented.",
            [
                Field("peft", "PEFT folder", hint="folder with adapter_config.json"),
                Field("base", "Base", hint="installed model"),
                Field("out", "Folder", f"{folder}/imported"),
            ],
            lambda v: ["adapters", "from-peft", v["peft"], v["out"], "--base", v["base"]],
        )

    def action_verify(self) -> None:
        """Ask for the other side and compare."""
        if entry := self._wanted():
            self.ask_command(
                f"Verify {entry.name}",
                "Compares with a PEFT adapter, tensor by tensor; with the base also logits.",
                [
                    Field("peft", "PEFT folder", hint="folder with adapter_config.json"),
                    Field(
                        "base",
                        "Base",
                        hint="model; compares logits, too (optional)",
                        optional=True,
                    ),
                ],
                lambda v: [
                    *("adapters", "verify", entry.reference, v["peft"]),
                    *(["--base", v["base"]] if v["base"] else []),
                ],
            )

    def action_fuse(self) -> None:
        """Ask where to, then merge into the base."""
        if entry := self._wanted():
            self.ask_command(
                f"Fuse {entry.name}",
                "Merges the adapter into a full copy of its base. A quantized base is "
                "de-quantized first, so that nothing learned is rounded away.",
                [
                    Field("out", "Folder", hint="a new folder"),
                    Field("base", "Base", entry.base, hint="installed model"),
                    Field("bits", "Quantize", "no", choices=("no", "4", "8")),
                ],
                lambda v: [
                    *("adapters", "fuse", entry.reference, v["out"], "--base", v["base"]),
                    *(["--quantize", v["bits"]] if v["bits"] != "no" else []),
                ],
            )

    def action_export(self) -> None:
        """Ask for format and place, then export."""
        if entry := self._wanted():
            self.ask_command(
                f"Export {entry.base or 'the base'} with {entry.name}",
                "gguf is for llama.cpp, Ollama and LM Studio; hf for everything that reads "
                "Hugging Face folders.",
                [
                    Field("format", "Format", "gguf", choices=("gguf", "hf")),
                    Field("out", "Folder", hint="a new folder"),
                    Field("base", "Base", entry.base, hint="installed model", optional=True),
                ],
                lambda v: [
                    *("export", v["format"], entry.reference, v["out"]),
                    *(["--base", v["base"]] if v["base"] else []),
                ],
            )

    def action_push(self) -> None:
        """Ask for the repository, then upload."""
        if entry := self._wanted():
            self.ask_command(
                f"Push {entry.name}",
                "Uploads to the hub with your token; a dry run says what would be sent.",
                [
                    Field("repo", "Repository", hint="owner/name"),
                    Field("who", "Who sees it", "private", choices=("private", "public")),
                    Field("dry", "Only try", "yes", choices=("yes", "no")),
                ],
                lambda v: [
                    *("push", entry.reference, v["repo"]),
                    *(["--private"] if v["who"] == "private" else []),
                    *(["--dry-run"] if v["dry"] == "yes" else []),
                ],
            )

    def action_playground(self) -> None:
        """Ask base and adapter something."""
        if entry := self._wanted():
            self.post_message(
                PlaceWanted("playground", {"model": entry.base, "adapter": entry.reference})
            )

    @on(DataTable.RowSelected, "#adapters")
    def _row_selected(self, event: DataTable.RowSelected) -> None:
        event.stop()
        if entry := self._chosen():
            self.query_one("#details", Static).update("Inspecting …")
            self._inspect(str(entry.path), entry.reference)

    @on(DataTable.RowHighlighted, "#adapters")
    def _row_highlighted(self, event: DataTable.RowHighlighted) -> None:
        event.stop()
        self._show_details()

    @on(AdaptersRead)
    def _adapters_read(self, event: AdaptersRead) -> None:
        table = self.query_one(AdapterTable)
        entries = {str(entry.path): entry for entry in event.entries}
        self.query_one("#no-adapters").display = not entries
        had_focus = table.has_focus or self.focused is None
        table.display = bool(entries)
        if list(entries) != list(self.entries):
            chosen = chosen_row(table)
            table.clear()
            for key, entry in entries.items():
                table.add_row(
                    cell(entry.name),
                    cell(entry.base or "unknown"),
                    cell(entry.kind),
                    cell(f"{entry.size_mb:.1f} MB"),
                    cell(formats.age(time.time() - entry.modified)),
                    key=key,
                )
            if chosen in entries:
                table.move_cursor(row=list(entries).index(chosen))
            if had_focus and entries and self.is_current:
                table.focus()
        self.entries = entries
        self._show_details()

    @on(Inspected)
    def _inspected(self, event: Inspected) -> None:
        self._facts[event.path] = (event.facts, event.problem)
        self._show_details()

    def _chosen(self) -> StoredAdapter | None:
        return self.entries.get(chosen_row(self.query_one(AdapterTable)) or "")

    def _wanted(self) -> StoredAdapter | None:
        """The chosen adapter; says where they come from when there is none."""
        if not (entry := self._chosen()):
            self.notify(
                f"There is no adapter yet: {TRAIN_KEY} trains one, i imports one.", timeout=5
            )
        return entry

    def _show_details(self) -> None:
        entry = self._chosen()
        if entry is None:
            self.show_command("ecellm adapters from-peft PEFT OUT --base MODEL")
            return
        self.query_one("#adapter-details").border_title = Content(entry.name)
        self.show_command(command_line(["adapters", "inspect", entry.reference]))
        facts, problem = self._facts.get(str(entry.path), (None, ""))
        if problem:
            text = Content.styled(f"✗ {problem}", "$text-error")
        elif facts:
            text = Content("\n").join(
                Content.styled(str(name).ljust(12), MUTED) + Content(_value(value))
                for name, value in facts.items()
                if value not in (None, "", [])
            )
        else:
            text = Content(str(entry.path)) + Content.styled("\nenter inspects it", MUTED)
        self.query_one("#details", Static).update(text)

    def _refresh(self) -> None:
        if self.is_current:
            self._read()

    @work(thread=True, exclusive=True, group="adapters")
    def _read(self) -> None:
        entries = on_disk.adapters()
        if not get_current_worker().is_cancelled:
            self.post_message(AdaptersRead(entries))

    @work(thread=True, group="inspect")
    def _inspect(self, path: str, reference: str) -> None:
        facts, problem = child.ask(["adapters", "inspect", reference, "--json"])
        self.post_message(Inspected(path, facts, problem))


def _value(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{key} {_value(item)}" for key, item in value.items())
    if isinstance(value, float):
        return formats.number(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(Path(value)) if isinstance(value, Path) else str(value)
