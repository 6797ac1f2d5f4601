"""Read a file of predictions and fit it to its rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ecellm_mlx.data.rows import Row
from ecellm_mlx.errors import DataError


def read_predictions(path: Path, rows: Sequence[Row]) -> dict[str, str]:
    """Predictions by row id, one for every row and none beside.

    Raises:
        DataError: the file cannot be read; a line has no id or prediction; ids that
            are duplicate, missing or unknown, by name.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise DataError(f"{path} cannot be read", got=str(error.strerror)) from None
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8", got=str(error), cure="save it as UTF-8"
        ) from None
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            item = json.loads(line)
            key, prediction = item["id"], item["prediction"]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError.at(
                path,
                number,
                "no prediction",
                got=str(error),
                expected='{"id": …, "prediction": …}',
            ) from None
        if not isinstance(key, str) or not isinstance(prediction, str):
            raise DataError.at(path, number, "id and prediction must be text")
        if key in found:
            raise DataError.at(path, number, f"the id {key!r} is there twice", cure="keep one")
        found[key] = prediction
    known = {row.id for row in rows}
    if unknown := [key for key in found if key not in known]:
        raise DataError(
            f"{path} predicts rows that the labels do not have",
            got=_some(unknown),
            cure="give the file of rows that was predicted",
        )
    if missing := [row.id for row in rows if row.id not in found]:
        raise DataError(
            f"{path} lacks predictions",
            got=f"none for {_some(missing)}",
            cure="predict these rows too",
        )
    return found


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
