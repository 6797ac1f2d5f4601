"""Start a catalog job, watch it to its end, and say what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ecellm_mlx.cli.output import emit, emit_json, narrate

if TYPE_CHECKING:
    from ecellm_mlx.jobs import RunDirectory


def finish(job: RunDirectory, out: Path, json: bool) -> None:
    """Start a job, watch it to its end, and say what came of it."""
    from ecellm_mlx import jobs
    from ecellm_mlx.cli.follow import follow
    from ecellm_mlx.distributed import shards
    from ecellm_mlx.distributed.launched import launched_rank
    from ecellm_mlx.errors import JobError

    rank = launched_rank()
    if rank is None:
        jobs.start(job)
        try:
            results = follow(job)
        except JobError:
            if shards.journal_path(out).exists():
                narrate("what was answered is kept; the same command with --resume goes on")
            raise
    else:
        # Under mlx.launch this process is a rank already.
        if status := jobs.execute(job):
            raise typer.Exit(status)
        results = follow(job)
        if rank:
            return
    if json:
        emit_json({"run": str(job.path), **results})
        return
    if results:
        for line in (_sentence(results), *_on_known_matches(results)):
            narrate(line)
    emit(str(out.absolute()))


def _sentence(results: dict[str, Any]) -> str:
    unit = "matches" if "pairs" in results else "rows"
    parts = [f"{results['outcome']}: {results['rows']} {unit}"]
    for key, word in (
        ("pairs", "pairs judged"),
        ("computed", "answers computed"),
        ("errors", "errors"),
        ("blank", "blank rows"),
        ("rejected", "rows that could not be read"), ("review", "rows to review"),
        ("shortened", "inputs shortened"),
    ):  # fmt: skip
        if results.get(key):
            parts.append(f"{results[key]} {word}")
    return ", ".join(parts)


def _on_known_matches(results: dict[str, Any]) -> Sequence[str]:
    """What the known matches said, for a person."""
    if not (fitted := results.get("truth")):
        return ()
    lines = [
        f"on {fitted['matches']} known matches of {fitted['products']} products "
        "(cross-validated):"
    ]
    for name, quality in fitted["quality"].items():
        mark = "; decides" if name == fitted["used"] else ""
        lines.append(
            f"  {name}: F1 {quality['f1']:.3f}, precision {quality['precision']:.3f}, "
            f"recall {quality['recall']:.3f}, from {quality['threshold']:.2f} on{mark}"
        )
    if not fitted["unmatched"]:
        lines.append(
            "  every known product has a match; if others have none, expect lower precision "
            "(list some with an empty right id)"
        )
    return lines
