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
            self.command = command
            self.update(Content(command))

    async def on_click(self) -> None:
        """Copy, as the key does."""
        await self.app.run_action("screen.copy")
