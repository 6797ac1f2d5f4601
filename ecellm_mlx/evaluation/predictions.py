"""Read files of predictions and fit them to their rows.

A file is JSON Lines of ``{"id", "prediction"}``, with whatever else beside; a run
stands for the predictions in it. Ids may come in any order.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ecellm_mlx.data.rows import Row
from ecellm_mlx.errors import DataError

FILE = "predictions.jsonl"


@dataclass(frozen=True)
class Predictions:
    """Answers by row id, and the probabilities of those that have one."""

    path: Path
    answers: dict[str, str]
    probabilities: dict[str, float]


def read(path: Path) -> Predictions:
    """All predictions of a file, or of a run that holds one.

    Raises:
        DataError: the file cannot be read or is empty; a line has no id or prediction; an
            id is there twice.
    """
    path = path / FILE if path.is_dir() else path
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise DataError(
            f"{path} cannot be read",
            got=str(error.strerror).lower(),
            cure="give a file of predictions, or a finished run",
        ) from None
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8", got=str(error), cure="save it as UTF-8"
        ) from None
    answers: dict[str, str] = {}
    probabilities: dict[str, float] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            item = json.loads(line)
            key, prediction = item["id"], item["prediction"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DataError.at(
                path,
                number,
                "no prediction",
                got=f"no {error}" if isinstance(error, KeyError) else str(error),
                expected='{"id": …, "prediction": …}',
            ) from None
        if isinstance(key, int) and not isinstance(key, bool):
            key = str(key)
        if not isinstance(key, str) or not isinstance(prediction, str):
            raise DataError.at(path, number, "id and prediction must be text")
        if key in answers:
            raise DataError.at(path, number, f"the id {key!r} is there twice", cure="keep one")
        answers[key] = prediction
        if isinstance(item.get("probability"), float):
            probabilities[key] = item["probability"]
    if not answers:
        raise DataError(f"{path} is empty", expected='lines of {"id": …, "prediction": …}')
    return Predictions(path, answers, probabilities)


def require_all(predictions: Predictions, rows: Sequence[Row]) -> None:
    """Check that there is a prediction for every row and none beside.

    Raises:
        DataError: ids that are missing or unknown, by name.
    """
    refuse_strangers(predictions, rows)
    if missing := [row.id for row in rows if row.id not in predictions.answers]:
        raise DataError(
            f"{predictions.path} lacks predictions for {len(missing)} of {len(rows)} rows",
            got=f"none for {_some(missing)}",
            cure="predict these rows too",
        )


def read_pair(
    first: Path, second: Path, rows: Sequence[Row]
) -> tuple[Predictions, Predictions]:
    """Two sets of predictions of the same rows, which may be some of ``rows``.

    Raises:
        DataError: as ``read``; also ids that only one of them has, or that no row has.
    """
    pair = read(first), read(second)
    for one in pair:
        refuse_strangers(one, rows)
    for one, other in (pair, pair[::-1]):
        if lacking := [key for key in one.answers if key not in other.answers]:
            raise DataError(
                f"{one.path} and {other.path} are not of the same rows",
                got=f"{_some(lacking)} in the first only",
                cure="compare predictions of the same rows",
            )
    return pair


def refuse_strangers(predictions: Predictions, rows: Sequence[Row]) -> None:
    """Raise ``DataError`` if a prediction belongs to no row."""
    known = {row.id for row in rows}
    if unknown := [key for key in predictions.answers if key not in known]:
        raise DataError(
            f"{predictions.path} predicts {len(unknown)} rows that the labels do not have",
            got=_some(unknown),
            cure="give the file of rows that was predicted",
        )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
