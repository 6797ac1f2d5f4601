"""The one error of this package."""

from __future__ import annotations


class ConversionError(ValueError):
    """A file that is damaged, or that holds what the target format cannot represent.

    The message is one sentence that names the file or tensor and the cure.
    """
