"""Every setting of a recipe as a row of a form, made from its declaration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.message import Message
from textual.widget import Widget
from textual.widgets import Input, Static

from ecellm_mlx.settings import Setting, as_text, described
from ecellm_mlx.training.recipe import Recipe
from tui.widgets.cycle import Cycle
from tui.widgets.problem import Problem


class SettingRow(Widget):
    """One setting. It is marked while it differs from the recipe or is wrong.

    The row draws the name itself, and its only child beside it: a form of labels
    would have twice the widgets, and be felt to open.
    """

    BINDINGS = [
        Binding("up", "app.focus_previous", "Setting above", show=False, id="setting.up"),
        Binding("down", "app.focus_next", "Setting below", show=False, id="setting.down"),
    ]

    @dataclass
    class Changed(Message):
        """The text of a setting is another one now."""

        row: SettingRow

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self.key, self.kind, self.doc = setting.key, setting.kind, setting.doc
        self.base = self._told = as_text(setting.default)
        self._choices = setting.choices

    def render(self) -> Content:
        """The name."""
        return Content(self.key)

    def compose(self) -> ComposeResult:
        """The value."""
        if self._choices:
            yield Cycle(self._choices, self.base)
        else:
            yield Input(self.base, compact=True)

    @property
    def text(self) -> str:
        """The value as it stands in the form."""
        if self._choices:
            return self.query_one(Cycle).value
        return self.query_one(Input).value.strip()

    @property
    def changed(self) -> bool:
        """Whether the user wants something other than the recipe."""
        return self.text != self.base

    def rebase(self, base: str) -> None:
        """Take the recipe's value; what the user changed stays."""
        keep = self.changed
        self.base = base
        if not keep:
            self._write(base)
        self.set_class(self.changed, "-changed")

    def change(self, text: str) -> None:
        """Take ``text`` as the user's value."""
        self._write(text)
        self.set_class(self.changed, "-changed")

    def reset(self) -> None:
        """Back to the recipe's value."""
        self._write(self.base)
        self.remove_class("-changed")

    @on(Input.Changed)
    @on(Cycle.Changed)
    def _edited(self, event: Message) -> None:
        event.stop()
        if self.text == self._told:
            # An Input reports its first value as a change, too.
            return
        self._told = self.text
        self.set_class(self.changed, "-changed")
        self.post_message(self.Changed(self))

    def _write(self, text: str) -> None:
        self._told = text
        with self.prevent(Input.Changed, Cycle.Changed):
            if self._choices:
                self.query_one(Cycle).value = text
            else:
                self.query_one(Input).value = text


class RecipeForm(Vertical):
    """All settings, with the explanation of the one in focus, or what is wrong."""

    @dataclass
    class Changed(Message):
        """A setting was edited."""

    def compose(self) -> ComposeResult:
        """The rows above, one explanation below."""
        with VerticalScroll(can_focus=False):
            yield from map(SettingRow, described(Recipe))
        yield Static(id="explanation", markup=False)
        yield Problem(id="recipe-problem")

    @property
    def overrides(self) -> tuple[str, ...]:
        """``key=value`` for each setting that differs from the recipe."""
        return tuple(f"{row.key}={row.text}" for row in self.query(SettingRow) if row.changed)

    def load(self, values: dict[str, Any]) -> None:
        """Show a recipe's values."""
        for row in self.query(SettingRow):
            row.rebase(as_text(values[row.key]))

    def change(self, values: dict[str, str]) -> None:
        """Change some settings, as if they had been typed."""
        for row in self.query(SettingRow):
            if row.key in values:
                row.change(values[row.key])
        if values:
            self.post_message(self.Changed())

    def reset(self) -> None:
        """Drop all changes."""
        for row in self.query(SettingRow):
            row.reset()
        self.post_message(self.Changed())

    def complain(self, problem: str) -> None:
        """Show what is wrong and mark the settings that it names."""
        words = set(problem.replace("=", " ").replace("'", " ").split())
        for row in self.query(SettingRow):
            row.set_class(row.key in words, "-invalid")
        self.query_one(Problem).show(problem)
        self.set_class(bool(problem), "-invalid")

    @on(SettingRow.Changed)
    def _row_changed(self, event: SettingRow.Changed) -> None:
        event.stop()
        self.post_message(self.Changed())

    def on_descendant_focus(self, event: events.DescendantFocus) -> None:
        """Explain the setting that the cursor is in."""
        for node in event.widget.ancestors_with_self:
            if isinstance(node, SettingRow):
                text = f"{node.key} ({node.kind}): {node.doc}"
                # Its height is fixed.
                self.query_one("#explanation", Static).update(text, layout=False)
