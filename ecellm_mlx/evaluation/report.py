"""The report of one evaluation or of several beside each other.

Reads what finished runs wrote; computes nothing but paired tests. The first run is the
one that others are compared with, usually the base model; answers are compared with the
first ones of the same decoding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecellm_mlx.data.rows import Row
from ecellm_mlx.evaluation import plots, published
from ecellm_mlx.evaluation.compare import compare_by_task
from ecellm_mlx.evaluation.documents import (
    Block,
    Heading,
    Paragraph,
    Plot,
    Table,
    Verbatim,
    to_html,
    to_markdown,
)
from ecellm_mlx.evaluation.systems import System, distinct, load, rows_of
from ecellm_mlx.files import ensure_folder, write_atomic
from ecellm_mlx.tasks.registry import TASKS, Task
from ecellm_mlx.tasks.tally import TextScorer

DASH = "—"
EXPLANATION = (
    "Official: as the published script computes it, which drops invalid answers to closed "
    "questions. Strict: an invalid answer is wrong. In brackets: 95% bootstrap interval over "
    "rows."
)
LONGEST = 1500  # characters of an input that are shown


def write(folder: Path, runs: Sequence[Path]) -> list[Path]:
    """Write ``report.html`` and ``report.md`` of finished evaluations into ``folder``.

    Args:
        folder: where to write; made if it is not there.
        runs: run directories, the one to compare with first.

    Returns:
        The two files.

    Raises:
        DataError: a run has no figures, or the runs are not of the same file of rows.
    """
    systems = distinct([system for run in runs for system in load(run)])
    rows = rows_of(systems)
    blocks = list(_blocks(systems, rows))
    ensure_folder(folder)
    files = [folder / "report.html", folder / "report.md"]
    write_atomic(files[0], to_html(blocks))
    write_atomic(files[1], to_markdown(blocks))
    return files


def _blocks(systems: Sequence[System], rows: Sequence[Row]) -> Iterator[Block]:
    pairs = _pairs(systems)
    yield Heading("Evaluation report", 1)
    yield from _about(systems)
    yield Heading("Headline metrics")
    yield Paragraph(EXPLANATION)
    yield _headline_table(systems, pairs, beside_published=True)
    yield from _not_computed(systems, pairs)
    yield Plot(_headline_plot(systems, pairs))
    if len(systems) > 1:
        yield from _comparison(systems, rows)
    yield from _published(pairs)
    yield from _breakdowns(systems, pairs)
    yield from _worst(systems, rows, pairs)


def side_by_side(systems: Sequence[System]) -> Iterator[Block]:
    """Headlines of several systems and their differences, for reports of other kinds.

    Raises:
        DataError: the systems are not of the same file of rows.
    """
    rows, pairs = rows_of(systems), _pairs(systems)
    yield _headline_table(systems, pairs)
    yield Plot(_headline_plot(systems, pairs))
    if len(systems) > 1:
        yield from _comparison(systems, rows)


def _pairs(systems: Sequence[System]) -> list[tuple[Task, str]]:
    """Each (task, setting) that any system answers, in the order of ``TASKS``."""
    pairs = {
        (task, setting)
        for system in systems
        for task, by_setting in system.metrics["decodings"][system.decoding].items()
        for setting in by_setting
    }
    order = list(TASKS)
    return [
        (TASKS[task], setting)
        for task, setting in sorted(pairs, key=lambda pair: (order.index(pair[0]), pair[1]))
    ]


def _about(systems: Sequence[System]) -> Iterator[Block]:
    yield Table(
        ["answers of", "rows", "tokens/s", "peak memory"],
        [
            [
                system.name,
                str(system.metrics["n"]),
                _number(system.metrics.get("tokens_per_second"), 0),
                f"{memory:.2f} GB"
                if (memory := system.metrics.get("peak_memory_gb"))
                else DASH,
            ]
            for system in systems
        ],
        frozenset({1, 2, 3}),
    )
    yield Paragraph(f"Rows of {systems[0].metrics['data']}.")
    yield from _made(systems)
    yield from _bertscore(systems)
    for system in systems:
        if cut := system.metrics.get("shortened"):
            yield Paragraph(
                f"{system.name}: {cut} inputs were shortened to fit into the model's context.",
                note=True,
            )
    if any(system.metrics["subset"] for system in systems):
        yield Paragraph(
            "These are figures of a stratified subset of the rows: they are not comparable "
            "with figures of whole test sets, such as the paper's.",
            note=True,
        )


def _made(systems: Sequence[System]) -> Iterator[Block]:
    """What it takes to make the answers again, once for each run."""
    for number, system in enumerate(systems):
        made = system.metrics.get("made")
        if not made or any(system.run == earlier.run for earlier in systems[:number]):
            continue
        metrics = system.metrics
        where = metrics["endpoint"] or {}
        parts = [
            f"model {metrics['model']}" + (f" at {where['url']}" if where else ""),
            f"adapter {metrics['adapter']}" if metrics["adapter"] else "no adapter",
            *(f"{name} {value}" for name, value in made.items() if value is not None),
        ]
        yield Paragraph(f"{system.run.name}: {', '.join(parts)}.")


def _bertscore(systems: Sequence[System]) -> Iterator[Block]:
    """With what model, and whether the published figures compare."""
    models = [system.metrics.get("bertscore") for system in systems]
    for model in [m for n, m in enumerate(models) if m and m not in models[:n]]:
        yield Paragraph(
            f"BERTScore of {model['model']}, layer {model['layer']}, without idf weights or "
            "rescaling"
            + (
                ", as published."
                if model["as_published"]
                else ": the published figures are of layer 17 of roberta-large and do not "
                "compare with these."
            ),
            note=not model["as_published"],
        )


def _headline_table(
    systems: Sequence[System],
    pairs: Sequence[tuple[Task, str]],
    *,
    beside_published: bool = False,
) -> Table:
    """A line for each system below its task and setting, so that columns stay in sight."""
    header = ["task", "setting", "n", "metric", "answers of", "official", "strict", "#invalid"]
    if beside_published:
        header.append("published eCeLLM-S / -M / -L")
    lines = []
    for task, setting in pairs:
        answering = [(x, s) for x in systems if (s := x.scores(task.name, setting))]
        for number, (system, scores) in enumerate(answering):
            first = [task.title, short_setting(setting), str(scores["n"]), task.metric_label]
            line = [*(first if number == 0 else [""] * len(first)), system.name]
            for mode in ("official", "strict"):
                value = scores[mode].get(task.metric)
                interval = system.interval(task, setting, mode)
                span = f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else ""
                line.append("not computed" if value is None else f"{value:.3f}{span}")
            line.append(str(scores["invalid"]))
            if beside_published:
                line.append(_published_cell(task, setting) if number == 0 else "")
            lines.append(line)
    return Table(header, lines, frozenset({2, 5, 6, 7, 8}), frozenset({0, 1, 4}))


def _published_cell(task: Task, setting: str) -> str:
    figures = published.headline(task.short, setting)
    return " / ".join(f"{figures[m]:.3f}" for m in published.PAPER) if figures else DASH


def _not_computed(
    systems: Sequence[System], pairs: Sequence[tuple[Task, str]]
) -> Iterator[Block]:
    """Why figures are missing, each reason once."""
    reasons: dict[str, list[str]] = {}
    for task, setting in pairs:
        for system in systems:
            if reason := system.scores(task.name, setting).get("not_computed"):
                places = reasons.setdefault(reason, [])
                if (place := f"{task.title}, {setting}") not in places:
                    places.append(place)
    for reason, places in reasons.items():
        yield Paragraph(f"Not computed ({'; '.join(places)}): {reason}.")


def _headline_plot(systems: Sequence[System], pairs: Sequence[tuple[Task, str]]) -> str:
    values = [
        [s.scores(task.name, setting).get("strict", {}).get(task.metric) for s in systems]
        for task, setting in pairs
    ]
    spans = [[s.interval(task, setting, "strict") for s in systems] for task, setting in pairs]
    return plots.bars(
        [f"{task.short} {short_setting(setting)}" for task, setting in pairs],
        [system.name for system in systems],
        values,
        spans,
        title="Strict headline metrics with 95% intervals",
        x_title="strict headline metric of each task, with its 95% interval",
    )


def short_setting(setting: str) -> str:
    """A setting's name without what all names share."""
    return setting.replace("_Instruction", "").replace("_", " ")


