"""What a person is shown of a row's tokens is what training makes of it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from ecellm_mlx import sample
from ecellm_mlx.data import rows, token_view
from ecellm_mlx.data.encoding import encode_row
from ecellm_mlx.data.prompts import Frame, prompt
from ecellm_mlx.errors import ModelError
from ecellm_mlx.models.tokenizer import load_tokenizer


@pytest.fixture(scope="module")
def chosen() -> list[rows.Row]:
    found = rows.load(sample.folder() / "train.jsonl")
    return [next(row for row in found if row.task == task) for task in {r.task for r in found}]


@pytest.mark.parametrize("cutoff", [64, 2048])
def test_counts_are_those_of_training(
    smollm2: Path, chosen: list[rows.Row], cutoff: int
) -> None:
    own = token_view.FileTokenizer(smollm2)
    theirs = load_tokenizer(smollm2)
    assert own.eos_token_id == theirs.eos_token_id
    for row in chosen:
        seen = token_view.view(row, own, Frame.ALPACA, cutoff)
        trained = encode_row(row, theirs, Frame.ALPACA, cutoff)
        assert seen.supervised == len(trained.target_positions)
        assert seen.text[: seen.prompt_end] == prompt(row, Frame.ALPACA)
        assert seen.tokens == len(theirs.encode(seen.text))
        if seen.tokens <= cutoff:
            assert seen.kept_end == len(seen.text)
        else:
            kept = seen.text[: seen.kept_end]
            assert theirs.decode(trained.tokens) == kept


def test_the_process_answers_and_loads_nothing_heavy(
    smollm2: Path, chosen: list[rows.Row], tmp_path: Path
) -> None:
    row = asdict(chosen[0])
    requests = [
        {"id": 1, "model": str(smollm2), "max_length": 2048, "row": row},
        {"id": 2, "model": str(tmp_path), "max_length": 2048, "row": row},
        {"id": 3, "row": row},
    ]
    program = (
        "import sys; from ecellm_mlx.data import token_view as view;"
        "view.main(sys.stdin, sys.stdout);"
        "heavy = {'mlx', 'transformers', 'torch'} & set(sys.modules); assert not heavy, heavy"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        input="".join(json.dumps(request) + "\n" for request in requests),
        capture_output=True,
        text=True,
        check=True,
    )
    first, second, third = map(json.loads, done.stdout.splitlines())
    assert first["id"] == 1
    assert first["tokens"] > first["prompt_tokens"] > 0
    assert "no tokenizer.json" in second["message"]
    assert third["event"] == "error"


def test_a_damaged_tokenizer_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="cannot be read"):
        token_view.FileTokenizer(tmp_path)
