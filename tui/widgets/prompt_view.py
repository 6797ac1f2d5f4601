"""A row as a model reads it: prompt, supervised part, and what the cutoff takes away."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from textual.content import Content
from textual.widgets import Static

from tui.widgets.facts import MUTED

if TYPE_CHECKING:
    from ecellm_mlx.data.rows import Row

LEARNED, CUT = "underline bold $text-success", "strike $text-error"


class PromptView(Static):
    """Draws events of ``ecellm_mlx.data.token_view``. Marks never rely on colour alone."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id, markup=False)

    @staticmethod
    def title(event: dict[str, Any]) -> str:
        """A pane's title: the counts."""
        if "tokens" not in event:
            return "Prompt"
        cut = event["kept_end"] < len(event["text"])
        words = f"Prompt, {event['tokens']:,} tokens, {event['supervised']} supervised"
        return words + (", cut" if cut else "")

    def show_plain(self, row: Row) -> None:
        """Draw a row whose tokens are not known (yet)."""
        from ecellm_mlx.data.prompts import Frame, prompt

        text = prompt(row, Frame.ALPACA)
        self._draw(text + row.output, len(text), len(text) + len(row.output))

    def show(self, event: dict[str, Any]) -> None:
        """Draw an event, or its message."""
        if "text" not in event:
            self.update(Content.styled(str(event.get("message", "")), MUTED))
            return
        self._draw(event["text"], int(event["prompt_end"]), int(event["kept_end"]))

    def _draw(self, text: str, prompt_end: int, kept_end: int) -> None:
        content = Content(text)
        content = content.stylize(LEARNED, prompt_end, max(prompt_end, kept_end))
        legend = [Content.styled("underlined", LEARNED), Content.styled(" is learned", MUTED)]
        if kept_end < len(text):
            content = content.stylize(CUT, kept_end)
            legend += [
                Content.styled(" · ", MUTED),
                Content.styled("struck", CUT),
                Content.styled(" is cut off", MUTED),
            ]
        self.update(Content("").join([*legend, Content("\n"), content]))