def _comparison(systems: Sequence[System], rows: Sequence[Row]) -> Iterator[Block]:
    yield Heading("Differences", 3)
    yield Paragraph(
        "Of the strict headline on the rows that both answered, with the 95% interval and p "
        "of a paired bootstrap, and McNemar's exact p for closed answers. Intervals of few "
        "rows are not to be trusted."
    )
    lines = []
    for n, other in enumerate(systems[1:], 1):
        first = _reference(systems[:n], other)
        compared = compare_by_task(
            rows, first.answers, other.answers, text_scorer=_known_scores(rows, first, other)
        )
        # In the order of the headline table.
        for name in (task for task in TASKS if task in compared):
            for setting, result in sorted(compared[name].items()):
                values, exact = result["strict"], result.get("mcnemar")
                pair = f"{first.name} → {other.name}"
                line = [pair, TASKS[name].title, setting, str(result["n"])]
                if values is None:
                    line += ["not computed", "", "", ""]
                else:
                    line += [
                        f"{values['a']:.3f} → {values['b']:.3f}",
                        f"{values['difference']:+.3f} "
                        f"[{values['low']:+.3f}, {values['high']:+.3f}]",
                        f"{values['p']:.3f}",
                        f"{exact['p']:.3f}" if exact else DASH,
                    ]
                lines.append(line)
    yield Table(
        ["answers", "task", "setting", "n", "strict", "difference", "p", "McNemar p"],
        lines,
        frozenset({3, 4, 5, 6, 7}),
    )


