"""The ``ecellm`` command that does what the screen does; a click copies it."""

from __future__ import annotations

from textual.content import Content
from textual.widgets import Static


class CommandLine(Static):
    """One command. Its plain text is the command and nothing else."""

    DEFAULT_CSS = "CommandLine { height: auto; }"

    def __init__(self, *, id: str = "command") -> None:
        super().__init__(id=id, markup=False)
        self.command = ""

    def show(self, command: str) -> None:
        """Draw ``command``."""
        if command != self.command:
            # It changes with every letter: the screen is laid out anew for another line only.
            lines = self._lines()
            self.command = command
            self.update(Content(command), layout=self._lines() != lines)

    def _lines(self) -> int:
        width = self.content_size.width
        return len(Content(self.command).wrap(width)) if width else 0

    async def on_click(self) -> None:
        """Copy, as the key does."""
        await self.app.run_action("screen.copy")
