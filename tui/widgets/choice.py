"""A list to choose from, with room for a path that is not in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.message import Message
from textual.widgets import Input, Label, Select

from tui.widgets.problem import Problem

OTHER = "\0other"


class Choice(Vertical):
    """A labelled ``Select``; its last entry opens an ``Input``. A problem shows below."""

    @dataclass
    class Changed(Message):
        """The value is another one now."""

        choice: Choice

        @property
        def control(self) -> Choice:
            """The sender, for ``@on`` selectors."""
            return self.choice

    def __init__(
        self,
        label: str,
        *,
        id: str,
        prompt: str,
        other: str,
        placeholder: str,
        options: list[tuple[str, str]] | None = None,
        value: str | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(id=id, name=name)
        self._label, self._prompt = label, prompt
        self._other, self._placeholder = other, placeholder
        self._options = options or []
        self._start = value

    def compose(self) -> ComposeResult:
        """Label and list, the path, the problem."""
        with Horizontal(classes="choice-row"):
            yield Label(self._label, classes="choice-label", markup=False)
            yield Select(
                self._entries(),
                prompt=self._prompt,
                value=Select.NULL if self._start is None else self._start,
                allow_blank=self._start is None,
                compact=True,
            )
        yield Input(placeholder=self._placeholder, compact=True, classes="choice-path")
        yield Problem()

    @property
    def value(self) -> str | None:
        """The chosen value or the typed path; None while nothing is chosen."""
        chosen = self.query_one(Select).value
        if chosen == OTHER:
            text = self.query_one(Input).value.strip()
            # A shell would expand this, but not once the path is quoted.
            return str(Path(text).expanduser()) if text.startswith("~/") else text
        return chosen if isinstance(chosen, str) else None

    def offer(self, options: list[tuple[str, str]]) -> None:
        """Replace the options; what is chosen stays, or else the first is taken."""
        if options == self._options:
            return
        select = self.query_one(Select)
        chosen = select.value
        self._options = options
        with self.prevent(Select.Changed):
            select.set_options(self._entries())
            values = [value for _, value in options]
            typed = self.query_one(Input).value.strip()
            if chosen == OTHER and typed in values:
                # What was asked for before it was known is here now.
                chosen = typed
                self.remove_class("-other")
            if chosen == OTHER or chosen in values:
                select.value = chosen
            elif values:
                select.value = values[0]
        self.post_message(self.Changed(self))

    def choose(self, value: str) -> None:
        """Choose ``value``, as a path if it is none of the options (yet)."""
        select = self.query_one(Select)
        if value in [known for _, known in self._options]:
            select.value = value
        else:
            select.value = OTHER
            self.query_one(Input).value = value

    def complain(self, problem: str) -> None:
        """Show ``problem`` below the list; an empty one clears it."""
        self.query_one(Problem).show(problem)
        self.set_class(bool(problem), "-invalid")

    @on(Select.Changed)
    def _select_changed(self, event: Select.Changed) -> None:
        event.stop()
        other = event.value == OTHER
        self.set_class(other, "-other")
        if other and self.query_one(Select).has_focus_within:
            self.query_one(Input).focus()
        self.post_message(self.Changed(self))

    @on(Input.Changed)
    def _path_changed(self, event: Input.Changed) -> None:
        event.stop()
        self.post_message(self.Changed(self))

    def _entries(self) -> list[tuple[Content, str]]:
        # Content, because a path may hold square brackets, which markup would eat.
        entries = [(Content(label), value) for label, value in self._options]
        return [*entries, (Content.styled(self._other, "italic"), OTHER)]
