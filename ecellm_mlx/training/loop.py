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

import numpy as np

from ecellm_mlx import events, runtime
from ecellm_mlx.backend import RUNTIME, mx, nn, optim, scalar, tree_flatten, tree_map
from ecellm_mlx.data import batches as plans
from ecellm_mlx.data import encoding, rows
from ecellm_mlx.errors import DataError, JobError
from ecellm_mlx.jobs import Control, JobContext
from ecellm_mlx.models import loading, lora
from ecellm_mlx.training import checkpoint, loss, schedule
from ecellm_mlx.training.recipe import Recipe, from_values

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
        self.train_set = self._encode(context.config["train"], "training")
        val = context.config.get("val")
        self.val_batches = self._validation_batches(val) if val else []
        self.spec = self._attach()
        self.optimizer = optim.AdamW(
            learning_rate=self.recipe.learning_rate,
            betas=[0.9, 0.999],
            eps=1e-8,
            weight_decay=self.recipe.weight_decay,
            bias_correction=True,
        )
        self.optimizer.init(self.model.trainable_parameters())
        self.loss_and_grad = nn.value_and_grad(self.model, loss.negative_log_likelihood)
        self.lengths = self.train_set.lengths
        self.steps_per_epoch = math.ceil(len(self.lengths) / self.recipe.batch_size)
        self.total_steps = self.recipe.max_steps or max(
            1, math.ceil(self.steps_per_epoch * self.recipe.epochs)
        )
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
            started = time.perf_counter()
            taken = self._step(micro_batches, started)
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

    def _step(self, micro_batches: list[list[int]], started: float) -> bool:
        """One optimizer step; False if it was skipped for a non-finite value."""
        self.model.train()
        batches = [
            plans.collate(self.train_set.kept, part, self._pad_id) for part in micro_batches
        ]
        supervised = sum(batch.supervised for batch in batches)
        total = mx.array(0.0)
        gradients: Any = None
        for index, batch in enumerate(batches):
            mx.random.seed(_fold(self.recipe.seed, self.state.step, index))
            value, gradient = self.loss_and_grad(self.model, batch)
            weight = 1 / (
                supervised
                if self.recipe.loss_weighting == "token"
                else batch.supervised * len(batches)
            )
            total = total + value * weight
            gradient = tree_map(lambda g, w=weight: g * w, gradient)
            gradients = gradient if gradients is None else tree_map(mx.add, gradients, gradient)
            mx.eval(total, gradients)
        clip = self.recipe.clip_norm or math.inf
        gradients, norm = optim.clip_grad_norm(gradients, clip)
        rate = self.recipe.learning_rate * schedule.factor(
            self.recipe.schedule, self.state.step, self.total_steps, self.recipe.warmup_ratio
        )
        step_loss, grad_norm = scalar(total), scalar(norm)
        finite = math.isfinite(step_loss) and math.isfinite(grad_norm)
        if finite:
            self.optimizer.learning_rate = rate
            self.optimizer.update(self.model, gradients)
            mx.eval(self.model.trainable_parameters(), self.optimizer.state)
        else:
            self.state.skipped_steps += 1
            ids = [self.train_set.kept_ids[i] for part in micro_batches for i in part]
            self._warn(
                f"step {self.state.step + 1} skipped: loss {step_loss}, gradient norm "
                f"{grad_norm}; rows {', '.join(ids[:8])}{' …' if len(ids) > 8 else ''}"
            )
        seconds = time.perf_counter() - started
        self.state.step += 1
        self.state.supervised_tokens += supervised
        self.state.last_loss = step_loss if finite else self.state.last_loss
        self.context.emit(
            events.TrainMetrics(
                step=self.state.step,
                loss=step_loss,
                learning_rate=rate,
                grad_norm=grad_norm,
                supervised_tokens=supervised,
                tokens_per_second=sum(batch.real_tokens for batch in batches) / seconds,
                rows_per_second=sum(map(len, micro_batches)) / seconds,
                peak_memory_gb=runtime.peak_memory_gb(),
            )
        )
        return finite

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
            self.optimizer,
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
        self.state = checkpoint.restore(path, self.model, self.optimizer)
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
            _recompute_activations(self.model)
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

    def _encode(self, path: str, purpose: str) -> encoding.EncodedSet:
        encoded = encoding.encode_rows(
            rows.load(Path(path)),
            self.base.tokenizer,
            self.base.frame,
            self.recipe.max_seq_length,
        )
        if encoded.dropped_ids:
            self._warn(
                f"{len(encoded.dropped_ids)} of the {purpose} rows lose their whole answer to "
                f"max_seq_length={self.recipe.max_seq_length} and are left out: "
                + ", ".join(encoded.dropped_ids[:5])
                + (" …" if len(encoded.dropped_ids) > 5 else "")
            )
        if not encoded.kept:
            raise DataError(
                f"{path} has no row with a supervised token left",
                cure="raise max_seq_length, or check the rows with `ecellm data check`",
            )
        return encoded

    def _validation_batches(self, path: str) -> list[plans.Batch]:
        """Batches by length; their order never draws from the training seed."""
        encoded = self._encode(path, "validation")
        order = np.argsort(encoded.lengths, kind="stable").tolist()
        size = self.recipe.micro_batch_size
        return [
            plans.collate(encoded.kept, order[i : i + size], self._pad_id)
            for i in range(0, len(order), size)
        ]

    @property
    def _pad_id(self) -> int:
        """Any id does: padding stands to the right and is never a target."""
        pad = self.base.tokenizer.pad_token_id
        return 0 if pad is None else int(pad)

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


def _fold(*numbers: int) -> int:
    """One 64-bit seed from several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def _recompute_activations(model: nn.Module) -> None:
    """Trade time for memory: each block keeps its input only and runs again backwards."""
    for block in model.layers:
        kind = type(block)

        def call(
            self: nn.Module, *args: Any, _forward: Any = kind.__call__, **named: Any
        ) -> mx.array:
            def forward(parameters: Any, *inner: Any, **inner_named: Any) -> mx.array:
                self.update(parameters)
                return _forward(self, *inner, **inner_named)

            return mx.checkpoint(forward)(self.trainable_parameters(), *args, **named)

        # A subclass for this model alone: other models of the kind stay as they are.
        block.__class__ = type(f"Checkpointed{kind.__name__}", (kind,), {"__call__": call})
