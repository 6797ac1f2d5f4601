"""The loop trains what PEFT would train, and a stopped run ends as an uninterrupted one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ecellm_mlx import device, jobs
from ecellm_mlx.data import batches, encoding, rows
from ecellm_mlx.device.backend import mx, nn, tree_map
from ecellm_mlx.distributed import ranks
from ecellm_mlx.errors import DataError, JobError
from ecellm_mlx.jobs import events
from ecellm_mlx.models import loading, lora
from ecellm_mlx.training import checkpoint, loop, loss, validation
from ecellm_mlx.training import step as step_module
from ecellm_mlx.training.loss import negative_log_likelihood
from ecellm_mlx.training.setup import create_run

BASE_SETTINGS = ["batch_size=4", "micro_batch_size=2", "epochs=2", "learning_rate=1e-2"]


class Run:
    """One training run in this process, so that tests can look inside."""

    def __init__(self, model: Path, data: Path, out: Path, *settings: str) -> None:
        self.run = create_run(str(model), str(data), None, [*BASE_SETTINGS, *settings], out)

    def train(self) -> tuple[str, dict[str, Any]]:
        context = jobs.JobContext(self.run)
        try:
            self.trainer = loop.Trainer(context)
            return self.trainer.run()
        finally:
            context.close()

    def events(self, kind: type[events.Event]) -> list[Any]:
        return [event for event in self.run.reader().read() if isinstance(event, kind)]

    def adapter(self) -> dict[str, mx.array]:
        folder = checkpoint.complete(self.run.path / "checkpoints")[-1]
        weights = mx.load(str(folder / "adapters.safetensors"))
        mx.eval(weights)
        return weights


@pytest.mark.usefixtures("each_path")
def test_a_run_trains_and_leaves_what_the_design_promises(
    tiny: Path, dataset: Path, tmp_path: Path
) -> None:
    run = Run(tiny, dataset, tmp_path / "run", "dropout=0")
    outcome, results = run.train()
    steps = run.events(events.TrainMetrics)
    assert outcome == "finished"
    assert [event.step for event in steps] == list(range(1, results["steps"] + 1))
    assert results["steps"] == 10  # 18 rows in steps of 4, twice; the last one is partial
    assert steps[0].learning_rate == 0
    assert steps[-1].loss < steps[0].loss
    assert sum(event.supervised_tokens for event in steps[:5]) == sum(
        event.supervised_tokens for event in steps[5:]
    ), "every row is used once an epoch"
    assert len(run.events(events.EvalMetrics)) == 2
    config = json.loads((run.run.path / "adapter" / "adapter_config.json").read_text())
    assert config["ecellm"]["base"]["fingerprint"] == run.run.job().fingerprints["base"]
    base = loading.load(tiny)
    lora.load(base.model, run.run.path / "adapter", base=base.fingerprint)


@pytest.mark.usefixtures("each_path")
def test_a_stopped_run_resumes_bit_for_bit_with_dropout(
    tiny: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Run(tiny, dataset, tmp_path / "whole", "dropout=0.3")
    whole.train()
    parts = Run(tiny, dataset, tmp_path / "parts", "dropout=0.3")
    real_poll = jobs.JobContext.poll
    for stop_at in (3, 7):

        def poll(self: jobs.JobContext, on_pause: Any = None, _at: int = stop_at) -> Any:
            stop = self.status.step == _at
            return jobs.Control.STOP if stop else real_poll(self, on_pause)

        monkeypatch.setattr(jobs.JobContext, "poll", poll)
        assert parts.train()[0] == "stopped"
    monkeypatch.setattr(jobs.JobContext, "poll", real_poll)
    assert parts.train()[0] == "finished"
    expected, got = whole.adapter(), parts.adapter()
    assert expected.keys() == got.keys()
    for name, array in expected.items():
        assert mx.array_equal(array, got[name]), name


def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    tiny: Path, dataset: Path, tmp_path: Path
) -> None:
    run = Run(tiny, dataset, tmp_path / "run", "dropout=0.3", "save_every=4")
    run.train()
    expected = run.adapter()
    folders = checkpoint.complete(run.run.path / "checkpoints")
    assert [folder.name for folder in folders] == ["00000008", "00000010"]
    weights = folders[-1] / "adapters.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8] + b"damaged!")
    run.train()
    assert any("00000010 is damaged" in event.message for event in run.events(events.Warned))
    assert all(mx.array_equal(a, run.adapter()[n]) for n, a in expected.items())


def test_changed_rows_or_base_are_refused(tiny: Path, dataset: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny, base)
    run = Run(base, dataset, tmp_path / "run")
    path = dataset / "train.jsonl"
    path.write_text(path.read_text().replace("yes", "no"))
    weights = base / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-3] ^= 1
    weights.write_bytes(bytes(content))
    with pytest.raises(JobError, match="base model and the training rows changed"):
        run.train()


def test_rows_without_a_supervised_token_are_dropped_and_said(
    tiny: Path, dataset: Path, tmp_path: Path
) -> None:
    run = Run(tiny, dataset, tmp_path / "run", "max_seq_length=180", "max_steps=1")
    run.train()
    warnings = run.events(events.Warned)
    assert any("lose their whole answer" in event.message for event in warnings)
    with pytest.raises(DataError, match="no row with a supervised token left"):
        Run(tiny, dataset, tmp_path / "none", "max_seq_length=16").train()


def poison(monkeypatch: pytest.MonkeyPatch, steps: set[int]) -> None:
    """Make the gradient of the second micro-batch of some steps infinite."""
    real = step_module.OptimizerStep._micro_batch

    def micro_batch(self: Any, step: int, index: int, batch: Any) -> Any:
        value, gradient = real(self, step, index, batch)
        if step in steps and index == 1:
            gradient = tree_map(lambda g: g * mx.inf, gradient)
        return value, gradient

    monkeypatch.setattr(step_module.OptimizerStep, "_micro_batch", micro_batch)


def test_a_step_that_is_not_finite_is_skipped_and_names_its_micro_batch(
    tiny: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, {2})
    run = Run(tiny, dataset, tmp_path / "run", "max_steps=4", "save_every=1", "dropout=0")
    outcome, results = run.train()
    assert (outcome, results["skipped_steps"]) == ("finished", 1)
    (warning,) = [e.message for e in run.events(events.Warned) if "skipped" in e.message]
    assert warning.startswith("step 3 skipped")
    assert "in 1 of 2 micro-batches: rows" in warning
    named = warning.rsplit("rows ", 1)[1].split(", ")
    expected = [run.trainer.train_set.kept_ids[i] for i in run.trainer.plan(0)[2][1]]
    assert named == expected
    skipped = run.events(events.TrainMetrics)[2]
    assert (skipped.grad_norm, skipped.skipped_steps) == (None, 1)
    before, after = checkpoint.complete(run.run.path / "checkpoints")[-2:]
    assert (before.name, after.name) == ("00000003", "00000004")


def test_too_many_skipped_steps_end_the_run(
    tiny: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, {0, 5, 6, 7})
    run = Run(tiny, dataset, tmp_path / "run", "epochs=5", "max_skipped_steps=3")
    with pytest.raises(JobError, match="3 steps in a row, up to step 8"):
        run.train()
    assert len(run.events(events.Warned)) == 4


def test_grad_checkpoint_gives_the_same_bits_with_dropout_and_leaves_other_models_alone(
    tiny: Path, dataset: Path, tmp_path: Path
) -> None:
    """Recomputed blocks draw the masks of their first run, or the gradients would be wrong."""
    settings = ["dropout=0.3", "max_steps=3"]
    plain = Run(tiny, dataset, tmp_path / "plain", *settings)
    saving = Run(tiny, dataset, tmp_path / "saving", *settings, "grad_checkpoint=true")
    plain.train()
    saving.train()
    for name, array in plain.adapter().items():
        assert mx.array_equal(array, saving.adapter()[name]), name
    assert "Checkpointed" not in type(loading.load(tiny).model.layers[0]).__name__


def test_samples_are_real_answers_and_change_no_bit(
    tiny: Path, dataset: Path, tmp_path: Path
) -> None:
    settings = ["dropout=0.3", "max_steps=4", "grad_checkpoint=true"]
    plain = Run(tiny, dataset, tmp_path / "plain", *settings)
    looked_at = Run(
        tiny, dataset, tmp_path / "looked_at", *settings, "sample_every=2", "samples=2"
    )
    plain.train()
    looked_at.train()
    samples = looked_at.events(events.Sample)
    assert [event.step for event in samples] == [2, 2, 4, 4]
    assert {event.task for event in samples[:2]} <= {row.task for row in val_rows(dataset)}
    assert samples[0].prompt.endswith("### Response:\n")
    assert all(event.prediction and event.reference for event in samples)
    for name, array in plain.adapter().items():
        assert mx.array_equal(array, looked_at.adapter()[name]), name


def val_rows(dataset: Path) -> list[rows.Row]:
    return rows.load(dataset / "val.jsonl")


@pytest.mark.parametrize("name", ["llama", "mistral", "phi", "qwen3", "gemma3_text"])
def test_loss_equals_cross_entropy_over_all_logits(
    name: str, tiny_models: dict[str, Path], dataset: Path
) -> None:
    base = loading.load(tiny_models[name])
    encoded = encoding.encode_rows(
        rows.load(dataset / "train.jsonl")[:4], base.tokenizer, base.frame, 512
    ).kept
    batch = batches.collate(encoded, range(4), 0)
    got = loss.negative_log_likelihood(base.model, batch).item()
    expected = 0.0
    for row in encoded:
        logits = base.model(mx.array(row.tokens)[None])[0, :-1]
        every = nn.losses.cross_entropy(logits, mx.array(row.tokens[1:]))
        expected += every[row.prompt_length - 1 :].sum().item()
    assert got == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("vocabulary", [100, 256, 50_001])
def test_log_sum_exp_keeps_its_digits_and_those_of_its_gradient(vocabulary: int) -> None:
    values = np.random.default_rng(0).normal(0, 3, (7, vocabulary)).astype(np.float32)
    exact = values.astype(np.float64)
    largest = exact.max(-1, keepdims=True)
    expected = np.log(np.exp(exact - largest).sum(-1)) + largest[:, 0]
    got = np.array(loss.log_sum_exp(mx.array(values)))
    assert np.abs(got / expected - 1).max() < 2e-7
    gradient = mx.grad(lambda x: loss.log_sum_exp(x).sum())(mx.array(values))
    assert np.abs(np.array(gradient) / np.exp(exact - expected[:, None]) - 1).max() < 5e-6


@pytest.mark.parametrize(
    ("settings", "steps", "validated", "saved"),
    [
        # 18 rows in steps of 4: five steps an epoch, the last of them smaller.
        (["epochs=1.5"], 8, [5, 8], [5, 8]),
        (["epochs=0.3"], 2, [2], [2]),
        (["max_steps=7", "eval_every=3", "save_every=2"], 7, [3, 6, 7], [2, 4, 6, 7]),
    ],
)
def test_epochs_and_steps_decide_when_to_validate_and_save(
    settings: list[str],
    steps: int,
    validated: list[int],
    saved: list[int],
    tiny: Path,
    dataset: Path,
    tmp_path: Path,
) -> None:
    run = Run(tiny, dataset, tmp_path / "run", *settings)
    assert run.train()[1]["steps"] == steps
    assert [event.step for event in run.events(events.EvalMetrics)] == validated
    assert [event.step for event in run.events(events.Checkpoint)] == saved


def test_early_stop_keeps_the_best_adapter_when_its_checkpoint_is_gone(
    tiny: Path, dataset: Path, tmp_path: Path
) -> None:
    """Rates that are far too high make validation worse soon."""
    settings = ["learning_rate=1", "warmup_ratio=0", "schedule=constant", "epochs=20"]
    patience = ["eval_every=1", "save_every=1", "keep_checkpoints=1", "early_stop_patience=3"]
    run = Run(tiny, dataset, tmp_path / "run", *settings, *patience)
    outcome, results = run.train()
    losses = {event.step: event.loss for event in run.events(events.EvalMetrics)}
    best = min(losses, key=lambda step: losses[step])
    assert outcome == "finished"
    assert results["best_step"] == best
    assert results["steps"] == best + 3 < 100
    assert any("stopped early" in event.message for event in run.events(events.Warned))
    folders = checkpoint.complete(run.run.path / "checkpoints")
    assert [folder.name for folder in folders] == [f"{best + 3:08d}"]
    config = json.loads((run.run.path / "adapter" / "adapter_config.json").read_text())
    assert config["ecellm"]["metrics"]["step"] == best
    kept = loading.load(tiny)
    lora.load(kept.model, run.run.path / "adapter", base=kept.fingerprint)
    compute = device.current().loss(kept.model, negative_log_likelihood)
    again = validation.validation_loss(compute, run.trainer.val_batches, ranks.Ranks(None))
    assert again == pytest.approx(losses[best], rel=1e-5)
