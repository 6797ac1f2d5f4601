"""The preview: what rows become, and what a model answers to them."""

from __future__ import annotations

from pathlib import Path

from ecellm_mlx import sample
from ecellm_mlx.catalog import preview
from ecellm_mlx.data.question import build
from ecellm_mlx.tables import open_table


def test_a_preview_shows_prompts_and_live_answers(tiny: Path) -> None:
    content = open_table(sample.catalog())
    question = build(content.names, task="SA", mapping=["review=title"])
    shown = preview.prompts(content, question, model=str(tiny))
    assert len(shown) == preview.LIMIT
    assert shown[0].prompt.startswith("Below is an instruction")
    assert "Stream Smarter" in shown[0].prompt
    assert "very positive" in shown[0].options[0]
    answered = preview.answers(shown, model=str(tiny))
    assert [p.prompt for p in answered] == [p.prompt for p in shown]
    for one in answered:
        assert one.answer in one.options
        assert 0 < (one.confidence or 0) <= 1
    unfit = build(content.names, task="SA", mapping=["review=description"])
    assert any(p.error for p in preview.prompts(content, unfit, model=str(tiny)))
