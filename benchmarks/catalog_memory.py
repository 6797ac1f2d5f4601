"""Memory and speed of a catalog run from a thousand rows to a million.

    python benchmarks/catalog_memory.py [--rows 1000 10000 100000 1000000] [--format csv]

The model is replaced by an answerer of constant time: what is measured is reading,
planning, journal and writing. Each size runs in a process of its own; memory is the
process's peak resident set (MiB). Rows are products of the embedded sample with a number
in their titles, so that no two are equal.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ecellm_mlx import jobs, sample
from ecellm_mlx.catalog import job
from ecellm_mlx.catalog.settings import CatalogJob, CatalogSettings, Reading
from ecellm_mlx.data.question import build
from ecellm_mlx.data.rows import Row
from ecellm_mlx.tables import Column, open_table, plain

BATCH = 64


class Constant:
    """A model that answers the same to everything."""

    tokens_per_second = 0.0

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def answer(self, rows: Sequence[Row]) -> Iterator[SimpleNamespace]:
        """The answers."""
        for index in range(len(rows)):
            yield SimpleNamespace(
                index=index, prediction="Books", probability=0.75, shortened=0
            )


def write_table(path: Path, rows: int) -> None:
    """A table of ``rows`` real products with numbered titles."""
    source = open_table(sample.catalog())
    products = [row.cells for row in source.good_rows()]
    place = source.header.index("title")
    with plain.create(path, [Column(name) for name in source.header]) as lines:
        for number, cells in enumerate(itertools.islice(itertools.cycle(products), rows)):
            lines.write([*cells[:place], f"{cells[place]} {number}", *cells[place + 1 :]])


def run(path: Path, out: Path) -> dict[str, Any]:
    """One catalog run in this process."""

    job.CatalogModel = Constant
    job.device = SimpleNamespace(name=lambda: "none")
    job.runtime.peak_memory_gb = lambda: 0.0
    question = build(
        open_table(path).names, task=None, mapping=["title=title"], labels=["Books", "Shoes"]
    )
    asked = CatalogJob(
        table=path,
        reading=Reading(),
        question=question,
        settings=CatalogSettings(model="none", out=out, batch_size=BATCH),
    )
    made = jobs.create(
        "catalog", asked.to_json(), out=out.with_suffix(".run"), fingerprints={"base": "none"}
    )
    context = jobs.JobContext(made)
    started = time.perf_counter()
    outcome, results = job.run_job(context)
    context.close()
    assert outcome == "finished"
    unit = 1024 if sys.platform == "linux" else 1024**2
    return {
        "rows": results["rows"],
        "table_mb": path.stat().st_size / 1e6,
        "seconds": time.perf_counter() - started,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--rows", type=int, nargs="+", default=[1000, 10_000, 100_000, 1_000_000]
    )
    parser.add_argument("--format", default="csv")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(run(options.one, options.one.with_name(f"out{options.one.suffix}"))))
        return
    print(f"{'rows':>9} {'table MB':>9} {'seconds':>8} {'rows/s':>8} {'peak MiB':>9}")
    for rows in options.rows:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"table.{options.format}"
            # In a process of its own too: a child inherits its parent's peak.
            code = (
                "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]); "
                "from catalog_memory import write_table; "
                "write_table(Path(sys.argv[2]), int(sys.argv[3]))"
            )
            here = str(Path(__file__).parent)
            subprocess.run([sys.executable, "-c", code, here, str(path), str(rows)], check=True)
            done = subprocess.run(
                [sys.executable, __file__, "--one", str(path)],
                check=True, capture_output=True, text=True,
            )  # fmt: skip
            r = json.loads(done.stdout)
            print(
                f"{r['rows']:>9,} {r['table_mb']:>9.1f} {r['seconds']:>8.1f} "
                f"{r['rows'] / r['seconds']:>8.0f} {r['peak_mb']:>9.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