def _known_scores(rows: Sequence[Row], *systems: System) -> TextScorer | None:
    """BERTScore as the runs computed it; None unless both did, with the same model."""
    models = [system.metrics.get("bertscore") for system in systems]
    if not models[0] or models[0] != models[1]:
        return None
    known = {pair: s for system in systems for pair, s in system.text_scores(rows).items()}

    def look_up(answers: list[str], references: list[str]) -> NDArray[np.float64]:
        return np.array([known[pair] for pair in zip(answers, references, strict=True)])

    return look_up


def _reference(earlier: Sequence[System], system: System) -> System:
    """What a system is compared with: the first of its decoding, else the first."""
    alike = [one for one in earlier if one.decoding == system.decoding]
    return alike[0] if alike else earlier[0]


def _published(pairs: Sequence[tuple[Task, str]]) -> Iterator[Block]:
    lines = []
    for task, setting in pairs:
        if figures := published.headline(task.short, setting):
            lines.append(
                [
                    task.title,
                    setting,
                    task.metric_label,
                    *(f"{figures[model]:.3f}" for model in published.MODELS),
                ]
            )
    if not lines:
        return
    yield Heading("Published figures")
    yield Paragraph(
        f"Official metric on the full test sets, as published ({published.SOURCE}). They "
        "compare with official figures of the same rows under the paper decoding only."
    )
    header = ["task", "setting", "metric", *published.MODELS]
    yield Table(header, lines, frozenset(range(3, len(header))))


