"""Answers under a grammar: attribute-value lists that are always valid JSON.

The grammar of a row allows exactly its own attributes, in their order, each at
least once, and as a source only the fields that the row has. llguidance masks the
tokens; text that the grammar forces (braces, keys, attribute names) is appended
without asking the model.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from ecellm_mlx.inference.engine import Chooser, Logits

NONE = "None"
MAX_VALUE_CHARACTERS = 80
MAX_VALUES_PER_ATTRIBUTE = 2


def attribute_list_grammar(attributes: Sequence[str], sources: Sequence[str]) -> str:
    """A Lark grammar for the answer of one attribute extraction row.

    Args:
        attributes: names as they must appear in the answer.
        sources: names of the fields that a value can come from.
    """
    link, close = _literal(', "source": '), _literal("}")
    entries = [
        f"a{i}: {_literal(_head(name))} VALUE {link} source {close}"
        for i, name in enumerate(attributes)
    ]
    lists = [
        f"l{i}: a{i} ({_literal(', ')} a{i}){{0,{MAX_VALUES_PER_ATTRIBUTE - 1}}}"
        for i in range(len(attributes))
    ]
    separator = f" {_literal(', ')} "
    body = separator.join(f"l{i}" for i in range(len(attributes)))
    choices = " | ".join(_literal(json.dumps(name)) for name in (*sources, NONE))
    return "\n".join(
        [
            f"start: {_literal('[')} {body} {_literal(']')}",
            *lists,
            *entries,
            f"source: {choices}",
            rf'VALUE: /"([^"\\\x00-\x1f]|\\["\\\/]){{1,{MAX_VALUE_CHARACTERS}}}"/',
        ]
    )


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
        """A matcher at the start of the grammar ``lark``."""
        return Matcher(self._tokenizer, lark, self.vocab_size)


class Matcher:
    """One row's position in its grammar."""

    def __init__(self, tokenizer: Any, lark: str, vocab_size: int) -> None:
        import llguidance

        self._matcher = llguidance.LLMatcher(
            tokenizer, llguidance.LLMatcher.grammar_from_lark(lark), log_level=0
        )
        self.vocab_size = vocab_size
        self._raise_on_error()

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
            token = int(np.where(allowed, logits, -np.inf).argmax())
            self._matcher.consume_token(token)
            self._raise_on_error()
            tokens = [token, *self.forced()]
            return [*tokens, end] if self._matcher.is_stopped() else tokens

        return choose

    def _allowed(self) -> np.ndarray:
        packed = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        return np.unpackbits(packed, bitorder="little")[: self.vocab_size].astype(bool)

    def _raise_on_error(self) -> None:
        if self._matcher.is_error():
            raise ValueError(self._matcher.get_error())


@cache
def _literal(text: str) -> str:
    """``text`` as a Lark string."""
    return json.dumps(text, ensure_ascii=False)


def _head(attribute: str) -> str:
    return f'{{"attribute": {json.dumps(attribute, ensure_ascii=False)}, "value": '
