"""The training loop: LoRA from a run directory, on one machine or several.

One optimizer step is ``batch_size`` rows, computed in micro-batches whose
gradients add up. Everything random is a function of (seed, epoch, step), so the
loop can start again at any step. The loop knows nothing of faces: it reads orders
and writes events through its ``JobContext``. Of several ranks the first one does so,
and tells the others.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ecellm_mlx import device
from ecellm_mlx.data import batches as plans
from ecellm_mlx.data import encoding, rows
from ecellm_mlx.device import mac, runtime
from ecellm_mlx.device.backend import tree_flatten
from ecellm_mlx.distributed import ranks
from ecellm_mlx.errors import EcellmError, JobError, RecipeError
from ecellm_mlx.jobs import events
from ecellm_mlx.jobs.context import JobContext, StopRequested
from ecellm_mlx.jobs.directory import Control
from ecellm_mlx.models import loading, lora
from ecellm_mlx.training import adapter, checkpoint, inputs, loss, validation
from ecellm_mlx.training.recipe import Recipe, from_values
from ecellm_mlx.training.step import OptimizerStep, StepResult

RUN_STOPPED, RUN_FINISHED = "stopped", "finished"
# Orders in rising precedence: ranks agree on the highest that one of them has.
ORDERS = (None, Control.CHECKPOINT, Control.STOP)


def run_job(context: JobContext) -> tuple[str, dict[str, Any]]:
    """Train as ``job.json`` says; returns the outcome and the results.

    Raises:
        EcellmError: this rank or another one cannot start or go on.
        StopRequested: a stop came before there was anything to save.
    """
    group = ranks.current()
    trainer: Trainer | None = None
    problem: Exception | None = None
    try:
        trainer = Trainer(context, group)
    except (EcellmError, StopRequested) as error:
        problem = error
    # One rank must not wait for another that will never come.
    group.raise_together(problem)
    assert trainer is not None
    return trainer.run()


class Trainer:
    """State of one run. The adapter, the optimizer and ``state`` are what is saved.

    Args:
        context: the job, its voice and its orders.
        group: the ranks that train together; those of ``mlx.launch`` when not given.
    """

    def __init__(self, context: JobContext, group: ranks.Ranks | None = None) -> None:
        self.context = context
        self.group = group or ranks.current()
        self.recipe: Recipe = from_values(context.config["recipe"])
        self.state = checkpoint.TrainerState()
        # What the newest checkpoint on disk holds.
        self._saved: checkpoint.TrainerState | None = None
        self._check_shares()
        mac.wire_memory()
        runtime.reset_peak_memory()
        self.base = loading.load(
            context.config["model"], bits=self.recipe.bits, warn=self._warn
        )
        inputs.check_inputs(context.job, self.base.fingerprint)
        context.raise_if_stopped()
        self.model = self.base.model
        loss.check_trainable(self.model)
        self.pad_id = inputs.pad_id(self.base)
        self.train_set = self._encode("train", "training")
        context.raise_if_stopped()
        self.val_set = self._encode("val", "validation") if context.config.get("val") else None
        self.val_batches = (
            inputs.validation_batches(self.val_set, self.recipe.micro_batch_size, self.pad_id)
            if self.val_set
            else []
        )
        for problem in inputs.thin(self.train_set, self.val_set, self.recipe):
            self._warn(problem)
        context.raise_if_stopped()
        self.spec = adapter.attach(self.model, self.recipe)
        self.lengths = self.train_set.lengths
        self.steps_per_epoch = math.ceil(len(self.lengths) / self.recipe.batch_size)
        self.total_steps = self.recipe.max_steps or max(
            1, math.ceil(self.steps_per_epoch * self.recipe.epochs)
        )
        self.take_step = OptimizerStep(self.model, self.recipe, self.total_steps, self.group)
        self.eval_every = self.recipe.eval_every or self.steps_per_epoch
        self.save_every = self.recipe.save_every or self.steps_per_epoch
        self.sampler = self._sampler() if self.recipe.sample_every else None

    def run(self) -> tuple[str, dict[str, Any]]:
        """Train from the newest checkpoint, or from the start."""
        resumed_from = self._resume()
        self.context.started(
            device=device.name(),
            total_steps=self.total_steps,
            resumed_from=resumed_from,
            facts=self._facts(),
        )
        self.context.advance(self.state.step)
        try:
            if resumed_from is not None:
                # What a stop within the validation of its last step left undone.
                self._end_step()
            for micro_batches in self._steps():
                self._obey()
                self._step(micro_batches)
                self.context.advance(self.state.step)
                self._end_step()
        except StopRequested:
            self._save_checkpoint()
            return RUN_STOPPED, self._results()
        return RUN_FINISHED, self._results()

    def _end_step(self) -> None:
        """What is due after the step just taken, and is not done yet.

        Raises:
            StopRequested: a stop came within; what was not done is done after a resume.
        """
        step = self.state.step
        if step > self.state.validated_step and self._due(self.eval_every):
            self._validate()
        if self._saved != self.state and self.sampler and self._due(self.recipe.sample_every):
            self._sample()
        if self._out_of_patience():
            self._warn(
                f"validation has not improved {self.state.validations_without_gain} times; "
                f"stopped early at step {step}"
            )
        if self._done() or self._due(self.save_every):
            self._save_checkpoint()

    def _due(self, every: int) -> bool:
        """Whether something that happens every so many steps happens after this one."""
        return self.state.step == self.total_steps or self.state.step % every == 0

    def _steps(self) -> Iterator[list[list[int]]]:
        """Micro-batches (row indices) of each step that is still to do."""
        while not self._done():
            epoch, position = divmod(self.state.step, self.steps_per_epoch)
            for micro_batches in self.plan(epoch)[position:]:
                if self._done():
                    return
                yield micro_batches

    def plan(self, epoch: int) -> plans.Plan:
        """The steps of an epoch, as micro-batches of indices into ``train_set.kept``."""
        return plans.plan(
            self.lengths,
            micro_batch_size=self.recipe.micro_batch_size,
            batch_size=self.recipe.batch_size,
            epoch=epoch,
            seed=self.recipe.seed,
            order=self.recipe.order,
        )

    def _step(self, micro_batches: list[list[int]]) -> None:
        """One optimizer step. A step whose numbers are not finite is skipped and counted.

        Raises:
            JobError: too many of them in a row.
        """
        started = time.perf_counter()
        batches = [
            plans.collate(self.train_set.kept, part, self.pad_id) for part in micro_batches
        ]
        result = self.take_step(self.state.step, batches)
        seconds = time.perf_counter() - started
        supervised = sum(batch.supervised for batch in batches)
        real_tokens = sum(batch.real_tokens for batch in batches)
        self.state.step += 1
        self.state.supervised_tokens += supervised
        if result.finite:
            self.state.last_loss = result.loss
            self.state.skipped_in_a_row = 0
        else:
            self.state.skipped_steps += 1
            self.state.skipped_in_a_row += 1
            self._warn(self._blame(result, micro_batches))
        self.context.emit(
            events.TrainMetrics(
                step=self.state.step,
                loss=result.loss,
                learning_rate=result.learning_rate,
                grad_norm=result.grad_norm,
                supervised_tokens=supervised,
                tokens_per_second=real_tokens / seconds,
                rows_per_second=sum(map(len, micro_batches)) / seconds,
                peak_memory_gb=runtime.peak_memory_gb(),
                epoch=self.state.step / self.steps_per_epoch,
                padding=1 - real_tokens / sum(batch.tokens.size for batch in batches),
                skipped_steps=self.state.skipped_steps,
            )
        )
        if self.state.skipped_in_a_row >= self.recipe.max_skipped_steps:
            raise JobError(
                f"the loss or its gradient was not finite for {self.state.skipped_in_a_row} "
                f"steps in a row, up to step {self.state.step}",
                cure="lower learning_rate, or check the rows named in the warnings",
            )

    def _blame(self, result: StepResult, micro_batches: list[list[int]]) -> str:
        """Which rows made a step useless."""
        at_fault = [micro_batches[i] for i in result.culprits] or micro_batches
        ids = [self.train_set.kept_ids[i] for part in at_fault for i in part]
        where = (
            f"in {len(at_fault)} of {len(micro_batches)} micro-batches: rows"
            if result.culprits
            else "only in the sum of all micro-batches: rows"
        )
        return (
            f"step {self.state.step} skipped: loss {result.loss}, gradient norm "
            f"{result.grad_norm}, {where} {inputs.shown(ids)}"
        )

    def _validate(self) -> None:
        """Validate, and keep the adapter if it is the best so far.

        Raises:
            StopRequested: the state is as if it had not begun.
        """
        before = self._copy()
        best = True
        if self.val_batches:
            value = validation.validation_loss(
                self.take_step.loss, self.val_batches, self.group, self._stop_between_batches
            )
            self.context.emit(events.EvalMetrics(step=self.state.step, loss=value))
            if not math.isfinite(value):
                self._warn(f"the validation loss of step {self.state.step} is {value}")
            best = validation.record(self.state, value)
        self.state.validated_step = self.state.step
        if best and not self._keep_as_best():
            self.state = before
            raise StopRequested

    def _stop_between_batches(self) -> None:
        # Several ranks agree on a stop at a step's end only.
        if self.group.size == 1 and self.context.stop_requested():
            raise StopRequested

    def _sample(self) -> None:
        if self.sampler and self.group.leader:
            for event in self.sampler(self.state.step):
                self.context.emit(event)

    def _keep_as_best(self) -> bool:
        """Write ``RUN/adapter``; False if a stop came while the disk was full."""
        self.state.best_step = self.state.step
        folder = self.context.run.path / "adapter"
        saved = not self.group.leader or self.context.save(
            lambda: checkpoint.replace_adapter(folder, self.write_adapter), "the best adapter"
        )
        return not self.group.highest(int(not saved))

    def _save_checkpoint(self) -> None:
        """Save the current state, unless it is saved; waits while the disk is full."""
        if not self.group.leader or self._saved == self.state:
            return
        what = f"the checkpoint of step {self.state.step}"
        if self.context.save(self._write_checkpoint, what):
            self._saved = self._copy()

    def _write_checkpoint(self) -> None:
        path = checkpoint.save(
            self.context.run.path / "checkpoints",
            self.state,
            self.take_step.optimizer,
            self.write_adapter,
            self.recipe.keep_checkpoints,
            inputs.conditions(),
        )
        self.context.emit(
            events.Checkpoint(
                step=self.state.step,
                path=str(path),
                best=self.state.best_step == self.state.step,
            )
        )

    def _copy(self) -> checkpoint.TrainerState:
        return replace(self.state, history=list(self.state.history))

    def _obey(self) -> None:
        """Take the orders of this step boundary.

        Raises:
            StopRequested: the order was to stop.
        """
        order = self.context.poll(on_pause=self._save_checkpoint)
        order = ORDERS[self.group.highest(ORDERS.index(order))]
        if order is Control.STOP:
            raise StopRequested
        if order is Control.CHECKPOINT:
            self._save_checkpoint()

    def _resume(self) -> int | None:
        """Take up the newest checkpoint; the other ranks take over the leader's state."""
        path = None
        if self.group.leader:
            checkpoint.recover_adapter(self.context.run.path / "adapter")
            folder = self.context.run.path / "checkpoints"
            path = checkpoint.newest_valid(folder, self._warn)
            inputs.check_recipe(self.context.job, path)
        if path is not None:
            ecellm = lora.read_info(path, self.model).ecellm
            lora.check_base(path, ecellm, self.base.fingerprint)
            if changed := checkpoint.changed_conditions(path, inputs.conditions()):
                self._warn(
                    f"since checkpoint {path.name} this changed: {'; '.join(changed)}; the "
                    "result may differ in its last bits from that of an uninterrupted run"
                )
            self.state = checkpoint.restore(path, self.model, self.take_step.optimizer)
        if self.group.size > 1:
            self.state = checkpoint.share(
                self.state, self.model, self.take_step.optimizer, self.group
            )
        self._saved = self._copy() if path is not None else None
        return self.state.step or None

    def write_adapter(self, folder: Path) -> None:
        """Write the adapter as it is now into an existing folder."""
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
        return inputs.encode(path, purpose, self.base, self.recipe.max_seq_length, self._warn)

    def _sampler(self) -> validation.Sampler:
        config = self.context.config
        return validation.Sampler(
            self.base,
            rows.load(Path(config.get("val") or config["train"])),
            count=self.recipe.samples,
            seed=self.recipe.seed,
            batch_size=self.recipe.micro_batch_size,
        )

    def _check_shares(self) -> None:
        micro_batches = self.recipe.batch_size // self.recipe.micro_batch_size
        if micro_batches < self.group.size:
            raise RecipeError(
                f"batch_size={self.recipe.batch_size} has {micro_batches} micro-batches of "
                f"micro_batch_size={self.recipe.micro_batch_size}, too few for "
                f"{self.group.size} ranks",
                cure="lower micro_batch_size or raise batch_size",
            )

    def _done(self) -> bool:
        return self.state.step >= self.total_steps or self._out_of_patience()

    def _out_of_patience(self) -> bool:
        patience = self.recipe.early_stop_patience
        return bool(patience) and self.state.validations_without_gain >= patience

    def _facts(self) -> dict[str, Any]:
        return {
            "train_rows": len(self.train_set.kept),
            "val_rows": len(self.val_set.kept) if self.val_set else 0,
            "dropped_rows": len(self.train_set.dropped_ids),
            "cut_rows": len(self.train_set.cut_ids),
            "steps_per_epoch": self.steps_per_epoch,
            "padding": plans.padding_share(self.plan(0), self.lengths),
            "trainable_parameters": self._trainable_parameters(),
            "ranks": self.group.size,
        }

    def _results(self) -> dict[str, Any]:
        return {
            "steps": self.state.step,
            "loss": self.state.last_loss,
            "best_validation_loss": self.state.best_loss,
            "best_step": self.state.best_step,
            "skipped_steps": self.state.skipped_steps,
            "dropped_rows": len(self.train_set.dropped_ids),
            "peak_memory_gb": runtime.peak_memory_gb(),
            "adapter": str(self.context.run.path / "adapter"),
            "trainable_parameters": self._trainable_parameters(),
        }

    def _trainable_parameters(self) -> int:
        return sum(a.size for _, a in tree_flatten(self.model.trainable_parameters()))

    def _warn(self, message: str) -> None:
        self.context.emit(events.Warned(message=message))
