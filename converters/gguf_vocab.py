"""A Hugging Face tokenizer as GGUF metadata, for llama.cpp and what is built on it.

Two kinds: byte-level BPE (``gpt2``: SmolLM2, Phi-2, Qwen) with merges and a named
pre-tokenizer, and SentencePiece (``llama``: Llama 2, Mistral) with scores. What decides
how text is split is compared with what the name stands for; an unknown tokenizer is
refused, because a wrong one would be quietly worse.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from converters.errors import ConversionError
from converters.files import read_json
from converters.gguf_tokenizer import CONTROL, NORMALIZERS, PRE_TOKENIZERS, USER_DEFINED

NORMAL, UNKNOWN, UNUSED, BYTE = 1, 2, 5, 6
# The score of a token that no merge leads to, as llama.cpp's own converter sets it.
NO_SCORE = -10000.0
SPACE = "▁"
SPECIALS = ("bos", "eos", "unk", "pad")


@dataclass
class Vocabulary:
    """Tokens by id, with what llama.cpp needs to split text as the original does.

    ``scores`` belong to SentencePiece, ``merges`` and ``pre`` to BPE.
    """

    kind: str
    pre: str
    tokens: list[str]
    types: list[int]
    scores: list[float] = field(default_factory=list)
    merges: list[str] = field(default_factory=list)
    add_space_prefix: bool = False
    add_bos: bool = False
    special_ids: dict[str, int] = field(default_factory=dict)
    chat_template: str | None = None


def read_vocabulary(folder: Path, size: int) -> Vocabulary:
    """Read the tokenizer of a model folder.

    Args:
        folder: with ``tokenizer.json``, ``tokenizer.model`` or both.
        size: rows of the embedding; ids without a token are filled up.

    Raises:
        ConversionError: there is no tokenizer, it is damaged, or of a kind that GGUF
            has no name for.
    """
    path = folder / "tokenizer.json"
    content = read_json(path) if path.exists() else {}
    model = content.get("model", {})
    try:
        if content and not model.get("byte_fallback") and model.get("type") == "BPE":
            vocabulary = _byte_level(path, content)
        elif (folder / "tokenizer.model").exists():
            vocabulary = _sentencepiece(folder / "tokenizer.model", content)
        elif content and model.get("type") == "BPE":
            vocabulary = _from_merges(path, content)
        else:
            raise ConversionError(
                f"{folder} has no tokenizer that GGUF knows: expected tokenizer.json with BPE "
                "or tokenizer.model; pull the base again."
            )
        _added_tokens(vocabulary, content)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ConversionError(f"{path} is damaged ({error!r}); pull the base again.") from None
    if len(vocabulary.tokens) > size:
        raise ConversionError(
            f"{folder} has {len(vocabulary.tokens)} tokens and an embedding of {size} rows; "
            "its tokenizer belongs to another model."
        )
    for index in range(len(vocabulary.tokens), size):
        _append(vocabulary, f"[PAD{index}]", UNUSED)
    _settings(vocabulary, folder, content)
    return vocabulary


def _byte_level(path: Path, content: dict[str, Any]) -> Vocabulary:
    splitter, normalizer = _essential(content["pre_tokenizer"]), content.get("normalizer")
    names = [name for name, known in PRE_TOKENIZERS.items() if _essential(known) == splitter]
    if normalizer is not None and normalizer not in [NORMALIZERS.get(name) for name in names]:
        raise ConversionError(
            f"{path} normalizes text ({normalizer['type']}), which GGUF cannot say."
        )
    if not names or content["model"].get("ignore_merges"):
        raise ConversionError(
            f"{path} splits text in a way that has no known name in GGUF; supported are "
            f"{', '.join(PRE_TOKENIZERS)}."
        )
    tokens = _by_id(content["model"]["vocab"])
    merges = [m if isinstance(m, str) else " ".join(m) for m in content["model"]["merges"]]
    types = [NORMAL if token is not None else UNUSED for token in tokens]
    named = [f"[PAD{i}]" if token is None else token for i, token in enumerate(tokens)]
    return Vocabulary("gpt2", names[0], named, types, merges=merges)


def _sentencepiece(path: Path, content: dict[str, Any]) -> Vocabulary:
    from sentencepiece import SentencePieceProcessor

    try:
        pieces = SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
        raise ConversionError(f"{path} is damaged ({error}); pull the base again.") from None
    vocabulary = Vocabulary("llama", "default", [], [], add_space_prefix=_prefixes(content))
    for index in range(pieces.vocab_size()):
        kind = NORMAL
        if pieces.is_unknown(index):
            kind = UNKNOWN
        elif pieces.is_control(index):
            kind = CONTROL
        elif pieces.is_unused(index):
            kind = UNUSED
        elif pieces.is_byte(index):
            kind = BYTE
        _append(vocabulary, pieces.id_to_piece(index), kind, pieces.get_score(index))
    return vocabulary


def _from_merges(path: Path, content: dict[str, Any]) -> Vocabulary:
    """Scores from the order of merges, where ``tokenizer.model`` itself is gone.

    SentencePiece joins the pair whose result scores highest, and ``tokenizer.json``
    lists merges by falling score of their result: so the order is all that counts.
    """
    order: dict[str, int] = {}
    last = ""
    for merge in content["model"]["merges"]:
        result = "".join(merge.split(" ", 1) if isinstance(merge, str) else merge)
        if result in order and result != last:
            raise ConversionError(
                f"{path} merges {result!r} at two places in its order, so that no scores can "
                "say the same; pull tokenizer.model as well."
            )
        order.setdefault(result, len(order))
        last = result
    unknown = content["model"].get("unk_token") or "<unk>"
    vocabulary = Vocabulary("llama", "default", [], [], add_space_prefix=_prefixes(content))
    for index, token in enumerate(_by_id(content["model"]["vocab"])):
        if token is None:
            _append(vocabulary, f"[PAD{index}]", UNUSED)
        elif token == unknown:
            _append(vocabulary, token, UNKNOWN, 0.0)
        elif len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            _append(vocabulary, token, BYTE, 0.0)
        else:
            # Single characters need no score to be found, only one below every merge.
            score = -float(order[token]) if token in order else -float(len(order) + index)
            _append(vocabulary, token, NORMAL, score)
    return vocabulary


def _added_tokens(vocabulary: Vocabulary, content: dict[str, Any]) -> None:
    for token in sorted(content.get("added_tokens", []), key=lambda entry: entry["id"]):
        index, text = token["id"], token["content"]
        while len(vocabulary.tokens) <= index:
            _append(vocabulary, f"[PAD{len(vocabulary.tokens)}]", UNUSED)
        vocabulary.tokens[index] = text
        if vocabulary.types[index] not in (UNKNOWN, BYTE):
            vocabulary.types[index] = CONTROL if token.get("special") else USER_DEFINED


def _settings(vocabulary: Vocabulary, folder: Path, content: dict[str, Any]) -> None:
    """Special tokens, BOS and the chat template."""
    ids = {token: index for index, token in reversed(list(enumerate(vocabulary.tokens)))}
    path = folder / "tokenizer_config.json"
    config = read_json(path) if path.exists() else {}
    for name in SPECIALS:
        value = config.get(f"{name}_token")
        text = value.get("content") if isinstance(value, dict) else value
        if isinstance(text, str) and text in ids:
            vocabulary.special_ids[name] = ids[text]
    general = read_json(folder / "config.json")
    for name in ("bos", "eos"):
        value = general.get(f"{name}_token_id")
        first = value[0] if isinstance(value, list) and value else value
        if isinstance(first, int) and name not in vocabulary.special_ids:
            vocabulary.special_ids[name] = first
    vocabulary.add_bos = _adds_bos(vocabulary, content, config)
    template = config.get("chat_template")
    file = folder / "chat_template.jinja"
    if file.exists():
        template = file.read_text(encoding="utf-8")
    vocabulary.chat_template = template if isinstance(template, str) else None


def _adds_bos(vocabulary: Vocabulary, content: dict[str, Any], config: dict[str, Any]) -> bool:
    """Whether encoding puts BOS in front, which a fast tokenizer's own file decides."""
    processor = content.get("post_processor") or {}
    steps = processor.get("processors", [processor])
    for step in steps:
        if step.get("type") == "TemplateProcessing":
            first = step["single"][0].get("SpecialToken", {}).get("id")
            bos = vocabulary.special_ids.get("bos")
            return first is not None and bos is not None and first == vocabulary.tokens[bos]
    if content:
        return False
    return bool(config.get("add_bos_token", vocabulary.kind == "llama"))


