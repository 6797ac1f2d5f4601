"""Learning rates over a run are those of transformers."""

from __future__ import annotations

import pytest

from ecellm_mlx.training import schedule


@pytest.mark.parametrize("total", [1, 2, 7, 100])
def test_cosine_equals_transformers(total: int) -> None:
    import torch
    from transformers import get_cosine_schedule_with_warmup

    warmup = schedule.warmup_steps(total, 0.05)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = get_cosine_schedule_with_warmup(optimizer, warmup, total)
    for step in range(total):
        assert schedule.factor("cosine", step, total, 0.05) == pytest.approx(
            theirs.get_last_lr()[0], abs=1e-12
        )
        optimizer.step()
        theirs.step()