def _breakdowns(
    systems: Sequence[System], pairs: Sequence[tuple[Task, str]]
) -> Iterator[Block]:
    blocks: list[Block] = []
    for task, setting in pairs:
        for system in systems:
            details = system.details(task.name, setting)
            title = f"{task.title}, {setting}: {system.name}"
            if matrix := details.get("confusion"):
                blocks.append(Heading(title, 3))
                blocks.append(
                    Table(
                        ["expected ↓ answered →", *matrix["answers"]],
                        [
                            [label, *map(str, counts)]
                            for label, counts in zip(
                                matrix["labels"], matrix["counts"], strict=True
                            )
                        ],
                        frozenset(range(1, len(matrix["answers"]) + 1)),
                    )
                )
            if calibrated := details.get("calibration"):
                blocks += _calibration(task, setting, title, calibrated, details)
            if attributes := details.get("attributes"):
                blocks.append(Heading(title, 3))
                blocks.append(_attribute_table(attributes))
    if blocks:
        yield Heading("Breakdowns")
        yield from blocks


def _calibration(
    task: Task, setting: str, title: str, calibrated: dict[str, Any], details: dict[str, Any]
) -> Iterator[Block]:
    """How sure answers were and how often right; the threshold chosen on other rows."""
    if "confusion" not in details:
        yield Heading(title, 3)
    yield Paragraph(
        f"Expected calibration error {calibrated['ece']:.3f}, "
        f"largest of a bin {calibrated['mce']:.3f}."
    )
    yield Plot(
        plots.bars(
            [f"{b['low']:.1f} to {b['high']:.1f} ({b['count']})" for b in calibrated["bins"]],
            ["mean probability", "share right"],
            [[b["confidence"], b["accuracy"]] for b in calibrated["bins"]],
            [[None, None]] * len(calibrated["bins"]),
            title=f"Calibration of {task.short} {short_setting(setting)}",
            x_title="of answers by the probability they were given with (how many)",
        )
    )
    if threshold := details.get("threshold"):
        chosen = threshold["chosen"]
        yield Paragraph(
            f"With yes from a probability of {chosen['value']:.3f} on, as chosen on "
            f"{chosen['n']} other rows, strict F1 is {threshold['f1']:.3f} instead of "
            f"{threshold['f1_given']:.3f}."
        )


def _attribute_table(attributes: dict[str, Any]) -> Table:
    return Table(
        ["attribute", "labels", "predicted", "recall", "precision", "F1", "strict F1"],
        [
            [
                name,
                str(entry["n"]),
                str(entry["predicted"]),
                *(_number(entry["official"][key]) for key in ("recall", "precision", "f1")),
                _number(entry["strict"]["f1"]),
            ]
            for name, entry in attributes.items()
        ],
        frozenset(range(1, 7)),
    )


def _worst(
    systems: Sequence[System], rows: Sequence[Row], pairs: Sequence[tuple[Task, str]]
) -> Iterator[Block]:
    by_id = {row.id: row for row in rows}
    # Of the last run under its first decoding.
    system = next(one for one in systems if one.run == systems[-1].run)
    started = False
    for task, setting in pairs:
        ids = system.details(task.name, setting).get("worst", [])
        if ids and not started:
            started = True
            yield Heading(f"Worst answers of {system.name}")
            yield Paragraph(
                "Invalid answers first, then the surest of the wrong ones, or those with the "
                "lowest score."
            )
        for n, identity in enumerate(ids):
            if n == 0:
                yield Heading(f"{task.title}, {setting}", 3)
            yield from _answer(by_id[identity], system)


def _answer(row: Row, system: System) -> Iterator[Block]:
    probability = system.probabilities.get(row.id)
    sure = f" (probability {probability:.2f})" if probability is not None else ""
    yield Paragraph(f"Row {row.id}")
    yield Verbatim("Input", _shortened(row.input))
    if row.options:
        yield Verbatim("Options", _shortened(row.options))
    yield Verbatim("Expected", _shortened(row.output))
    yield Verbatim(f"Answered{sure}", _shortened(system.answers[row.id]) or "(nothing)")


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST else text[:LONGEST] + " …"


def _number(value: float | None, digits: int = 3) -> str:
    return DASH if value is None else f"{value:.{digits}f}"
