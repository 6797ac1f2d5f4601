"""Training on the plain path is training with a device's extras, to rounding."""

from __future__ import annotations

from pathlib import Path

import pytest

from ecellm_mlx import device, jobs
from ecellm_mlx.device.backend import mx
from ecellm_mlx.jobs import events
from ecellm_mlx.training.setup import create_run
from tests import without_extras
from tests.cases import proof

pytestmark = pytest.mark.skipif(device.expected() is not device.CPU, reason="plain anyway")

SETTINGS = [
    "batch_size=4",
    "micro_batch_size=2",
    "max_steps=4",
    "eval_every=2",
    "learning_rate=1e-3",
    "warmup_ratio=0",
]
# Adam divides by the size of a gradient, so that the rounding of a small one tells.
ADAPTER_TOLERANCE = 2e-4
EXECUTE = """
from ecellm_mlx import jobs

raise SystemExit(jobs.execute(jobs.RunDirectory(Path(sys.argv[1]))))
"""


def created(model: Path, data: Path, out: Path, *settings: str) -> jobs.RunDirectory:
    return create_run(str(model), str(data), None, [*SETTINGS, *settings], out)


def numbers(run: jobs.RunDirectory) -> list[float]:
    """All losses and norms that a run told."""
    seen = list(run.reader().read())
    steps = [e for e in seen if isinstance(e, events.TrainMetrics)]
    assert len(steps) == 4
    validations = [e.loss for e in seen if isinstance(e, events.EvalMetrics)]
    return [*(s.loss for s in steps), *(s.grad_norm for s in steps), *validations]


def device_of(run: jobs.RunDirectory) -> str:
    return next(e.device for e in run.reader().read() if isinstance(e, events.Started))


def assert_same(run: jobs.RunDirectory, other: jobs.RunDirectory) -> None:
    assert numbers(run) == pytest.approx(numbers(other), rel=1e-4)
    mine, theirs = (
        mx.load(str(r.path / "adapter" / "adapters.safetensors")) for r in (run, other)
    )
    assert mine.keys() == theirs.keys()
    for name, array in mine.items():
        assert mx.abs(array - theirs[name]).max().item() < ADAPTER_TOLERANCE, name


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("llama", ["dropout=0.3", "targets=all-linear,embed_tokens"]),
        proof("llama", ["dropout=0.3", "grad_checkpoint=true"]),
        proof("mistral", ["dropout=0", "dora=true", "targets=q_proj,v_proj,lm_head"]),
        proof("phi", ["dropout=0.3", "loss_weighting=microbatch"]),
        ("phi", ["dropout=0", "bits=4"]),
    ],
)
def test_both_paths_train_the_same_adapter(
    name: str,
    settings: list[str],
    tiny_models: dict[str, Path],
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With the same dropout, whichever rows a thread computes."""
    runs = {}
    for path in ("auto", "plain"):
        monkeypatch.setenv("ECELLM_DEVICE", path)
        runs[path] = created(tiny_models[name], dataset, tmp_path / path, *settings)
        assert jobs.execute(runs[path]) == 0, runs[path].status().message
    assert device_of(runs["auto"]) == "cpu"
    assert device_of(runs["plain"]) == "cpu (plain)"
    assert_same(runs["plain"], runs["auto"])


def test_without_the_extras_a_job_trains_the_same_adapter(
    tiny: Path, dataset: Path, tmp_path: Path
) -> None:
    with_extras = created(tiny, dataset, tmp_path / "with", "dropout=0.3")
    plain = created(tiny, dataset, tmp_path / "without", "dropout=0.3")
    assert jobs.execute(with_extras) == 0
    without_extras.run(EXECUTE, plain.path)
    assert device_of(plain) == "cpu (plain)"
    assert_same(plain, with_extras)
