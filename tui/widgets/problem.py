"""What is wrong with a form, in one sentence; takes no room while nothing is."""

from __future__ import annotations

from textual.widgets import Static


class Problem(Static):
    """Hidden until ``show`` is given a sentence. ``sentence`` is what stands there."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id, classes="problem", markup=False)
        self.sentence = ""

    def show(self, sentence: str) -> None:
        """Say ``sentence``; an empty one takes the last one back."""
        if sentence != self.sentence:
            self.sentence = sentence
            self.update(sentence)
            self.display = bool(sentence)