def _prefixes(content: dict[str, Any]) -> bool:
    """Whether a space is put before the text; without a tokenizer.json it is."""
    if not content:
        return True
    text = json.dumps([content.get("normalizer"), content.get("pre_tokenizer")])
    splitter = content.get("pre_tokenizer") or {}
    if splitter.get("type") == "Metaspace":
        return splitter.get("prepend_scheme", "always") != "never"
    return '"Prepend"' in text


def _essential(splitter: dict[str, Any] | None) -> Any:
    """What of a pre-tokenizer decides where text is split, defaults filled in."""
    if splitter is None:
        return None
    if splitter["type"] == "Sequence":
        return [_essential(part) for part in splitter["pretokenizers"]]
    if splitter["type"] == "ByteLevel":
        prefix, regex = splitter.get("add_prefix_space", True), splitter.get("use_regex", True)
        return ("ByteLevel", prefix, regex)
    return tuple(sorted((key, json.dumps(value)) for key, value in splitter.items()))


def _by_id(vocab: dict[str, int]) -> list[str | None]:
    tokens: list[str | None] = [None] * (max(vocab.values()) + 1)
    for token, index in vocab.items():
        tokens[index] = token
    return tokens


def _append(vocabulary: Vocabulary, token: str, kind: int, score: float = NO_SCORE) -> None:
    vocabulary.tokens.append(token)
    vocabulary.types.append(kind)
    if vocabulary.kind == "llama":
        vocabulary.scores.append(score)
