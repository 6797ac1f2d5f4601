"""One small run of each study on SmolLM2, to see that they work and what they cost.

    python benchmarks/studies_small.py --out studies [--data ROWS] [--train 8] [--test 4]
        [--study scaling --study diversity …]

The rows are real ones of two closed tasks, a few of each; the figures say nothing about
the paper's questions. Every study is the ordinary command: given again, this script goes
on run by run where it was stopped. It prints seconds and figures as JSON.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

TASKS = ("Product_Matching", "Sentiment_Analysis")
SETTINGS = ("IND_Diverse_Instruction", "IND_Unseen_Instruction")
MODEL = "smollm2-135m"
CATEGORY = "womens-clothing-reviews"  # the source of the sentiment rows


def write_rows(source: Path, target: Path, counts: dict[str, int]) -> None:
    """The first rows of each task and setting, as they are."""
    target.mkdir(parents=True, exist_ok=True)
    for split, count in counts.items():
        taken: dict[tuple[str, str], int] = defaultdict(int)
        lines = []
        for line in (source / f"{split}.jsonl").read_text(encoding="utf-8").splitlines():
            item = json.loads(line)
            key = item["task"], item["setting"]
            if item["task"] in TASKS and item["setting"] in SETTINGS and taken[key] < count:
                taken[key] += 1
                # Official test pairs of matching come from the same catalogs as its training.
                if item["task"] == TASKS[0]:
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


def headlines(results: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Strict figures by arm: task and setting to (metric, value)."""
    return {
        f"{section['title']}: {arm['name']} ({arm['rows']} rows)": {
            f"{task} {setting}": {
                k: round(v, 3) for k, v in found["strict"].items() if v is not None
            }
            for task, by_setting in arm["scores"].items()
            for setting, found in by_setting.items()
        }
        for section in results["sections"]
        for arm in section["arms"]
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    default = Path(__file__).parents[1] / "ecellm_mlx" / "sample"
    parser.add_argument("--data", type=Path, default=default)
    parser.add_argument("--train", type=int, default=8, help="rows of each task")
    parser.add_argument("--test", type=int, default=4, help="rows of each task and setting")
    kinds = ("scaling", "diversity", "holdout", "generalist")
    parser.add_argument("--study", action="append", choices=kinds, help="only these")
    options = parser.parse_args()
    rows = options.out / "rows"
    write_rows(options.data, rows, {"train": options.train, "val": 2, "test": options.test})
    common = ["--model", MODEL, "--data", rows, "--recipe", "smollm2", "--set", "epochs=1"]
    studies: dict[str, list[object]] = {
        "scaling": ["--size", options.train // 2, "--size", options.train],
        "diversity": [],
        "holdout": ["--by", "source", "--holdout-category", CATEGORY],
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
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
