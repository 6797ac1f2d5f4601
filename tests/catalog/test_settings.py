"""Settings of catalog jobs: what is kept of them is what was always kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ecellm_mlx.catalog.settings import CatalogJob, CatalogSettings
from ecellm_mlx.errors import UsageError
from ecellm_mlx.matching.settings import MatchJob, MatchSettings
from ecellm_mlx.tasks.values import Values

# As a ``job.json`` of version 0.1 has them.
COMMON: dict[str, Any] = {
    "model": "/models/tiny", "model_name": "tiny", "adapter": None, "out": "/out.csv",
    "batch_size": 4, "new": True, "pause_on_battery": 20.0, "pause_on_memory": None,
}  # fmt: skip
QUESTION = {
    "task_name": None, "columns": {"title": "name"}, "constants": {}, "instruction": "Choose.",
    "labels": ["a", "b"], "name": "label", "max_words": 7,
}  # fmt: skip
CATALOG = {
    "table": "/shop.csv", "reading": {"encoding": "utf-8", "delimiter": None, "sheet": None},
    "values": "source", "review_below": 0.5, "question": QUESTION, "task": None, **COMMON,
}  # fmt: skip
MATCH = {
    "left": "/l.csv", "right": "/r.csv", "left_columns": {"title": "name (new)"},
    "right_columns": {"title": "title"}, "values": "free", "top": 3, "truth": "/known.csv",
    "threshold": None, "one_to_one": True, "review_band": [0.2, 0.7],
    "question": QUESTION | {"task_name": "Product_Matching", "labels": []},
    "task": "Product_Matching", **COMMON,
}  # fmt: skip


def test_runs_of_earlier_versions_are_read() -> None:
    catalog, match = CatalogJob.from_json(CATALOG), MatchJob.from_json(MATCH)
    # Settings that came later are as if they had not been given.
    later = {"quote": None, "header_row": None}
    expected = {**CATALOG, "normalise": False, "reading": {**CATALOG["reading"], **later}}
    assert (catalog.to_json(), match.to_json()) == (expected, MATCH)
    assert catalog.settings.values is Values.SOURCE
    assert match.settings.review_band == (0.2, 0.7)
    assert catalog.identity("abc") == {
        "task": None, "mapping": [[("title", "name")], []], "instruction": "Choose.",
        "labels": ["a", "b"], "max-words": 7, "values": "source", "model": "abc",
        "adapter": None,
    }  # fmt: skip


def test_problems_are_told_together() -> None:
    with pytest.raises(UsageError) as caught:
        CatalogSettings(model="m", out=Path("o"), review_below=7.0, batch_size=0)
    assert "--review-below is no confidence: expected 0 to 1, got 7.0" in str(caught.value)
    assert "--batch-size must be at least 1" in str(caught.value)
    with pytest.raises(UsageError, match="no --model was given"):
        MatchSettings(out=Path("o"))
