"""A model card says what is known, and nothing of the machine it was written on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ecellm_mlx.data.prompts import Frame
from ecellm_mlx.export import card, card_text


def test_metrics_of_an_evaluation_stand_on_the_card(
    ecellm: Any, tiny: Path, dataset: Path, tmp_path: Path
) -> None:
    run = tmp_path / "eval"
    done = ecellm(
        "eval", "--model", tiny, "--data", dataset / "test.jsonl", "--task", "SA",
        "--limit", "2", "--out", run,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    out = tmp_path / "hf"
    done = ecellm("export", "hf", tiny, out, "--eval", run)
    assert done.returncode == 0, done.stderr
    scores = json.loads((run / "metrics.json").read_text())
    facts = card.Provenance(
        "hf", card.Base("llama", None, ()), Frame.ALPACA, "float32", {"metrics": {}},
        scores=(scores,),
    )  # fmt: skip
    text = card_text.render(facts)
    assert "2 rows on a subset: not comparable to the paper" in text
    assert "| Sentiment_Analysis | IND_Diverse_Instruction | valid | macro F1 |" in text
    written = (out / "README.md").read_text()
    assert "| Sentiment_Analysis | IND_Diverse_Instruction | valid | macro F1 |" in written
    assert str(tmp_path) not in written
    missing = ecellm("export", "hf", tiny, tmp_path / "x", "--eval", tmp_path)
    assert missing.returncode == 1
    assert "no finished evaluation" in missing.stderr


@pytest.mark.parametrize(
    ("name", "licence", "says"),
    [
        ("phi-2", "mit", "phi-2: MIT."),
        ("ecellm-l", "llama2", "built on a model under: Llama 2 Community License."),
        ("ecellm-m", "cc-by-4.0", "built on a model under: Apache-2.0."),
        ("somebody/model", "unknown", "find it out before you share this"),
    ],
)
def test_licences_of_the_base_are_kept(name: str, licence: str, says: str) -> None:
    base = card.base_of(name, None)
    assert base.licence_id == licence
    facts = card.Provenance("gguf", base, Frame.ALPACA, "GGUF F16", file="x.gguf")
    text = card_text.render(facts)
    assert says in text
    assert f"license: {licence}\n" in text
    assert "FROM ./x.gguf" in text
    assert 'TEMPLATE "{{ .Prompt }}"' in text
