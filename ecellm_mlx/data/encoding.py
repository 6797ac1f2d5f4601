"""Tokens of a row and which of them a model is trained on.

Follows the published recipe: prompt and answer are tokenized as one string with the
tokenizer's default special tokens, cut from the right at ``max_length``, and EOS is
appended when there is room and none is there. The prompt's length is that of the
prompt tokenized alone; everything after it is supervised. Knows nothing of batches.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from ecellm_mlx.data.prompts import Frame, prompt

if TYPE_CHECKING:
    from ecellm_mlx.data.rows import Row


class Tokenizer(Protocol):
    """What encoding needs of a tokenizer; mlx-lm's wrapper and Hugging Face's both fit."""

    @property
    def eos_token_id(self) -> int | None:
        """The token that ends an answer."""

    def encode(self, text: str) -> list[int]:
        """Token ids, with the special tokens that the tokenizer adds by default."""


@dataclass(frozen=True)
class Encoded:
    """A row as tokens: the first ``prompt_length`` are given, the rest are to be learned."""

    tokens: list[int]
    prompt_length: int
    has_answer: bool

    @property
    def target_positions(self) -> range:
        """Positions ``i`` whose next token ``tokens[i + 1]`` is supervised."""
        return range(max(self.prompt_length - 1, 0), len(self.tokens) - 1)


@dataclass(frozen=True)
class EncodedSet:
    """Encoded rows in their order, and what became of the others.

    Attributes:
        kept: the rows that have something to learn.
        kept_ids: their ids, in the same order.
        dropped_ids: rows whose whole answer lies behind the cutoff.
        cut_ids: kept rows that reach the cutoff and lost a part or their EOS.
    """

    kept: list[Encoded] = field(default_factory=list)
    kept_ids: list[str] = field(default_factory=list)
    dropped_ids: list[str] = field(default_factory=list)
    cut_ids: list[str] = field(default_factory=list)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each kept row."""
        return [len(row.tokens) for row in self.kept]

    @property
    def supervised(self) -> int:
        """Supervised tokens of all kept rows."""
        return sum(len(row.target_positions) for row in self.kept)


def encode_row(row: Row, tokenizer: Tokenizer, frame: Frame, max_length: int) -> Encoded:
    """Encode one row; ``has_answer`` is False if the cutoff leaves nothing to learn."""
    text = prompt(row, frame)
    tokens = list(tokenizer.encode(text + row.output))[:max_length]
    eos = tokenizer.eos_token_id
    if eos is not None and len(tokens) < max_length and tokens[-1:] != [eos]:
        tokens.append(eos)
    prompt_length = min(len(tokenizer.encode(text)), len(tokens))
    encoded = Encoded(tokens, prompt_length, has_answer=False)
    return Encoded(tokens, prompt_length, has_answer=len(encoded.target_positions) > 0)


def encode_rows(
    rows: Iterable[Row], tokenizer: Tokenizer, frame: Frame, max_length: int
) -> EncodedSet:
    """Encode rows and set those aside that lost their whole answer."""
    result = EncodedSet()
    for row in rows:
        encoded = encode_row(row, tokenizer, frame, max_length)
        if not encoded.has_answer:
            result.dropped_ids.append(row.id)
            continue
        result.kept.append(encoded)
        result.kept_ids.append(row.id)
        if len(encoded.tokens) == max_length and encoded.tokens[-1] != tokenizer.eos_token_id:
            result.cut_ids.append(row.id)
    return result
