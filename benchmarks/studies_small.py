"""One small run of each study on SmolLM2, to see that they work and what they cost.

    python benchmarks/studies_small.py --out studies [--data ROWS] [--train 8] [--test 4]
        [--task AVE --task SA] [--holdout oa-mine] [--study scaling --study diversity …]

The rows are real ones, a few of each task; a model of this size does not answer the
paper's questions. Every study is the ordinary command: given again, this script goes on
run by run where it was stopped. It prints seconds, and strict headlines with their 95%
intervals, as JSON; each study's report.md has the paired tests.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ecellm_mlx.tasks.registry import TASKS, find

MATCHING = "Product_Matching"
SETTINGS = ("IND_Diverse_Instruction", "IND_Unseen_Instruction")
MODEL = "smollm2-135m"


def write_rows(source: Path, target: Path, tasks: set[str], counts: dict[str, int]) -> None:
    """The first rows of each task and setting, as they are."""
    target.mkdir(parents=True, exist_ok=True)
    for split, count in counts.items():
        taken: dict[tuple[str, str], int] = defaultdict(int)
        lines = []
        for line in (source / f"{split}.jsonl").read_text(encoding="utf-8").splitlines():
            item = json.loads(line)
            key = item["task"], item["setting"]
            if item["task"] in tasks and item["setting"] in SETTINGS and taken[key] < count:
                taken[key] += 1
                # Official test pairs of matching come from the same catalogs as its training.
                if item["task"] == MATCHING:
                    item["source"] = "amazon-google"
                lines.append(json.dumps(item) + "\n")
        (target / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")


def ecellm(*arguments: object) -> dict[str, Any]:
    """Run the command and read its JSON."""
    done = subprocess.run(
        [sys.executable, "-m", "ecellm_mlx.cli", *map(str, arguments), "--json"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return dict(json.loads(done.stdout))


def headlines(results: dict[str, Any]) -> dict[str, dict[str, str]]:
    """Strict headlines with their intervals by arm, task and setting."""
    return {
        f"{section['title']}: {arm['name']} ({arm['rows']} rows)": dict(_figures(arm))
        for section in results["sections"]
        for arm in section["arms"]
    }


def _figures(arm: dict[str, Any]) -> Iterator[tuple[str, str]]:
    metrics = json.loads((Path(arm["eval"]) / "metrics.json").read_text(encoding="utf-8"))
    (details,) = metrics["details"].values()
    for name, by_setting in arm["scores"].items():
        task = TASKS[name]
        for setting, found in by_setting.items():
            value = found["strict"][task.metric]
            low, high = details[name][setting]["intervals"]["strict"][task.metric]
            yield (
                f"{task.short} {setting}, strict {task.metric_label}, n {found['n']}",
                f"{value:.3f} [{low:.3f}, {high:.3f}]",
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    default = Path(__file__).parents[1] / "ecellm_mlx" / "sample"
    parser.add_argument("--data", type=Path, default=default)
    parser.add_argument("--train", type=int, default=8, help="rows of each task")
    parser.add_argument("--test", type=int, default=4, help="rows of each task and setting")
    parser.add_argument("--task", action="append", help="these tasks (default: AVE, SA)")
    parser.add_argument("--holdout", default="oa-mine", help="the source to leave out")
    kinds = ("scaling", "diversity", "holdout", "generalist")
    parser.add_argument("--study", action="append", choices=kinds, help="only these")
    options = parser.parse_args()
    rows = options.out / "rows"
    tasks = {find(task).name for task in options.task or ("AVE", "SA")}
    counts = {"train": options.train, "val": 2, "test": options.test}
    write_rows(options.data, rows, tasks, counts)
    common = ["--model", MODEL, "--data", rows, "--recipe", "smollm2", "--set", "epochs=1"]
    studies: dict[str, list[object]] = {
        "scaling": ["--size", options.train // 2, "--size", options.train],
        "diversity": [],
        "holdout": ["--by", "source", "--holdout-category", options.holdout],
        "generalist": [],
    }
    report = {}
    for kind, more in studies.items():
        if options.study and kind not in options.study:
            continue
        started = time.perf_counter()
        results = ecellm("study", kind, *common, *more, "--out", options.out / kind)
        seconds = round(time.perf_counter() - started, 1)
        report[kind] = {"seconds": seconds, "strict": headlines(results)}
        print(f"{kind}: {seconds} s", file=sys.stderr)
    print(json.dumps(report, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()
