"""Candidates for matching: for each left product the right ones that read most alike.

BM25 (bm25s) over words; both catalogs are held in memory. Knows nothing of models.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import log

import numpy as np

WORD = re.compile(r"[^\W_]+")
# Words also count as the groups of letters and digits they are made of: mx20 is mx-20.
GROUP = re.compile(r"\d+|[^\W\d_]+")


@dataclass(frozen=True)
class Candidate:
    """A pair to judge.

    ``similarity`` is 0-1: the pair's BM25 score over the sum of the left words' weights,
    which no text can exceed. ``rank`` counts a left product's candidates from 1.
    """

    left: int
    right: int
    similarity: float
    rank: int


def tokens(text: str) -> list[str]:
    """The words of a text; numbers and letters that are written as one word also apart.

    Neighbouring words are joined as well, because one shop writes ``photo shop`` where the
    other writes ``photoshop``.
    """
    words = WORD.findall(text.casefold())
    result = list(words)
    for word in words:
        groups = GROUP.findall(word)
        if len(groups) > 1:
            result += groups
    return result + [a + b for a, b in pairwise(words)]


def candidates(left: Sequence[str], right: Sequence[str], *, top: int) -> list[Candidate]:
    """The ``top`` right texts for each left one, by descending similarity.

    Pairs without a word in common give none. Ties go to the one that comes first, so that
    the result is the same on any machine.
    """
    import bm25s

    documents = [tokens(text) for text in right]
    if not any(documents):
        return []
    index = bm25s.BM25(method="lucene")
    index.index(documents, show_progress=False)
    counts = Counter(token for document in documents for token in set(document))

    def weight(token: str) -> float:
        """The inverse document frequency, as Lucene defines it."""
        n = counts[token]
        return log(1 + (len(documents) - n + 0.5) / (n + 0.5))

    pairs: list[Candidate] = []
    for place, text in enumerate(left):
        words = tokens(text)
        query = [token for token in words if token in counts]
        if not query:
            continue
        scores = index.get_scores(query)
        order = np.argsort(-scores, kind="stable")[:top]
        most = sum(map(weight, words))
        pairs += [
            Candidate(place, number, float(scores[number]) / most, rank)
            for rank, number in enumerate(order.tolist(), 1)
            if scores[number] > 0
        ]
    return pairs
