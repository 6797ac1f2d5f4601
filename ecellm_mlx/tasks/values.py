"""What the values of extracted attributes may be; loads no model and no grammar."""

from __future__ import annotations

from enum import StrEnum

from ecellm_mlx.errors import UsageError


class Values(StrEnum):
    """``SOURCE``: words of the field that is named as the source. ``FREE``: any text."""

    SOURCE = "source"
    FREE = "free"


def parse(text: str) -> Values:
    """The choice that ``--values`` names.

    Raises:
        UsageError: it names none.
    """
    if text not in list(Values):
        raise UsageError(f"--values {text} is unknown", expected=" or ".join(Values))
    return Values(text)
