"""BERTScore on a tiny random RoBERTa from a folder, against its formula."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaModel

from ecellm_mlx.data.rows import Row
from ecellm_mlx.errors import ModelError
from ecellm_mlx.evaluation.bertscore import LAYERS, PUBLISHED, BertScorer
from ecellm_mlx.evaluation.metrics import score
from ecellm_mlx.tasks.text import NO_BLEURT

TEXTS = ["Yes, it holds two litres.", "No.", "It holds 2 l of water", "two litres — it does"]


@pytest.fixture(scope="module")
def roberta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights, and a byte-level tokenizer with RoBERTa's special tokens."""
    folder = tmp_path_factory.mktemp("roberta")
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        TEXTS * 3, trainers.BpeTrainer(vocab_size=300, special_tokens=special)
    )
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), add_prefix_space=False
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>", eos_token="</s>", cls_token="<s>", sep_token="</s>",
        unk_token="<unk>", pad_token="<pad>", mask_token="<mask>", model_max_length=64,
    ).save_pretrained(folder)  # fmt: skip
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=300, hidden_size=32, num_hidden_layers=3, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=66, pad_token_id=1,
        bos_token_id=0, eos_token_id=2,
    )  # fmt: skip
    RobertaModel(config).save_pretrained(folder)
    return folder


def by_formula(folder: Path, answer: str, reference: str, layer: int) -> list[float]:
    """The definition, token by token, one text at a time."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    model = RobertaModel.from_pretrained(folder).eval()

    def states(text: str) -> np.ndarray:
        ids = torch.tensor([tokenizer.encode(" " + text)])
        with torch.no_grad():
            hidden = model(ids, output_hidden_states=True).hidden_states[layer][0].numpy()
        return hidden / np.linalg.norm(hidden, axis=1, keepdims=True)

    x, y = states(answer), states(reference)
    precision = np.mean([max(token @ other for other in y) for token in x[1:-1]])
    recall = np.mean([max(token @ other for other in x) for token in y[1:-1]])
    return [precision, recall, 2 * precision * recall / (precision + recall)]


def test_equals_the_formula_whatever_the_batch(roberta: Path) -> None:
    scorer = BertScorer(roberta, layer=2)
    answers, references = TEXTS, [*TEXTS[1:], TEXTS[0]]
    found = scorer(answers, references)
    expected = [by_formula(roberta, a, r, 2) for a, r in zip(answers, references, strict=True)]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(
        BertScorer(roberta, layer=2)(answers[:1], references[:1]), found[:1], atol=1e-6
    )
    assert found.std(axis=0).min() > 0, "the texts differ"
    assert scorer.about == {"model": str(roberta), "layer": 2, "as_published": False}


def test_the_published_scripts_model_is_known() -> None:
    """Its English default is roberta-large, whose hidden states it takes from layer 17."""
    kind, layers, width, layer = PUBLISHED
    assert LAYERS[kind, layers] == layer == 17
    assert (layers, width) == (24, 1024)


def test_the_same_text_scores_one_and_an_empty_one_nothing(roberta: Path) -> None:
    scorer = BertScorer(roberta, layer=2)
    found = scorer([TEXTS[0], "", "  "], [TEXTS[0], TEXTS[0], "No."])
    np.testing.assert_allclose(found, [[1, 1, 1], [0, 0, 0], [0, 0, 0]], atol=1e-5)


def test_a_long_answer_is_cut_to_what_the_model_reads(roberta: Path) -> None:
    found = BertScorer(roberta, layer=3)(["litres " * 500], ["two litres"])
    assert np.isfinite(found).all()


def test_scores_the_generation_task(roberta: Path) -> None:
    rows = [
        Row(
            str(n), "i", "x", None, text, "Answer_Generation", "IND_Diverse_Instruction", "test"
        )
        for n, text in enumerate(TEXTS)
    ]
    result = score("AG", TEXTS, rows, text_scorer=BertScorer(roberta, layer=2))
    assert result["official"]["bertscore_f1"] == pytest.approx(1, abs=1e-5)
    assert result["official"]["bleurt"] is None
    assert result["not_computed"] == NO_BLEURT


def test_refusals_say_what_to_do(roberta: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"not known for roberta with 3 layers.*0 to 3"):
        BertScorer(roberta)
    with pytest.raises(ModelError, match=r"--bertscore-layer 7.*0 to 3"):
        BertScorer(roberta, layer=7)
    with pytest.raises(ModelError, match="holds no model for BERTScore"):
        BertScorer(tmp_path)
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "roberta", "num_hidden_layers": 24})
    )
    with pytest.raises(ModelError, match="cannot be loaded"):
        BertScorer(tmp_path)
