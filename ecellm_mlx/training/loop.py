"""The training loop: LoRA on one machine, from a run directory.

One optimizer step is ``batch_size`` rows, computed in micro-batches whose
gradients add up. Everything random is a function of (seed, epoch, step), so the
loop can start again at any step. The loop knows nothing of faces: it reads orders
and writes events through its ``JobContext``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ecellm_mlx import events, runtime
from ecellm_mlx.backend import RUNTIME, tree_flatten
from ecellm_mlx.data import batches as plans
from ecellm_mlx.data import encoding, rows
from ecellm_mlx.errors import JobError
from ecellm_mlx.jobs import Control, JobContext
from ecellm_mlx.models import loading, lora
from ecellm_mlx.training import checkpoint, dataset, loss
from ecellm_mlx.training.recipe import Recipe, from_values
from ecellm_mlx.training.recompute import recompute_blocks
from ecellm_mlx.training.step import OptimizerStep

MAX_SKIPPED_IN_A_ROW = 5
RUN_STOPPED, RUN_FINISHED = "stopped", "finished"


def run_job(context: JobContext) -> tuple[str, dict[str, Any]]:
    """Train as ``job.json`` says; returns the outcome and the results."""
    return Trainer(context).run()


class Trainer:
    """State of one run. The adapter, the optimizer and ``state`` are what is saved."""

    def __init__(self, context: JobContext) -> None:
        self.context = context
        self.recipe: Recipe = from_values(context.config["recipe"])
        self.state = checkpoint.TrainerState()
        runtime.reset_peak_memory()
        self.base = loading.load(
            context.config["model"], bits=self.recipe.bits, warn=self._warn
        )
        self._check_fingerprints()
        self.model = self.base.model
        loss.check_trainable(self.model)
        self.pad_id = dataset.pad_id(self.base)
        self.train_set = self._encode("train", "training")
        self.val_batches: list[plans.Batch] = []
        if context.config.get("val"):
            self.val_batches = dataset.validation_batches(
                self._encode("val", "validation"), self.recipe.micro_batch_size, self.pad_id
            )
        self.spec = self._attach()
        self.lengths = self.train_set.lengths
        self.steps_per_epoch = math.ceil(len(self.lengths) / self.recipe.batch_size)
        self.total_steps = self.recipe.max_steps or max(
            1, math.ceil(self.steps_per_epoch * self.recipe.epochs)
        )
        self.take_step = OptimizerStep(self.model, self.recipe, self.total_steps)
        self.eval_every = self.recipe.eval_every or self.steps_per_epoch
        self.save_every = self.recipe.save_every or self.steps_per_epoch

    def run(self) -> tuple[str, dict[str, Any]]:
        """Train from the newest checkpoint, or from the start."""
        resumed_from = self._resume()
        self.context.started(
            device=RUNTIME.device, total_steps=self.total_steps, resumed_from=resumed_from
        )
        self.context.advance(self.state.step)
        skipped_in_a_row = 0
        for micro_batches in self._steps():
            if self._obey() is Control.STOP:
                self._save_checkpoint()
                return RUN_STOPPED, self._results()
            taken = self._step(micro_batches)
            skipped_in_a_row = 0 if taken else skipped_in_a_row + 1
            if skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
                raise JobError(
                    f"the loss was not finite for {skipped_in_a_row} steps in a row, up to "
                    f"step {self.state.step}",
                    cure="lower learning_rate, or check the rows named in the warnings",
                )
            self.context.advance(self.state.step)
            last = self.state.step == self.total_steps
            if last or self.state.step % self.eval_every == 0:
                self._validate()
            if last or self.state.step % self.save_every == 0:
                self._save_checkpoint()
            if self._out_of_patience():
                self._warn(
                    f"validation has not improved {self.state.validations_without_gain} times; "
                    f"stopped early at step {self.state.step}"
                )
                self._save_checkpoint()
                break
        return RUN_FINISHED, self._results()

    def _steps(self) -> Iterator[list[list[int]]]:
        """Micro-batches (row indices) of each step that is still to do."""
        while self.state.step < self.total_steps:
            epoch, position = divmod(self.state.step, self.steps_per_epoch)
            plan = plans.plan(
                self.lengths,
                micro_batch_size=self.recipe.micro_batch_size,
                batch_size=self.recipe.batch_size,
                epoch=epoch,
                seed=self.recipe.seed,
                order=self.recipe.order,
            )
            for micro_batches in plan[position:]:
                if self.state.step >= self.total_steps:
                    return
                yield micro_batches

    def _step(self, micro_batches: list[list[int]]) -> bool:
        """One optimizer step; False if it was skipped for a non-finite value."""
        started = time.perf_counter()
        batches = [
            plans.collate(self.train_set.kept, part, self.pad_id) for part in micro_batches
        ]
        result = self.take_step(self.state.step, batches)
        seconds = time.perf_counter() - started
        supervised = sum(batch.supervised for batch in batches)
        self.state.step += 1
        self.state.supervised_tokens += supervised
        if result.finite:
            self.state.last_loss = result.loss
        else:
            self.state.skipped_steps += 1
            at_fault = result.culprits or range(len(micro_batches))
            ids = [self.train_set.kept_ids[i] for part in at_fault for i in micro_batches[part]]
            self._warn(
                f"step {self.state.step} skipped: loss {result.loss}, gradient norm "
                f"{result.grad_norm}; rows {dataset.shown(ids)}"
            )
        self.context.emit(
            events.TrainMetrics(
                step=self.state.step,
                loss=result.loss,
                learning_rate=result.learning_rate,
                grad_norm=result.grad_norm,
                supervised_tokens=supervised,
                tokens_per_second=sum(batch.real_tokens for batch in batches) / seconds,
                rows_per_second=sum(map(len, micro_batches)) / seconds,
                peak_memory_gb=runtime.peak_memory_gb(),
            )
        )
        return result.finite

    def _validate(self) -> None:
        if not self.val_batches:
            self._keep_as_best()
            return
        value = loss.validation_loss(self.model, self.val_batches)
        self.context.emit(events.EvalMetrics(step=self.state.step, loss=value))
        self.state.history.append((self.state.step, value))
        if self.state.best_loss is None or value < self.state.best_loss:
            self.state.best_loss, self.state.best_step = value, self.state.step
            self.state.validations_without_gain = 0
            self._keep_as_best()
        else:
            self.state.validations_without_gain += 1

    def _keep_as_best(self) -> None:
        self.state.best_step = self.state.step
        checkpoint.replace_adapter(self.context.run.path / "adapter", self._write_adapter)

    def _save_checkpoint(self) -> None:
        path = checkpoint.save(
            self.context.run.path / "checkpoints",
            self.state,
            self.take_step.optimizer,
            self._write_adapter,
            self.recipe.keep_checkpoints,
        )
        self.context.emit(
            events.Checkpoint(
                step=self.state.step,
                path=str(path),
                best=self.state.best_step == self.state.step,
            )
        )

    def _obey(self) -> Control | None:
        order = self.context.poll(on_pause=self._save_checkpoint)
        if order is Control.CHECKPOINT:
            self._save_checkpoint()
        return order

    def _resume(self) -> int | None:
        path = checkpoint.newest_valid(self.context.run.path / "checkpoints", self._warn)
        if path is None:
            return None
        self.state = checkpoint.restore(path, self.model, self.take_step.optimizer)
        return self.state.step

    def _attach(self) -> lora.LoraSpec:
        spec = lora.LoraSpec(
            self.recipe.rank,
            self.recipe.scale,
            self.recipe.dropout,
            lora.resolve_targets(self.model, self.recipe.targets),
            self.recipe.dora,
        )
        lora.attach(self.model, spec, seed=self.recipe.seed)
        if self.recipe.grad_checkpoint:
            recompute_blocks(self.model)
        return spec

    def _write_adapter(self, folder: Path) -> None:
        config = self.context.config
        lora.save(
            folder,
            self.model,
            self.spec,
            {
                "base": {
                    "name": config["model_name"],
                    "model_type": self.base.config["model_type"],
                    "fingerprint": self.context.job.fingerprints["base"],
                    "layers": len(self.model.layers),
                },
                "alpha": self.recipe.alpha,
                "rslora": self.recipe.rslora,
                "template": self.base.frame.value,
                "recipe": self.recipe.to_dict(),
                "metrics": {
                    "step": self.state.step,
                    "validation_loss": self.state.best_loss,
                },
            },
        )

    def _encode(self, split: str, purpose: str) -> encoding.EncodedSet:
        path = Path(self.context.config[split])
        return dataset.encode(path, purpose, self.base, self.recipe.max_seq_length, self._warn)

    def _check_fingerprints(self) -> None:
        config, known = self.context.config, self.context.job.fingerprints
        now = {"base": self.base.fingerprint, "train": rows.digest([Path(config["train"])])}
        if config.get("val"):
            now["val"] = rows.digest([Path(config["val"])])
        changed = [name for name, value in now.items() if known.get(name) != value]
        if changed:
            what = {"base": "base model", "train": "training rows", "val": "validation rows"}
            raise JobError(
                f"the {' and the '.join(what[name] for name in changed)} changed since this "
                "run was created",
                cure="restore them, or start a new run with `ecellm train`",
            )

    def _out_of_patience(self) -> bool:
        patience = self.recipe.early_stop_patience
        return bool(patience) and self.state.validations_without_gain >= patience

    def _results(self) -> dict[str, Any]:
        return {
            "steps": self.state.step,
            "loss": self.state.last_loss,
            "best_validation_loss": self.state.best_loss,
            "best_step": self.state.best_step,
            "skipped_steps": self.state.skipped_steps,
            "peak_memory_gb": runtime.peak_memory_gb(),
            "adapter": str(self.context.run.path / "adapter"),
            "trainable_parameters": sum(
                a.size for _, a in tree_flatten(self.model.trainable_parameters())
            ),
        }

    def _warn(self, message: str) -> None:
        self.context.emit(events.Warned(message=message))
