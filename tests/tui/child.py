"""A job without a model: a real process, a real ``JobContext``, invented numbers.

``python tests/tui/child.py RUN_DIR`` does what ``jobs.start`` would start. Its
``job.json`` says how: ``steps`` (or the recipe's ``max_steps``), ``seconds`` (of a
step), ``abort_at``, ``fail_at``.
"""

from __future__ import annotations

import math
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

from ecellm_mlx import jobs
from ecellm_mlx.errors import DataError
from ecellm_mlx.jobs import Control, JobContext, RunDirectory, events


def run_job(context: JobContext) -> tuple[str, dict[str, Any]]:
    """Count steps; end, stop, fail or abort as told."""
    config = context.config
    steps = config.get("steps") or config["recipe"]["max_steps"]
    seconds = config.get("seconds", 0.0)
    first = context.run.path / "saved-step"
    done = int(first.read_text()) if first.exists() else 0
    context.started(device="cpu", total_steps=steps, resumed_from=done or None)
    for step in range(done + 1, steps + 1):
        order = context.poll()
        if order is not None:
            first.write_text(str(step - 1))
            context.emit(events.Checkpoint(step=step - 1, path="checkpoints"))
        if order is Control.STOP:
            return "stopped", {"loss": 1.0}
        time.sleep(seconds)
        if step == config.get("abort_at"):
            sys.stderr.write("[METAL] Command buffer execution failed: Insufficient Memory\n")
            sys.stderr.flush()
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            os.abort()
        if step == config.get("fail_at"):
            raise DataError("rows.jsonl:7: no field [output]", cure="correct the row")
        loss = 0.5 + 3 * math.exp(-step / 40)
        context.emit(
            events.TrainMetrics(
                step=step,
                loss=loss,
                learning_rate=1e-4,
                grad_norm=0.7,
                supervised_tokens=32,
                tokens_per_second=812.0,
                rows_per_second=4.0,
                peak_memory_gb=1.5,
            )
        )
        if step % 10 == 0:
            context.emit(events.EvalMetrics(step=step, loss=loss + 0.1))
        context.advance(step)
    return "finished", {"loss": 0.51, "best_validation_loss": 0.61}


if __name__ == "__main__":
    jobs.KINDS["train"] = "__main__:run_job"
    raise SystemExit(jobs.execute(RunDirectory(Path(sys.argv[1]))))
