"""The exponentials of a softmax, by NumPy: MLX's CPU backend is ten times slower at them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def exponentials(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Replace scores (…, columns) by exp(score − largest) in place; their sums (…, 1).

    Dividing what the weights are multiplied with, or the product, by the sums is cheaper
    than dividing the weights.
    """
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    sums: NDArray[np.float32] = scores.sum(axis=-1, keepdims=True)
    return sums
