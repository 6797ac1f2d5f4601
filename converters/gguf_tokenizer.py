"""Rebuild a Hugging Face fast tokenizer from the metadata of a GGUF file.

Byte-level BPE only (``tokenizer.ggml.model = gpt2``), and of its pre-tokenizers
those listed in ``PRE_TOKENIZERS``: a wrong guess would split text differently from
the way the model was trained, and nothing would say so.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from converters.errors import ConversionError
from converters.files import write_json
from converters.gguf_header import GgufHeader

CONTROL, USER_DEFINED = 3, 4

_BYTE_LEVEL = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": True,
    "use_regex": True,
}
PRE_TOKENIZERS: dict[str, dict[str, Any]] = {
    # SmolLM: every digit is a token of its own, then GPT-2's word pattern.
    "smollm": {
        "type": "Sequence",
        "pretokenizers": [{"type": "Digits", "individual_digits": True}, _BYTE_LEVEL],
    },
    "gpt-2": _BYTE_LEVEL,
    # Qwen2 and Qwen3: contractions, words with the sign before them, single digits.
    "qwen2": {
        "type": "Sequence",
        "pretokenizers": [
            {
                "type": "Split",
                "pattern": {
                    "Regex": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
                    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
                },
                "behavior": "Isolated",
                "invert": False,
            },
            {**_BYTE_LEVEL, "use_regex": False},
        ],
    },
}
# Text is composed (NFC) before it is split. llama.cpp leaves that to the caller.
NORMALIZERS: dict[str, dict[str, Any]] = {"qwen2": {"type": "NFC"}}


def write_tokenizer(header: GgufHeader, folder: Path) -> None:
    """Write ``tokenizer.json``, ``tokenizer_config.json`` and ``generation_config.json``.

    Raises:
        ConversionError: the tokenizer is of a kind that cannot be rebuilt exactly.
    """
    tokens: list[str] = header.need("tokenizer.ggml.tokens")
    write_json(folder / "tokenizer.json", tokenizer_json(header, tokens))
    ids = {
        name: header.metadata.get(f"tokenizer.ggml.{key}_token_id")
        for name, key in (
            ("bos", "bos"),
            ("eos", "eos"),
            ("pad", "padding"),
            ("unk", "unknown"),
        )
    }
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": header.need(
            f"{header.need('general.architecture')}.context_length"
        ),
        "clean_up_tokenization_spaces": False,
        **{f"{name}_token": tokens[value] for name, value in ids.items() if value is not None},
    }
    if template := header.metadata.get("tokenizer.chat_template"):
        config["chat_template"] = template
    write_json(folder / "tokenizer_config.json", config)
    write_json(
        folder / "generation_config.json",
        {f"{n}_token_id": ids[n] for n in ("bos", "eos", "pad") if ids[n] is not None},
    )


def tokenizer_json(header: GgufHeader, tokens: list[str]) -> dict[str, Any]:
    """The content of ``tokenizer.json`` (the ``tokenizers`` library's format 1.0)."""
    kind = header.need("tokenizer.ggml.model")
    if kind != "gpt2":
        raise ConversionError(
            f"{header.path} has a tokenizer of kind {kind!r}, which cannot be rebuilt exactly; "
            "pull the model from the hub instead."
        )
    pre = header.metadata.get("tokenizer.ggml.pre", "gpt-2")
    if pre not in PRE_TOKENIZERS:
        raise ConversionError(
            f"{header.path} has the pre-tokenizer {pre!r}; known are "
            f"{', '.join(PRE_TOKENIZERS)}: pull the model from the hub instead."
        )
    types = header.need("tokenizer.ggml.token_type")
    merges = header.need("tokenizer.ggml.merges")
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            _added_token(index, token, special=kind == CONTROL)
            for index, (token, kind) in enumerate(zip(tokens, types, strict=True))
            if kind in (CONTROL, USER_DEFINED)
        ],
        "normalizer": NORMALIZERS.get(pre),
        "pre_tokenizer": PRE_TOKENIZERS[pre],
        "post_processor": _post_processor(header, tokens),
        "decoder": {**_BYTE_LEVEL, "add_prefix_space": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: index for index, token in enumerate(tokens)},
            "merges": [merge.split(" ", 1) for merge in merges],
        },
    }


def _added_token(index: int, content: str, *, special: bool) -> dict[str, Any]:
    return {
        "id": index,
        "content": content,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": special,
    }


def _post_processor(header: GgufHeader, tokens: list[str]) -> dict[str, Any] | None:
    """Put BOS in front where the model wants it; EOS is the encoder's business."""
    if not header.metadata.get("tokenizer.ggml.add_bos_token", False):
        return None
    index = header.need("tokenizer.ggml.bos_token_id")
    bos = tokens[index]
    sequence = {"Sequence": {"id": "A", "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": bos, "type_id": 0}}, sequence],
        "pair": [
            {"SpecialToken": {"id": bos, "type_id": 0}},
            sequence,
            {"Sequence": {"id": "B", "type_id": 0}},
        ],
        "special_tokens": {bos: {"id": bos, "ids": [index], "tokens": [bos]}},
    }
