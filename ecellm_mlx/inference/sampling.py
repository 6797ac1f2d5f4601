"""Choose a token from logits: greedily, or by temperature and top-p.

A row's random numbers depend on the seed and the row alone, not on the other rows
of its batch, and are drawn on the host, so every device gives the same answer for
the same logits.
"""

from __future__ import annotations

import hashlib

import numpy as np

from ecellm_mlx.inference.decoding import Chooser
from ecellm_mlx.inference.engine import Logits


def greedy(logits: Logits) -> list[int]:
    """The likeliest token."""
    return [int(np.argmax(logits))]


def nucleus(row_id: str, *, seed: int, temperature: float, top_p: float) -> Chooser:
    """A chooser that samples from the smallest set of tokens with mass ``top_p``."""
    digest = hashlib.sha256(f"{seed}:{row_id}".encode()).digest()
    generator = np.random.default_rng(int.from_bytes(digest[:8]))

    def choose(logits: Logits) -> list[int]:
        order, mass = _nucleus(logits.astype(np.float64) / temperature, top_p)
        return [int(generator.choice(order, p=mass / mass.sum()))]

    return choose


def _nucleus(scaled: np.ndarray, top_p: float) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of the nucleus, likeliest first, with their probabilities."""
    weights = np.exp(scaled - scaled.max())
    weights /= weights.sum()
    # At low temperature a few tokens hold nearly all mass: sort those first.
    count = min(64, len(weights))
    while True:
        top = np.argpartition(weights, -count)[-count:]
        order = top[np.argsort(-weights[top], kind="stable")]
        cumulative = np.cumsum(weights[order])
        if cumulative[-1] >= top_p or count == len(weights):
            break
        count = min(count * 8, len(weights))
    size = int(np.searchsorted(cumulative, top_p)) + 1
    return order[:size], weights[order[:size]]
