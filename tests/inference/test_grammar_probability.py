"""An attribute list comes with its probability among all lists that were allowed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ecellm_mlx import sample
from ecellm_mlx.data import rows
from ecellm_mlx.inference.answers import Answerer
from ecellm_mlx.inference.grammar import Grammar
from ecellm_mlx.models import loading
from ecellm_mlx.models.tokenizer import load_tokenizer

VOCAB = 49152


def test_choices_multiply_and_forced_tokens_are_certain(smollm2: Path) -> None:
    tokenizer = load_tokenizer(smollm2)
    grammar = Grammar(tokenizer, VOCAB)
    # After the first letter the rest is forced, so one choice between two is made.
    matcher = grammar.matcher('start: "xylophone" | "queue"')
    matcher.forced()
    choose = matcher.chooser(end=2)
    logits = np.zeros(VOCAB, np.float32)
    letter = tokenizer.encode("x", add_special_tokens=False)[0]
    logits[letter] = np.log(3.0)
    tokens: list[int] = []
    expected = 1.0
    while not tokens or tokens[-1] != 2:
        allowed = [] if matcher._matcher.is_stopped() else matcher._allowed().tolist()
        if allowed:
            weights = np.exp(logits[allowed].astype(np.float64))
            expected *= weights.max() / weights.sum()
        tokens += choose(logits)
    assert matcher.probability == pytest.approx(expected)
    assert 0 < matcher.probability < 1


@pytest.mark.usefixtures("each_path")
def test_attribute_lists_have_a_probability_of_their_own(tiny: Path) -> None:
    found = rows.load(sample.folder() / "test.jsonl", tasks=["AVE"])[:1]
    answerer = Answerer(loading.load(str(tiny)), batch_size=2)
    once = list(answerer.answer(found))
    twice = list(answerer.answer([found[0], replace(found[0], id="again")]))
    assert once[0].probability is not None
    assert 0 < once[0].probability <= 1
    assert [answer.probability for answer in twice] == pytest.approx(
        [once[0].probability] * 2, rel=1e-3
    )
    assert not answerer._matchers
