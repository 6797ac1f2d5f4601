"""The command's contract: exit status, one sentence, nothing heavy for --help."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ecellm_mlx import sample

HEAVY = ("mlx", "mlx.core", "mlx_lm", "transformers", "torch", "textual", "huggingface_hub")


@pytest.mark.parametrize(
    "code",
    [
        "import ecellm_mlx",
        "import sys; sys.argv = ['ecellm', '--help']\n"
        "from ecellm_mlx.cli import main\n"
        "try: main()\nexcept SystemExit: sys.stdout.flush()",
        "import ecellm_mlx.training.setup, ecellm_mlx.evaluation.job",
        "import ecellm_mlx.jobs, ecellm_mlx.catalog.job",
    ],
)
def test_loads_nothing_heavy(code: str) -> None:
    found = f"[m for m in {HEAVY!r} if m in sys.modules]"
    probe = f"{code}\nimport sys\nprint({found}, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=False
    )
    assert done.stderr.strip() == "[]", done.stderr


@pytest.mark.parametrize(
    "verb",
    [
        ("demo",), ("doctor",), ("locate",), ("train",), ("resume",), ("runs",), ("stop",),
        ("pause",), ("checkpoint",), ("plan",),
        ("watch",), ("eval",), ("score",), ("compare",), ("report",), ("serve",), ("study",),
        ("models", "list"), ("models", "pull"), ("models", "import"),
        ("models", "show"), ("data", "check"), ("data", "show"), ("data", "split"),
        ("data", "pull"), ("data", "import"),
        ("catalog", "run"), ("catalog", "show"),
        ("catalog", "preview"), ("catalog", "match"),
        ("adapters", "inspect"), ("adapters", "to-peft"),
        ("adapters", "from-peft"), ("adapters", "verify"),
    ],
)  # fmt: skip
def test_every_verb_has_help_with_an_example(ecellm: Any, verb: tuple[str, ...]) -> None:
    done = ecellm(*verb, "--help")
    assert done.returncode == 0
    assert "Example: ecellm" in done.stdout


def one_sentence(done: subprocess.CompletedProcess[str], status: int = 1) -> str:
    """stderr of a failed command, which must be a single line and no traceback."""
    assert done.returncode == status, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("ecellm: ")
    assert lines[0].endswith(".")
    assert "Traceback" not in done.stderr
    return lines[0]


def test_missing_model(ecellm: Any) -> None:
    done = ecellm("train", "--model", "smollm2-135m", "--data", sample.folder())
    assert "ecellm models import smollm2-135m" in one_sentence(done)


def test_unknown_task(ecellm: Any, tiny: Path) -> None:
    test = sample.folder() / "test.jsonl"
    done = ecellm("eval", "--model", tiny, "--data", test, "--task", "Tea_Leaves")
    message = one_sentence(done)
    assert "Tea_Leaves" in message
    assert "Sentiment_Analysis" in message


def test_malformed_row_names_file_and_line(ecellm: Any, tiny: Path, dataset: Path) -> None:
    path = dataset / "train.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[4] = lines[4][:-20]
    path.write_text("\n".join(lines), encoding="utf-8")
    done = ecellm("train", "--model", tiny, "--data", dataset)
    assert f"{path}:5:" in one_sentence(done)


def test_truncated_gguf(ecellm: Any, gguf_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "half.gguf"
    with gguf_file.open("rb") as source:
        path.write_bytes(source.read(20_000_000))
    message = one_sentence(ecellm("models", "import", path))
    assert "half.gguf is truncated" in message
    assert not (tmp_path / "home" / "models" / "half").exists()


def test_truncated_safetensors(ecellm: Any, tiny: Path, dataset: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny, broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    done = ecellm(
        "eval", "--model", broken, "--data", dataset / "test.jsonl", "--out", tmp_path / "run"
    )
    assert "model.safetensors is truncated" in done.stderr
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_output_below_a_file_is_refused(
    ecellm: Any, tiny: Path, dataset: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "run"
    done = ecellm("train", "--model", tiny, "--data", dataset, "--out", out)
    assert str(out) in one_sentence(done)


def test_contradictions_are_reported_together(ecellm: Any, tiny: Path, dataset: Path) -> None:
    done = ecellm(
        "train", "--model", tiny, "--data", dataset,
        "--set", "batch_size=6", "--set", "micro_batch_size=4",
        "--set", "schedule=steep", "--set", "rnak=3",
    )  # fmt: skip
    message = one_sentence(done)
    for part in ("micro_batch_size (4)", "batch_size (6)", "'steep'", "'rnak'"):
        assert part in message


def test_usage_errors_exit_with_2(ecellm: Any, tiny: Path, tmp_path: Path) -> None:
    assert ecellm("train").returncode == 2
    assert ecellm("no-such-verb").returncode == 2
    done = ecellm(
        "catalog", "run", sample.catalog(), "--task", "AVE", "--map", "product title=nope",
        "--model", tiny, "--out", tmp_path / "out.csv",
    )  # fmt: skip
    message = one_sentence(done, status=2)
    assert "'nope'" in message
    assert "'target attributes' is not mapped" in message


def test_debug_shows_the_traceback(ecellm: Any) -> None:
    done = ecellm("train", "--model", "smollm2-135m", "--data", "nowhere", "--debug")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_locate_prints_a_path(ecellm: Any, workspace_home: Path) -> None:
    assert ecellm("locate", "models").stdout.strip() == str(workspace_home / "models")


def test_doctor_measures_the_machine(ecellm: Any) -> None:
    done = ecellm("doctor", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["device"] in ("cpu", "metal", "cuda")
    assert report["blas_gflops"] > 0
    assert report["memory_gb"] > 0
    assert {"mlx", "mlx-lm", "python"} <= report["versions"].keys()
    for check in report["checks"]:
        assert check["status"] in ("ok", "warn", "fail")
        assert check["cure"] or check["status"] == "ok"


def test_score_of_perfect_predictions(ecellm: Any, dataset: Path, tmp_path: Path) -> None:
    labels = dataset / "test.jsonl"
    rows = [json.loads(line) for line in labels.read_text().splitlines()]
    predictions = tmp_path / "p.jsonl"
    lines = [json.dumps({"id": r["id"], "prediction": r["output"]}) for r in reversed(rows)]
    predictions.write_text("\n".join(lines))
    done = ecellm("score", "--predictions", predictions, "--labels", labels, "--json")
    scores = json.loads(done.stdout)
    result = scores["Attribute_Value_Extraction"]["IND_Diverse_Instruction"]
    assert result["official"]["f1"] == pytest.approx(1.0)
    assert result["invalid"] == 0


def test_score_refuses_duplicate_and_missing_ids(
    ecellm: Any, dataset: Path, tmp_path: Path
) -> None:
    labels = dataset / "test.jsonl"
    rows = [json.loads(line) for line in labels.read_text().splitlines()]
    path = tmp_path / "p.jsonl"
    line = json.dumps({"id": rows[0]["id"], "prediction": "yes"})
    path.write_text(f"{line}\n{line}\n")
    done = ecellm("score", "--predictions", path, "--labels", labels)
    assert rows[0]["id"] in one_sentence(done)
    path.write_text(f"{line}\n")
    done = ecellm("score", "--predictions", path, "--labels", labels)
    assert rows[1]["id"] in one_sentence(done)
