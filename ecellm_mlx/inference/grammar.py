"""Decoding under a grammar: only tokens that it allows, and those that it forces for free.

llguidance masks the tokens; text that the grammar forces (braces, keys, names) is appended
without asking the model. What a grammar says is a task's matter (``tasks``).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecellm_mlx.inference.decoding import Chooser
from ecellm_mlx.inference.engine import Logits


class Grammar:
    """Compiles grammars for one tokenizer.

    Args:
        tokenizer: a Hugging Face fast tokenizer.
        vocab_size: width of the model's logits, which may exceed the tokenizer's.
    """

    def __init__(self, tokenizer: Any, vocab_size: int) -> None:
        from llguidance.hf import from_tokenizer

        self._tokenizer = from_tokenizer(
            getattr(tokenizer, "_tokenizer_wrapped", tokenizer), n_vocab=vocab_size
        )
        self.vocab_size = vocab_size

    def matcher(self, lark: str) -> Matcher:
        """A matcher at the start of the grammar ``lark``.

        Raises:
            ValueError: the grammar is wrong.
        """
        return Matcher(self._tokenizer, lark, self.vocab_size)


class Matcher:
    """One row's position in its grammar.

    ``probability`` is that of the tokens that were chosen so far among all that the
    grammar allowed; forced ones are certain.
    """

    def __init__(self, tokenizer: Any, lark: str, vocab_size: int) -> None:
        import llguidance

        self._matcher = llguidance.LLMatcher(
            tokenizer, llguidance.LLMatcher.grammar_from_lark(lark), log_level=0
        )
        self.vocab_size = vocab_size
        self._log_probability = 0.0
        self._raise_on_error()

    @property
    def probability(self) -> float:
        """See the class."""
        return math.exp(self._log_probability)

    def forced(self) -> list[int]:
        """The tokens that must come next, consumed."""
        tokens = list(self._matcher.compute_ff_tokens())
        if tokens:
            self._matcher.consume_tokens(tokens)
            self._raise_on_error()
        return tokens

    def chooser(self, end: int) -> Chooser:
        """Greedy choice among the allowed tokens, followed by what is then forced.

        Args:
            end: the token that is returned when the grammar is complete.
        """

        def choose(logits: Logits) -> list[int]:
            if self._matcher.is_stopped():
                return [end]
            allowed = self._allowed()
            values = logits[allowed].astype(np.float64)
            best = int(np.argmax(values))
            self._log_probability -= math.log(np.exp(values - values[best]).sum())
            token = int(allowed[best])
            self._matcher.consume_token(token)
            self._raise_on_error()
            tokens = [token, *self.forced()]
            return [*tokens, end] if self._matcher.is_stopped() else tokens

        return choose

    def _allowed(self) -> NDArray[np.intp]:
        packed = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        return np.flatnonzero(np.unpackbits(packed, bitorder="little")[: self.vocab_size])

    def _raise_on_error(self) -> None:
        if self._matcher.is_error():
            raise ValueError(self._matcher.get_error())
