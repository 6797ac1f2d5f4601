"""The paper's studies as one command each: data scaling, instruction diversity,
leave-one-category-out, generalist against task-specific.

A study is a folder of ordinary runs, made one after the other:

    study.json                 what it is; the same command goes on where it was
    SECTION/test.jsonl         the rows that its arms answer
    SECTION/ARM/data/          the rows that an arm trains on
    SECTION/ARM/train/         its training run
    SECTION/ARM/eval/          its evaluation
    results.json, report.html, report.md

A run that is finished is not made again; one that was stopped or killed goes on from its
checkpoint or its journal.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ecellm_mlx import jobs
from ecellm_mlx.errors import JobError, UsageError
from ecellm_mlx.evaluation import job as evaluations
from ecellm_mlx.evaluation import plots, report, systems
from ecellm_mlx.evaluation.documents import (
    Block,
    Heading,
    Paragraph,
    Plot,
    Table,
    to_html,
    to_markdown,
)
from ecellm_mlx.evaluation.settings import EvaluationSettings
from ecellm_mlx.files import ensure_folder, write_atomic, write_json
from ecellm_mlx.inference.protocol import Decoding
from ecellm_mlx.jobs import RunDirectory, lock
from ecellm_mlx.models import registry
from ecellm_mlx.studies import arms as study_arms
from ecellm_mlx.studies.arms import Arm, Options, Section
from ecellm_mlx.tasks.registry import TASKS
from ecellm_mlx.training import recipe as recipes
from ecellm_mlx.training.setup import create_run

TITLES = {
    "scaling": "Data scaling",
    "diversity": "Instruction diversity",
    "holdout": "Leave one category out",
    "generalist": "Generalist against task-specific",
}

LOCK = ".lock"

# Waits for a run and narrates it; returns the results of its end.
Follow = Callable[[RunDirectory], dict[str, Any]]


@dataclass(frozen=True)
class Study:
    """One study, resolved.

    Attributes:
        kind: a key of ``study_arms.STUDIES``.
        model: registry name or folder of the base.
        data: dataset folder with train, val and test rows.
        recipe, overrides: of every training.
        options: of the kind.
        limit: test rows of a section at most, by stratified sample.
        decoding: how answers are made.
        batch_size: rows computed at once in evaluations.
    """

    kind: str
    model: str
    data: Path
    recipe: str | None = None
    overrides: tuple[str, ...] = ()
    options: Options = field(default_factory=Options)
    limit: int | None = None
    decoding: str = "valid"
    batch_size: int = 16

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        value = json.loads(json.dumps({**asdict(self), "data": str(self.data.absolute())}))
        return dict(value)


def run(
    study: Study, out: Path, *, follow: Follow, say: Callable[[str], None]
) -> dict[str, Any]:
    """Make all runs of a study that are not there yet, then its report.

    Args:
        study: the study.
        out: its folder; the same study may have been begun in it.
        follow: waits for a run.
        say: told which run comes next.

    Returns:
        ``{"study", "out", "sections": [{"title", "arms": [{"name", "rows", "train",
        "eval", "scores"}]}]}``; also in ``results.json``.

    Raises:
        UsageError: an unknown kind of study.
        ModelError, RecipeError: the model is not here, or a setting is wrong.
        DataError: the rows do not serve the study.
        JobError: the folder holds something else, or a run failed or was stopped; what is
            finished stays.
    """
    if study.kind not in study_arms.STUDIES:
        raise UsageError(
            f"study {study.kind} is unknown", expected=", ".join(study_arms.STUDIES)
        )
    # What is wrong is said before the folder is taken.
    registry.resolve(study.model)
    recipes.read(study.recipe, study.overrides)
    data = study_arms.read(study.data, study.options.by)
    sections = study_arms.STUDIES[study.kind](data, study.options)
    _claim(out, study)
    with _locked(out):
        return _run(study, out, sections, follow, say)


def _run(
    study: Study,
    out: Path,
    sections: Sequence[Section],
    follow: Follow,
    say: Callable[[str], None],
) -> dict[str, Any]:
    total = sum(len(section.arms) for section in sections)
    done = 0
    reports = []
    for section in sections:
        folder = ensure_folder(out / section.name)
        _write_once(folder / "test.jsonl", section.test)
        arms = []
        for arm in section.arms:
            done += 1
            say(f"[{done}/{total}] {section.title}: {arm.name}")
            arms.append(_run_arm(study, folder, arm, follow))
        reports.append({"title": section.title, "arms": arms})
    results = {"study": study.kind, "out": str(out.absolute()), "sections": reports}
    write_json(out / "results.json", results)
    blocks = list(_blocks(study, sections, results))
    write_atomic(out / "report.html", to_html(blocks))
    write_atomic(out / "report.md", to_markdown(blocks))
    return results


def _claim(out: Path, study: Study) -> None:
    """Make ``out`` the folder of this study, or see that it is."""
    ensure_folder(out)
    path = out / "study.json"
    mine = study.to_json()
    if path.exists():
        theirs = json.loads(path.read_text(encoding="utf-8"))
        if changed := sorted(key for key in mine if mine[key] != theirs.get(key)):
            raise JobError(
                f"{out} holds another study ({', '.join(changed)} differ)",
                cure="give the same options to go on with it, or another --out",
            )
    elif any(out.iterdir()):
        raise JobError(f"{out} is not empty", cure="give another folder with --out")
    else:
        write_json(path, mine)


@contextlib.contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Two commands would start the same runs."""
    try:
        with lock.hold(out / LOCK):
            yield
    except lock.HeldError:
        raise JobError(
            f"another command is at work on {out}", cure="wait for it, or stop it first"
        ) from None


