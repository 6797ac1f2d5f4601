"""BERTScore of generated answers, with a model from a local folder.

For each token the cosine to its nearest token of the other text, in the hidden states of
one layer; precision averages over the answer's tokens, recall over the reference's
(Zhang et al., ICLR 2020, arXiv 1904.09675). As in the published evaluation there is no
idf weighting and no rescaling. Special tokens may be nearest but are not averaged over;
an empty text scores 0.

PyTorch and transformers come with the ``bertscore`` extra and are imported when a scorer
is made. Nothing is downloaded.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecellm_mlx.errors import ModelError

# The layer that correlates best with judgment, as bert-score chooses it, by model type and
# number of layers. The published figures are roberta-large's (layer 17).
LAYERS = {("roberta", 24): 17, ("roberta", 12): 10, ("bert", 24): 18, ("bert", 12): 9}
# Kind, layers, width and compared layer of roberta-large as the published script takes it.
PUBLISHED = ("roberta", 24, 1024, 17)
# Their tokenizers tell a word's start by the space before it, and a text starts a word.
SPACED = ("roberta", "gpt2", "bart", "longformer")
BATCH = 64


class BertScorer:
    """Scores answers; each pair is computed once, however often it is asked for.

    Args:
        folder: a model in Hugging Face layout with its tokenizer.
        layer: the layer whose hidden states are compared; by ``LAYERS`` if not given.

    Raises:
        ModelError: the extra is not installed, the folder holds no such model, or its
            layer is not known.
    """

    def __init__(self, folder: Path, *, layer: int | None = None) -> None:
        self.folder = folder
        config = _config(folder)
        kind, layers = str(config.get("model_type")), config.get("num_hidden_layers")
        self.layer = layer if layer is not None else LAYERS.get((kind, layers or 0), -1)
        if self.layer < 0 or not isinstance(layers, int) or self.layer > layers:
            raise ModelError(
                f"{folder}: the layer to compare is not known for {kind} with {layers} layers",
                expected="roberta-large, which the paper used",
                got=f"--bertscore-layer {layer}" if layer is not None else "",
                cure=f"give one of 0 to {layers} with --bertscore-layer",
            )
        try:
            import torch
            from transformers import AutoModel, AutoTokenizer
            from transformers.utils import logging
        except ImportError as error:
            raise ModelError(
                f"BERTScore needs PyTorch ({error})",
                cure="install it with `pip install 'ecellm-mlx[bertscore]'`",
            ) from None
        logging.disable_progress_bar()
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            model = AutoModel.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, RuntimeError) as error:
            raise ModelError(
                f"{folder} cannot be loaded for BERTScore",
                got=str(error).strip().splitlines()[0],
                cure="give the folder of roberta-large",
            ) from None
        self._shape = (kind, layers, config.get("hidden_size"), self.layer)
        self._torch = torch
        self._model: Any = model.eval()
        self._prefix = " " if kind in SPACED else ""
        self._known: dict[tuple[str, str], tuple[float, float, float]] = {}

    @property
    def about(self) -> dict[str, Any]:
        """Model and layer, for those who read the figures."""
        return {
            "model": str(self.folder),
            "layer": self.layer,
            "as_published": self._shape == PUBLISHED,
        }

    def __call__(self, answers: list[str], references: list[str]) -> NDArray[np.float64]:
        """Precision, recall and F1 of each answer, (n, 3)."""
        pairs = list(zip(answers, references, strict=True))
        # Similar lengths together: less padding.
        todo = sorted(
            {p for p in pairs if p not in self._known}, key=lambda p: len(p[0] + p[1])
        )
        for start in range(0, len(todo), BATCH):
            batch = todo[start : start + BATCH]
            texts = list(dict.fromkeys(text for pair in batch for text in pair))
            states = dict(zip(texts, self._states(texts), strict=True))
            for answer, reference in batch:
                self._known[answer, reference] = self._score(states[answer], states[reference])
        return np.array([self._known[pair] for pair in pairs], np.float64).reshape(-1, 3)

    def _states(self, texts: list[str]) -> list[Any]:
        """Unit hidden states (tokens, width) of each text, its special tokens at the ends."""
        torch = self._torch
        # A tokenizer without a limit of its own states one that no model has.
        limit = min(
            int(self._tokenizer.model_max_length),
            # RoBERTa counts positions from 2.
            int(self._model.config.max_position_embeddings) - (2 if self._prefix else 0),
        )
        inputs = self._tokenizer(
            [self._prefix + text.strip() if text.strip() else "" for text in texts],
            padding=True,
            truncation=True,
            max_length=limit,
            return_tensors="pt",
        )
        with torch.no_grad():
            hidden = self._model(**inputs, output_hidden_states=True).hidden_states[self.layer]
        unit = torch.nn.functional.normalize(hidden, dim=-1)
        lengths = inputs["attention_mask"].sum(dim=1).tolist()
        return [row[:length] for row, length in zip(unit, lengths, strict=True)]

    def _score(self, answer: Any, reference: Any) -> tuple[float, float, float]:
        if len(answer) <= 2 or len(reference) <= 2:
            return 0.0, 0.0, 0.0
        cosine = answer @ reference.T  # (answer tokens, reference tokens)
        precision = float(cosine.max(dim=1).values[1:-1].mean())
        recall = float(cosine.max(dim=0).values[1:-1].mean())
        total = precision + recall
        return precision, recall, 2 * precision * recall / total if total else 0.0


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{folder} holds no model for BERTScore",
            got=str(error),
            cure="give the folder of roberta-large to --bertscore",
        ) from None
    if not isinstance(value, dict):
        raise ModelError(f"{path} is no model configuration", cure="check --bertscore")
    return value
