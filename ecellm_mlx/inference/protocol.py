"""How answers are made: the two decodings, and the paper's sampling; loads no mlx."""

from __future__ import annotations

from enum import StrEnum

# The paper's decoding (eCeLLM, released inference script).
PAPER_TEMPERATURE = 0.15
PAPER_TOP_P = 0.95
PAPER_MAX_TOKENS = 100


class Decoding(StrEnum):
    """How an answer is made."""

    VALID = "valid"
    PAPER = "paper"
