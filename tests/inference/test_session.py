"""A model in a child: what it answers, and that nothing makes it hang or outlive us."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from ecellm_mlx.data.prompts import input_text
from ecellm_mlx.inference.session import Session
from ecellm_mlx.models import loading, lora
from ecellm_mlx.tasks.registry import find

QUESTION = {"question": "Is it red?", "document": ["It is a red kettle."]}


def request_row(
    task: str, values: dict[str, Any], options: str | None = None
) -> dict[str, Any]:
    return {"task": task, "input": input_text(find(task), values), "options": options}


@pytest.fixture(scope="module")
def adapter(tiny_models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that changes every answer: B is not zero."""
    from ecellm_mlx.device.backend import mx

    base = loading.load(tiny_models["llama"])
    spec = lora.LoraSpec(4, 4.0, 0.0, lora.resolve_targets(base.model, ["all-linear"]))
    lora.attach(base.model, spec, seed=1)
    mx.random.seed(2)
    for name, value in lora.parameters(base.model).items():
        if name.endswith("lora_b"):
            base.model.load_weights([(name, mx.random.normal(value.shape))], strict=False)
    folder = tmp_path_factory.mktemp("session") / "adapter"
    folder.mkdir()
    lora.save(folder, base.model, spec, {"base": {"fingerprint": base.fingerprint}})
    return folder


@pytest.fixture(scope="module")
def session(tiny_models: dict[str, Path], adapter: Path) -> Any:
    """A session that has loaded a model with an adapter, and the events of a request."""
    said: list[dict[str, Any]] = []
    unwanted: set[Any] = set()
    served = Session(lambda **event: said.append(event), unwanted.__contains__)

    def ask(**request: Any) -> list[dict[str, Any]]:
        said.clear()
        unwanted.clear()
        if request.pop("cancelled", False):
            unwanted.add(1)
        served.serve({"id": 1, **request})
        return list(said)

    (loaded,) = ask(op="load", model=str(tiny_models["llama"]), adapter=str(adapter))
    assert loaded["event"] == "loaded"
    assert loaded["frame"] == "alpaca"
    return ask


def test_pieces_of_a_text_are_the_text(session: Any) -> None:
    question = {"op": "generate", "prompt": "A red kettle", "max_tokens": 8, "side": "base"}
    framed = session(**question, chat=True)[-1]
    *pieces, done = session(**question)
    assert framed["prompt_tokens"] > done["prompt_tokens"] + 5
    assert "".join(piece["text"] for piece in pieces) == done["text"]
    assert done["event"] == "done"
    assert done["prompt_tokens"] > 0


def test_the_adapter_is_put_on_and_taken_off(session: Any) -> None:
    rows = [request_row("AP", QUESTION)]
    base, *_ = session(op="answer", rows=rows, side="base")
    changed, *_ = session(op="answer", rows=rows, side="adapter")
    again, *_ = session(op="answer", rows=rows, side="base")
    assert base["options"] != changed["options"]
    assert base == again


def test_every_option_has_a_probability(session: Any) -> None:
    options = json.dumps(["A: good", "B: bad", "C: neither"])
    answer, done = session(
        op="answer", side="base", rows=[request_row("SA", {"review": "Fine."}, options)]
    )
    assert {text for text, _ in answer["options"]} == {"A: good", "B: bad", "C: neither"}
    assert sum(share for _, share in answer["options"]) == pytest.approx(1, abs=1e-5)
    assert answer["prediction"] == answer["options"][0][0]
    assert done["event"] == "done"


def test_a_row_that_cannot_be_asked_does_not_stop_the_others(session: Any) -> None:
    rows = [{"task": "AVE", "input": "no object"}, request_row("AP", QUESTION)]
    first, second, done = session(op="answer", side="base", rows=rows)
    assert "JSON" in first["error"]
    assert second["prediction"] in ("yes", "no")
    assert (first["index"], second["index"], done["event"]) == (0, 1, "done")


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"op": "dance"}, "no operation"),
        ({"op": "answer", "side": "base", "rows": [{"task": "XX", "input": ""}]}, "no task"),
        ({"op": "generate"}, "prompt"),
    ],
)
def test_a_bad_request_is_a_sentence(
    session: Any, request_: dict[str, Any], words: str
) -> None:
    event, *_ = session(**request_)
    assert event["event"] == "error" or event["error"]
    assert words in str(event)


def test_a_request_that_is_not_wanted_ends(session: Any) -> None:
    *_, done = session(
        op="generate", prompt="A kettle", max_tokens=4000, side="base", cancelled=True
    )
    assert done["ending"] == "cancelled"


def test_without_a_model_it_says_so() -> None:
    said: list[dict[str, Any]] = []
    served = Session(lambda **event: said.append(event))
    served.serve({"id": 1, "op": "generate", "prompt": "x"})
    served.serve({"id": 2, "op": "load", "model": "no such model"})
    assert "no model is loaded" in said[0]["message"]
    assert "no such model" in said[1]["message"]


def events(process: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    assert process.stdout
    for line in process.stdout:
        yield json.loads(line)


def test_the_process_ends_with_its_stdin(tiny: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "ecellm_mlx.inference.session"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdin
    heard = events(process)
    assert next(heard)["event"] == "ready"
    process.stdin.write("{\n")
    process.stdin.write(json.dumps({"id": 1, "op": "load", "model": str(tiny)}) + "\n")
    request = {"id": 2, "op": "generate", "prompt": "A kettle", "max_tokens": 4000}
    process.stdin.write(json.dumps(request) + "\n")
    process.stdin.flush()
    assert "no JSON" in next(heard)["message"]
    assert next(heard)["event"] == "loaded"
    assert next(heard)["event"] == "text"
    process.stdin.write(json.dumps({"op": "cancel", "id": 2}) + "\n")
    process.stdin.flush()
    assert next(e for e in heard if e["event"] == "done")["ending"] == "cancelled"
    process.stdin.write(json.dumps({**request, "id": 3}) + "\n")
    process.stdin.flush()
    assert next(heard)["id"] == 3
    # In the middle of an answer the face goes away.
    process.stdin.close()
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert process.poll() == 0
    assert process.stdout
    process.stdout.close()
    assert not psutil.pid_exists(process.pid)
