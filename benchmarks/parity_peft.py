"""Train one LoRA twice, with PEFT + PyTorch and with ecellm-mlx, and compare every step.

    python benchmarks/parity_peft.py --model smollm2-135m \\
        --data ../shared/data/ecinstruct_sample

Both sides start from the same adapter and see the same micro-batches in float32. The
reference does what transformers' Trainer does with them: losses of the model's own
``labels`` (weighted by supervised tokens through ``num_items_in_batch``, or averaged per
micro-batch as transformers 4.36 did), ``clip_grad_norm_``, ``torch.optim.AdamW`` and
transformers' schedules. A quantized base is de-quantized once, and both load that.

Prints the two curves, and ends with status 1 if a loss differs by more than 1e-4
relative or an adapter's element by more than 1e-3.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ecellm_mlx import jobs
from ecellm_mlx.data import rows
from ecellm_mlx.data.batches import Batch, collate
from ecellm_mlx.device.backend import mx
from ecellm_mlx.export import peft as exporting
from ecellm_mlx.export import write
from ecellm_mlx.jobs import events
from ecellm_mlx.models import registry
from ecellm_mlx.training import checkpoint, loop, schedule
from ecellm_mlx.training.setup import create_run

LOSS_TOLERANCE, ADAPTER_TOLERANCE = 1e-4, 1e-3
IGNORED = -100
# One configuration with everything on that could differ.
SETTINGS = (
    "dropout=0",
    "rank=4",
    "alpha=8",
    "learning_rate=1e-3",
    "warmup_ratio=0.2",
    "clip_norm=0.5",
    "weight_decay=0.01",
    "batch_size=4",
    "micro_batch_size=2",
)


@dataclass(frozen=True)
class Step:
    """One optimizer step on one side; ``grad_norm`` is the one before clipping."""

    loss: float
    grad_norm: float
    learning_rate: float


@dataclass(frozen=True)
class Comparison:
    """The two courses of a training and what became of the adapters.

    Attributes:
        ours, theirs: the steps in their order.
        difference: largest absolute difference between the final adapters.
        movement: largest absolute change of an element since the start, ours.
        unequal: share of elements that differ by more than a tenth of the tolerance.
    """

    ours: list[Step]
    theirs: list[Step]
    difference: float
    movement: float
    unequal: float

    @property
    def loss_difference(self) -> float:
        """Largest relative difference of a step's loss."""
        return max(
            abs(a.loss - b.loss) / abs(b.loss)
            for a, b in zip(self.ours, self.theirs, strict=True)
        )

    @property
    def equal(self) -> bool:
        """Whether both differences are within their tolerances."""
        return self.loss_difference <= LOSS_TOLERANCE and self.difference <= ADAPTER_TOLERANCE


def compare(model: Path, data: Path, work: Path, settings: Sequence[str]) -> Comparison:
    """Train on both sides.

    Args:
        model: float32 folder that transformers and mlx-lm both load.
        data: dataset folder.
        work: empty folder for the run and the adapters.
        settings: ``key=value`` overrides of the default recipe.
    """
    run = create_run(str(model), str(data), None, settings, work / "run")
    context = jobs.JobContext(run)
    try:
        trainer = loop.Trainer(context)
        start = work / "start"
        start.mkdir()
        trainer.write_adapter(start)
        peft = exporting.to_peft(start, work / "peft", base=str(model))
        theirs, their_adapter = train_reference(model, peft, trainer)
        trainer.run()
    finally:
        context.close()
    ours = [
        Step(event.loss or float("nan"), event.grad_norm or float("nan"), event.learning_rate)
        for event in run.reader().read()
        if isinstance(event, events.TrainMetrics)
    ]
    final = _tensors(checkpoint.complete(run.path / "checkpoints")[-1])
    before = _tensors(start)
    differences = [np.abs(final[name] - their_adapter[name]) for name in final]
    return Comparison(
        ours,
        theirs,
        difference=float(max(d.max() for d in differences)),
        movement=float(max(np.abs(final[name] - before[name]).max() for name in final)),
        unequal=float(
            sum((d > ADAPTER_TOLERANCE / 10).sum() for d in differences)
            / sum(d.size for d in differences)
        ),
    )


