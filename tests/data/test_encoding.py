"""What is supervised: the answer and its EOS, and never a token of the prompt."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecellm_mlx.data import rows
from ecellm_mlx.data.encoding import encode_row, encode_rows
from ecellm_mlx.data.prompts import Frame, prompt
from ecellm_mlx.sample import folder

BOS, EOS = 1, 2
LONG = 1_000_000


class Characters:
    """One token a character; BOS in front as Llama's tokenizer does, if asked to."""

    eos_token_id = EOS

    def __init__(self, bos: bool = True) -> None:
        self.bos = bos

    def encode(self, text: str) -> list[int]:
        return [BOS] * self.bos + [10 + ord(character) for character in text]


class Merging(Characters):
    """Merges a newline with the character after it, so the prompt's last token changes."""

    def encode(self, text: str) -> list[int]:
        tokens = [BOS] * self.bos
        position = 0
        while position < len(text):
            width = 2 if text[position] == "\n" and position + 1 < len(text) else 1
            tokens.append(10 + sum(map(ord, text[position : position + width])))
            position += width
        return tokens


def row(output="yes", input="a", options=None):
    return rows.Row("r", "Do.", input, options, output, "Product_Matching", "own", "")


def supervised(encoded):
    return [encoded.tokens[i + 1] for i in encoded.target_positions]


texts = st.text(st.characters(codec="utf-8"), max_size=40)


@settings(deadline=None, max_examples=60)
@given(
    output=texts.filter(str.strip),
    input=texts,
    cutoff=st.integers(1, 500),
    frame=st.sampled_from(Frame),
    tokenizer=st.sampled_from([Characters(), Characters(bos=False), Merging()]),
)
def test_the_mask(output, input, cutoff, frame, tokenizer):
    item = row(output, input)
    encoded = encode_row(item, tokenizer, frame, cutoff)
    text = prompt(item, frame)
    pair = [*tokenizer.encode(text + output), EOS]
    # A prefix of the pair with EOS, as long as the cutoff allows.
    assert encoded.tokens == pair[:cutoff]
    assert encoded.prompt_length == min(len(tokenizer.encode(text)), len(encoded.tokens))
    # Supervised is all that follows the prompt, and nothing before it.
    assert supervised(encoded) == encoded.tokens[encoded.prompt_length :]
    assert encoded.has_answer == (len(encoded.tokens) > encoded.prompt_length)


def test_the_whole_answer_and_eos_are_supervised():
    encoded = encode_row(row("no"), Characters(), Frame.ALPACA, LONG)
    assert supervised(encoded) == [10 + ord("n"), 10 + ord("o"), EOS]
    assert encoded.tokens[0] == BOS


@pytest.mark.parametrize(
    ("spare", "learned"),
    [(-1, 0), (0, 0), (1, 1), (3, 3), (4, 4), (5, 4)],
)
def test_the_cutoff_takes_from_the_right(spare, learned):
    """``yes`` and EOS are four tokens; ``spare`` of them have room."""
    item = row("yes")
    length = len(Characters().encode(prompt(item, Frame.ALPACA)))
    encoded = encode_row(item, Characters(), Frame.ALPACA, length + spare)
    assert len(supervised(encoded)) == learned
    assert encoded.has_answer == (learned > 0)


def test_eos_is_not_doubled():
    class Ending(Characters):
        def encode(self, text: str) -> list[int]:
            tokens = super().encode(text)
            return [*tokens, EOS] if text.endswith("yes") else tokens

    encoded = encode_row(row("yes"), Ending(), Frame.ALPACA, LONG)
    assert encoded.tokens.count(EOS) == 1


def test_rows_without_an_answer_are_set_aside_by_name():
    loaded = rows.load(folder() / "train.jsonl", tasks=["AVE", "SA"])
    cutoff = 800
    result = encode_rows(loaded, Characters(), Frame.ALPACA, cutoff)
    assert result.dropped_ids
    assert result.cut_ids
    assert set(result.cut_ids) < set(result.kept_ids)
    assert sorted(result.kept_ids + result.dropped_ids) == sorted(item.id for item in loaded)
    by_id = {item.id: item for item in loaded}
    for name in result.dropped_ids:
        assert len(prompt(by_id[name], Frame.ALPACA)) + 1 >= cutoff
    assert max(result.lengths) == cutoff
    for name, encoded in zip(result.kept_ids, result.kept, strict=True):
        cut = len(prompt(by_id[name], Frame.ALPACA) + by_id[name].output) + 2 > cutoff
        assert (name in result.cut_ids) == cut
        assert (encoded.tokens[-1] == EOS) == (not cut)
    assert result.supervised == sum(len(supervised(encoded)) for encoded in result.kept)
