"""A grammar of attribute-value lists, which are always valid JSON.

The grammar of a row allows exactly its own attributes, in their order, each at
least once, and as a source only the fields that the row has. A value is any text, or
(``Values.SOURCE``) words of the field that is named as its source. It is text in
llguidance's Lark; nothing here decodes.

It is a Lark grammar because a JSON schema cannot say this. One or two entries for each of
several attributes need ``contains``, which llguidance does not implement, or an alternative
for each combination; and no keyword asks for a piece of a given text, whose pieces as an
``enum`` grow with the square of its words (125,250 for 500 words, which llguidance refuses).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache

from ecellm_mlx.tasks.values import Values

NONE = "None"
MAX_VALUE_CHARACTERS = 80
MAX_VALUES_PER_ATTRIBUTE = 2
# Annotators' values end where words do (1,694 of 1,695 in our sample's source data), or
# between a number and its unit.
WORD = re.compile(r"\d+|[^\W\d_]+|.", re.DOTALL)


def attribute_list_grammar(
    attributes: Sequence[str],
    sources: Mapping[str, str] | Iterable[str],
    values: Values = Values.FREE,
) -> str:
    """A Lark grammar for the answer of one attribute extraction row.

    Args:
        attributes: names as they must appear in the answer.
        sources: names of the fields that a value can come from; with their texts
            where values must come from them.
        values: ``SOURCE`` allows whole words of the source's text only, as it is written
            or in lower case (as annotators often write them), and ``None`` for both.

    Raises:
        ValueError: values must come from sources whose texts are not given.
    """
    link, close = _literal(', "source": '), _literal("}")
    if values is Values.FREE:
        # An empty value stands for no value, which is written None.
        answers = f"VALUE {link} source"
        choices = " | ".join(_literal(_quoted(name)) for name in (*sources, NONE))
        rules = [
            f"source: {choices}",
            rf'VALUE: /"([^"\\\x00-\x1f]|\\["\\\/]){{1,{MAX_VALUE_CHARACTERS}}}"/',
        ]
    elif isinstance(sources, Mapping):
        answers, rules = _from_sources(sources, link)
    else:
        raise ValueError("values from their source need the texts of the sources")
    entries = [
        f"a{i}: {_literal(_head(name))} answer {close}" for i, name in enumerate(attributes)
    ]
    lists = [
        f"l{i}: a{i} ({_literal(', ')} a{i}){{0,{MAX_VALUES_PER_ATTRIBUTE - 1}}}"
        for i in range(len(attributes))
    ]
    separator = f" {_literal(', ')} "
    body = separator.join(f"l{i}" for i in range(len(attributes)))
    return "\n".join(
        [
            f"start: {_literal('[')} {body} {_literal(']')}",
            *lists,
            *entries,
            f"answer: {answers}",
            *rules,
        ]
    )


def _from_sources(sources: Mapping[str, str], link: str) -> tuple[str, list[str]]:
    """Alternatives of value and source, and the terminals of the values."""
    ways = [f"{_literal(_quoted(NONE))} {link} {_literal(_quoted(NONE))}"]
    rules = []
    for number, (name, text) in enumerate(sources.items()):
        pieces = []
        for case, written in enumerate(dict.fromkeys((text, text.lower()))):
            # As JSON writes them, so that a piece is never half an escape; a word that is
            # too long for a value can only be given in part.
            words = (
                [word] if len(word) < MAX_VALUE_CHARACTERS else list(word)
                for word in WORD.findall(written)
            )
            chunks = [_quoted(word)[1:-1] for part in words for word in part]
            if not chunks:
                continue
            pieces.append(f"PIECE{number}_{case}")
            node = json.dumps({"substring_chunks": chunks}, ensure_ascii=False)
            rules.append(f"PIECE{number}_{case}: %regex {node}")
        if not pieces:
            continue
        # At least one character, and no blank at either end.
        limit = rf'/"[^ ]((?s:.{{0,{MAX_VALUE_CHARACTERS - 2}}})[^ ])?"/'
        quote = _literal('"')
        rules.append(f"VALUE{number}: ({quote} ({' | '.join(pieces)}) {quote}) & {limit}")
        ways.append(f"VALUE{number} {link} {_literal(_quoted(name))}")
    return " | ".join(ways), rules


@cache
def _literal(text: str) -> str:
    """``text`` as a Lark string."""
    return json.dumps(text, ensure_ascii=False)


def _quoted(text: str) -> str:
    """``text`` as a JSON string, the way it appears in answers."""
    return json.dumps(text, ensure_ascii=False)


def _head(attribute: str) -> str:
    return f'{{"attribute": {_quoted(attribute)}, "value": '
