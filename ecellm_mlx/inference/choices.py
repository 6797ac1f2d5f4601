"""Score a closed set of answers instead of generating one.

``Scoring.TREE``: the options of a row form a trie of tokens. Where the trie branches,
the model's probabilities are renormalized over the branches; where it does not, the
next token is forced and costs nothing. An option's probability is the product along
its path, which is what decoding under a grammar of these options would give. Options
that differ in their first token need no pass beyond the prompt's.

``Scoring.MEAN``: the mean log-probability of an option's tokens, exponentiated and
normalized over the options. Every token counts, and length does not: for a model that
was never trained on these options, whose first tokens say little.

Both give probabilities that sum to one, and long options are at no disadvantage. For
options of one token each they are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from ecellm_mlx.device.backend import mx
from ecellm_mlx.inference.engine import Engine, Logits, Prefilled


class Scoring(StrEnum):
    """How options of several tokens are compared."""

    TREE = "tree"
    MEAN = "mean"


@dataclass
class Branch:
    """A point with more than one way on: ``ways`` maps a token to the options behind it."""

    path: tuple[int, ...]
    ways: dict[int, list[int]] = field(default_factory=dict)


def branches(options: Sequence[Sequence[int]], end: int) -> list[Branch]:
    """The branching points of the options' trie, root first.

    Args:
        options: token ids of each option, all different.
        end: the token that ends an option which is a prefix of another.
    """
    tree: list[Branch] = []
    pending: list[tuple[tuple[int, ...], list[int]]] = [((), list(range(len(options))))]
    while pending:
        path, members = pending.pop(0)
        while len(members) > 1:
            ways: dict[int, list[int]] = {}
            for index in members:
                rest = options[index][len(path) :]
                ways.setdefault(rest[0] if rest else end, []).append(index)
            if len(ways) > 1:
                tree.append(Branch(path, ways))
                pending += [((*path, token), group) for token, group in ways.items()]
                break
            path = (*path, next(iter(ways)))
    return tree


def shared_start(sequences: Sequence[Sequence[int]]) -> int:
    """How many tokens all sequences begin with alike, short of any one's last token."""
    length = 0
    limit = min((len(sequence) for sequence in sequences), default=1) - 1
    while length < limit and len({sequence[length] for sequence in sequences}) == 1:
        length += 1
    return length


def probabilities(count: int, tree: Sequence[Branch], logits: Sequence[Logits]) -> list[float]:
    """Probability of each of ``count`` options from the logits (vocab,) at each branch."""
    log_p = np.zeros(count)
    for branch, values in zip(tree, logits, strict=True):
        tokens = list(branch.ways)
        chosen = values[tokens].astype(np.float64)
        chosen -= chosen.max() + np.log(np.exp(chosen - chosen.max()).sum())
        for value, members in zip(chosen, branch.ways.values(), strict=True):
            log_p[members] += value
    return [float(p) for p in np.exp(log_p)]


def score(
    engine: Engine,
    batch: Prefilled,
    options: Sequence[Sequence[Sequence[int]]],
    end: int,
    scoring: Scoring = Scoring.TREE,
) -> list[list[float]]:
    """Probabilities of every row's options.

    Args:
        engine: the engine that read the batch.
        batch: prompts that were read; its cache is left as it is.
        options: for each row of the batch, the token ids of each option.
        end: token that ends an answer.
        scoring: how options of several tokens are compared.
    """
    if scoring is Scoring.MEAN:
        return _score_by_mean(engine, batch, options)
    trees = [branches(row, end) for row in options]
    first = np.array(batch.logits.astype(mx.float32))
    deeper = [(row, branch) for row, tree in enumerate(trees) for branch in tree if branch.path]
    later: dict[tuple[int, tuple[int, ...]], Logits] = {}
    for start in range(0, len(deeper), engine.batch_size):
        part = deeper[start : start + engine.batch_size]
        cache = batch.cache.select([row for row, _ in part])
        values = np.array(
            engine.extend(cache, [branch.path for _, branch in part]).astype(mx.float32)
        )
        later.update({(row, branch.path): values[i] for i, (row, branch) in enumerate(part)})
    return [
        probabilities(
            len(options[row]),
            tree,
            [later[row, branch.path] if branch.path else first[row] for branch in tree],
        )
        for row, tree in enumerate(trees)
    ]


def _score_by_mean(
    engine: Engine, batch: Prefilled, options: Sequence[Sequence[Sequence[int]]]
) -> list[list[float]]:
    flat = [(row, tokens) for row, members in enumerate(options) for tokens in members]
    means = iter([float(v.mean()) for v in engine.log_likelihoods(batch, flat)])
    result = []
    for members in options:
        values = np.array([next(means) for _ in members])
        weights = np.exp(values - values.max())
        result.append([float(p) for p in weights / weights.sum()])
    return result
