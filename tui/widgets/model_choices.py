"""The choices that forms have in common: an installed model, and an adapter or none."""

from __future__ import annotations

from tui.on_disk import Options
from tui.widgets.choice import Choice


class ModelChoice(Choice):
    """An installed model, or a folder that holds one."""

    def __init__(self, label: str = "Model", *, id: str = "model") -> None:
        super().__init__(
            label,
            id=id,
            prompt="no model installed",
            other="a folder …",
            placeholder="folder with config.json and weights",
        )


class AdapterChoice(Choice):
    """An adapter by its run or folder; ``none`` is the first option, with an empty value."""

    def __init__(
        self,
        label: str = "Adapter",
        *,
        id: str = "adapter",
        none: str = "no adapter, the base alone",
    ) -> None:
        self._none = (none, "")
        super().__init__(
            label,
            id=id,
            prompt=none,
            other="a folder or run …",
            placeholder="run or adapter folder",
            options=[self._none],
            value="",
        )

    def offer(self, options: Options) -> None:
        """Replace the adapters; none stays the first."""
        super().offer([self._none, *options])