def _write_once(path: Path, lines: Sequence[str]) -> None:
    """Write rows, or see that those of an earlier call are the same."""
    text = "".join(lines)
    if not path.exists():
        write_atomic(path, text)
    elif path.read_text(encoding="utf-8") != text:
        raise JobError(
            f"{path} was made from other rows", cure="give another folder with --out"
        )


def _run_arm(study: Study, section: Path, arm: Arm, follow: Follow) -> dict[str, Any]:
    folder = ensure_folder(section / slug(arm.name))
    train: RunDirectory | None = None
    if arm.train:
        data = ensure_folder(folder / "data")
        _write_once(data / "train.jsonl", arm.train)
        if arm.val:
            _write_once(data / "val.jsonl", arm.val)
        train = _finish(
            folder / "train",
            lambda: create_run(
                study.model, str(data), study.recipe, study.overrides, folder / "train"
            ),
            follow,
        )
    evaluation = _finish(
        folder / "eval",
        lambda: evaluations.create(
            EvaluationSettings(
                model=study.model,
                data=section / "test.jsonl",
                adapter=str(train.path) if train else None,
                tasks=tuple(arm.tasks),
                limit=study.limit,
                decodings=(Decoding(study.decoding),),
                batch_size=study.batch_size,
            ),
            folder / "eval",
        ),
        follow,
    )
    system = systems.load(evaluation.path)[0]
    return {
        "name": arm.name,
        "rows": len(arm.train),
        "train": str(train.path) if train else None,
        "eval": str(evaluation.path),
        "scores": system.metrics["decodings"][study.decoding],
    }


def _finish(path: Path, launch: Callable[[], RunDirectory], follow: Follow) -> RunDirectory:
    """A finished run at ``path``: as it is, continued, or made."""
    made = RunDirectory(path) if (path / "job.json").exists() else launch()
    fresh = not made.events_file.exists()
    state = jobs.State.STOPPED if fresh else made.status().state
    if state is jobs.State.FINISHED:
        return made
    if not state.live:
        jobs.start(made)
    outcome = follow(made).get("outcome")
    if outcome != "finished":
        raise JobError(
            f"the study was stopped at {path}",
            cure="give the same command again to go on from there",
        )
    return made


def slug(name: str) -> str:
    """A name as the name of a folder."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:60] or "arm"


def _blocks(
    study: Study, sections: Sequence[Section], results: dict[str, Any]
) -> Iterator[Block]:
    yield Heading(TITLES[study.kind], 1)
    recipe = ", ".join([study.recipe or "default recipe", *study.overrides])
    yield Paragraph(
        f"Base model {study.model}, rows of {study.data}, recipe {recipe}, "
        f"{study.decoding} decoding. {report.EXPLANATION}"
    )
    if study.limit:
        yield Paragraph(
            f"Each section was evaluated on a stratified subset of {study.limit} rows: the "
            "figures are not comparable with figures of whole test sets, such as the paper's.",
            note=True,
        )
    for section, summary in zip(sections, results["sections"], strict=True):
        answered = [
            replace(systems.load(Path(arm["eval"]))[0], name=arm["name"])
            for arm in summary["arms"]
        ]
        yield Heading(section.title)
        yield Table(
            ["arm", "training rows"],
            [[arm["name"], str(arm["rows"])] for arm in summary["arms"]],
            frozenset({1}),
        )
        if study.kind == "scaling":
            yield Plot(_curve(summary["arms"], answered))
        yield from report.side_by_side(answered)


def _curve(arms: Sequence[dict[str, Any]], answered: Sequence[systems.System]) -> str:
    """Strict headlines over the number of training rows, a line for each task and setting."""
    pairs = [
        (task, setting)
        for task, by_setting in arms[0]["scores"].items()
        for setting in by_setting
    ]
    return plots.lines(
        [str(arm["rows"]) for arm in arms],
        [f"{TASKS[task].short} {report.short_setting(setting)}" for task, setting in pairs],
        [
            [arm["scores"][task][setting]["strict"].get(TASKS[task].metric) for arm in arms]
            for task, setting in pairs
        ],
        [
            [system.interval(TASKS[task], setting, "strict") for system in answered]
            for task, setting in pairs
        ],
        title="Strict headline metrics by training rows",
        x_title="training rows; strict headline metric of each task, with its 95% interval",
    )