def train_reference(
    model: Path, adapter: Path, trainer: loop.Trainer
) -> tuple[list[Step], dict[str, np.ndarray]]:
    """Train the PEFT adapter on the plan of ``trainer``; the steps and the final tensors.

    Tensors come under our names and in our layout, lora_a (in, r) and lora_b (r, out).
    """
    import torch
    import transformers
    from peft import PeftModel

    recipe = trainer.recipe
    network = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    network = PeftModel.from_pretrained(network, adapter, is_trainable=True).train()
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    scheduler = transformers.get_scheduler(
        recipe.schedule,
        optimizer,
        num_warmup_steps=schedule.warmup_steps(trainer.total_steps, recipe.warmup_ratio),
        num_training_steps=trainer.total_steps,
    )
    steps = []
    for number in range(trainer.total_steps):
        epoch, position = divmod(number, trainer.steps_per_epoch)
        batches = [
            collate(trainer.train_set.kept, part, trainer.pad_id)
            for part in trainer.plan(epoch)[position]
        ]
        supervised = sum(batch.supervised for batch in batches)
        total = 0.0
        for batch in batches:
            inputs = {name: torch.from_numpy(array) for name, array in _padded(batch).items()}
            if recipe.loss_weighting == "token":
                part = network(**inputs, num_items_in_batch=supervised).loss
            else:
                part = network(**inputs).loss / len(batches)
            part.backward()
            total += part.item()
        norm = torch.nn.utils.clip_grad_norm_(parameters, recipe.clip_norm)
        steps.append(Step(total, norm.item(), optimizer.param_groups[0]["lr"]))
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    tensors = {}
    for name, value in network.named_parameters():
        if value.requires_grad:
            path = name.removeprefix("base_model.model.").replace(".default", "")
            module, leaf = path.removesuffix(".weight").rsplit(".", 1)
            tensors[f"{module}.{leaf.lower()}"] = value.detach().numpy().T
    return steps, tensors


def _padded(batch: Batch) -> dict[str, np.ndarray]:
    """``input_ids``, ``attention_mask`` and ``labels`` (B, T), as a collator makes them."""
    labels = np.full(batch.tokens.shape, IGNORED, np.int64)
    labels[batch.target_rows, batch.target_positions + 1] = batch.target_ids
    width = batch.tokens.shape[1]
    # Every row's last target is its last token.
    lengths = np.zeros(len(batch.tokens), np.int64)
    np.maximum.at(lengths, batch.target_rows, batch.target_positions.astype(np.int64) + 2)
    return {
        "input_ids": batch.tokens.astype(np.int64),
        "attention_mask": (np.arange(width) < lengths[:, None]).astype(np.int64),
        "labels": labels,
    }


def float32_folder(model: Path, target: Path) -> Path:
    """A copy of ``model`` with plain float32 weights, which transformers loads as well."""
    write.export_hf(write.Source(str(model), None), target, dtype="float32")
    return target


def shortest(source: Path, target: Path, count: int) -> Path:
    """A dataset folder with the ``count`` shortest training rows of ``source``."""
    files = rows.dataset(source)
    found = sorted(
        rows.load(files.train), key=lambda r: len(r.instruction + r.input + r.output)
    )
    target.mkdir(parents=True)
    with (target / "train.jsonl").open("w", encoding="utf-8") as stream:
        for row in found[:count]:
            stream.write(json.dumps(row.__dict__) + "\n")
    return target


def show(result: Comparison) -> None:
    """Print the curves and the verdict."""
    print(f"{'step':>4}  {'ours':>10}  {'PEFT':>10}  {'relative':>9}  {'norm ours':>10}  "
          f"{'norm PEFT':>10}  {'rate':>9}")  # fmt: skip
    for number, (a, b) in enumerate(zip(result.ours, result.theirs, strict=True), start=1):
        print(f"{number:>4}  {a.loss:>10.6f}  {b.loss:>10.6f}  "
              f"{abs(a.loss - b.loss) / abs(b.loss):>9.1e}  {a.grad_norm:>10.6f}  "
              f"{b.grad_norm:>10.6f}  {b.learning_rate:>9.2e}")  # fmt: skip
    print(
        f"losses differ by {result.loss_difference:.1e} at most (relative; "
        f"{LOSS_TOLERANCE:.0e} is allowed); adapters by {result.difference:.1e} "
        f"({ADAPTER_TOLERANCE:.0e} is allowed) after moving by up to {result.movement:.1e}; "
        f"{result.unequal:.2%} of their elements differ by more than a tenth of that"
    )


def main() -> int:
    """Compare under both loss weightings."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m", help="registry name or folder")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/ecinstruct_sample"))
    parser.add_argument("--rows", type=int, default=32, help="of the shortest training rows")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    verdicts = []
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        model = float32_folder(registry.resolve(options.model), work / "model")
        data = shortest(options.data, work / "data", options.rows)
        for weighting in ("token", "microbatch"):
            print(f"\n{options.model}, loss_weighting={weighting}")
            (work / weighting).mkdir()
            chosen = [*SETTINGS, f"max_steps={options.steps}", f"loss_weighting={weighting}"]
            result = compare(model, data, work / weighting, [*chosen, *options.set])
            show(result)
            verdicts.append(result.equal)
    return 0 if all(verdicts) else 1


def _tensors(folder: Path) -> dict[str, Any]:
    loaded = mx.load(str(folder / "adapters.safetensors"))
    assert isinstance(loaded, dict)
    return {name: np.array(array) for name, array in loaded.items()}


if __name__ == "__main__":
    sys.exit(main())
