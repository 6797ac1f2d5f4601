"""Evaluation through a server: the same rows and prompts, whatever the server does."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from ecellm_mlx import jobs, sample
from ecellm_mlx.data import prompts, rows
from ecellm_mlx.data.prompts import Frame
from ecellm_mlx.errors import UsageError
from ecellm_mlx.evaluation import endpoint as endpoints
from ecellm_mlx.evaluation import job
from ecellm_mlx.evaluation.endpoint import EndpointError
from ecellm_mlx.evaluation.settings import KEYS, EvaluationSettings, parse_url
from ecellm_mlx.inference import protocol
from ecellm_mlx.jobs import events

from .fake_endpoint import FakeEndpoint

DATA = sample.folder() / "test.jsonl"
TASKS = ("PM", "SA")
ROWS = 20


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoints, "FIRST_WAIT_S", 0.01)
    for name in KEYS:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def expected() -> dict[str, rows.Row]:
    """The rows that are asked for, by their prompt."""
    chosen = job.rows_of(EvaluationSettings(model="", data=DATA, tasks=TASKS, limit=ROWS))
    return {prompts.prompt(row, Frame.ALPACA): row for row in chosen}


@pytest.fixture
def fake(expected: dict[str, rows.Row]) -> Iterator[FakeEndpoint]:
    """A server that knows every answer."""
    with FakeEndpoint(lambda prompt: expected[prompt].output) as server:
        yield server


@pytest.fixture
def make(fake: FakeEndpoint, tmp_path: Path) -> Any:
    def create(**options: Any) -> jobs.RunDirectory:
        settings = EvaluationSettings(
            model="some-model",
            data=DATA,
            tasks=TASKS,
            limit=ROWS,
            endpoint=fake.url,
            **options,
        )
        return job.create(settings, tmp_path / "run")

    return create


def run_here(run: jobs.RunDirectory) -> dict[str, Any]:
    context = jobs.JobContext(run)
    try:
        outcome, results = job.run_job(context)
    finally:
        context.close()
    return {"outcome": outcome, **results}


@pytest.mark.parametrize("api", ["completions", "chat"])
def test_same_rows_prompts_and_sampling(
    fake: FakeEndpoint, make: Any, expected: Any, api: str
) -> None:
    results = run_here(make(api=api, seed=7))
    assert results["outcome"] == "finished"
    scores = results["decodings"]["paper"]
    assert scores["Product_Matching"]["IND_Diverse_Instruction"]["official"]["f1"] == 1
    asked = [
        r["prompt"] if api == "completions" else r["messages"][0]["content"]
        for r in fake.requests
    ]
    assert sorted(asked) == sorted(expected)
    assert set(fake.paths) == {"/v1/chat/completions" if api == "chat" else "/v1/completions"}
    for request in fake.requests:
        assert request["model"] == "some-model"
        assert request["temperature"] == protocol.PAPER_TEMPERATURE
        assert request["top_p"] == protocol.PAPER_TOP_P
        assert request["max_tokens"] == protocol.PAPER_MAX_TOKENS
        assert request["seed"] == 7


def test_requests_run_side_by_side(fake: FakeEndpoint, make: Any) -> None:
    fake.delay_s = 0.05
    run_here(make(concurrency=5))
    assert fake.most_at_once == 5


def test_the_key_is_sent_and_kept_nowhere(
    fake: FakeEndpoint, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ECELLM_API_KEY", "sk-very-secret")
    run = make()
    run_here(run)
    assert {h["Authorization"] for h in fake.headers} == {"Bearer sk-very-secret"}
    for file in run.path.iterdir():
        assert b"very-secret" not in file.read_bytes()


def test_passing_failures_are_tried_again(fake: FakeEndpoint, make: Any) -> None:
    busy = b'{"error": {"message": "slow down"}}'
    fake.replies = [
        (429, {"Retry-After": "0"}, busy), (503, {}, b"<html>busy</html>"), None,
        (500, {}, b""), (429, {"Retry-After": "soon"}, busy), None,
    ]  # fmt: skip
    run = make()
    assert run_here(run)["outcome"] == "finished"
    assert len(fake.requests) == ROWS + 6
    said = [e.message for e in run.reader().read() if isinstance(e, events.Warned)]
    assert len(said) == 6
    assert any("status 429: slow down; trying again" in text for text in said)
    assert any("the connection failed" in text for text in said)


def test_retry_after_is_obeyed(fake: FakeEndpoint, make: Any) -> None:
    fake.replies = [(429, {"Retry-After": "0.2"}, b"{}")]
    run = make(concurrency=1)
    run_here(run)
    said = next(e for e in run.reader().read() if isinstance(e, events.Warned))
    later = next(e for e in run.reader().read() if isinstance(e, events.Progress))
    assert later.time - said.time < 5
    assert "in 0 s" in said.message


@pytest.mark.parametrize(
    ("asked", "seconds"),
    [
        ("7", 7), ("0.5", 0.5), ("86400", 900), ("-3", 0), ("soon", 0), ("", 0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0), (None, 30),
    ],
)  # fmt: skip
def test_how_long_a_server_asks_to_wait(asked: str | None, seconds: float) -> None:
    in_30_s = formatdate(time.time() + 30, usegmt=True)
    headers = {"Retry-After": in_30_s if asked is None else asked}
    assert endpoints._retry_after(headers) == pytest.approx(seconds, abs=2)


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ((200, {}, b"<!DOCTYPE html><html>Sign in</html>"), r"something else.*HTML: <!DOCTYPE"),
        ((200, {}, b""), "an empty body"),
        ((200, {}, b'{"choices": []}'), "JSON with choices"),
        ((200, {}, b"[1]"), "JSON with choices"),
        (
            (401, {}, b'{"error": {"message": "no key"}}'),
            "401: no key; set the key.*ECELLM_API",
        ),
        ((404, {}, b"Not Found"), "404: Not Found; check the address.*--api chat"),
        ((400, {}, b'{"error": "too long"}'), "400: too long; .*of row "),
        ((302, {"Location": "http://127.0.0.1:1/"}, b""), "status 302"),
    ],
)
def test_a_refusal_ends_with_what_the_server_said(
    fake: FakeEndpoint, make: Any, reply: Any, message: str
) -> None:
    run = make(concurrency=1)
    fake.replies = ["answer", "answer", "answer", reply]
    with pytest.raises(EndpointError, match=f"(?s){message}"):
        run_here(run)
    assert len(fake.requests) == 4, "nothing was tried again"
    assert len((run.path / "predictions.jsonl").read_text().splitlines()) == 3
    # A later process asks for what is missing and for nothing else.
    assert run_here(run)["outcome"] == "finished"
    assert len(fake.requests) == 4 + ROWS - 3
    lines = (run.path / "answers.jsonl").read_text().splitlines()
    assert len({json.loads(line)["id"] for line in lines}) == len(lines) == ROWS


def test_answers_beside_a_failure_are_kept(fake: FakeEndpoint, make: Any) -> None:
    fake.delay_s = 0.2
    fake.replies = [(403, {}, b"no")]
    run = make(concurrency=4)
    with pytest.raises(EndpointError):
        run_here(run)
    kept = (run.path / "answers.jsonl").read_text().splitlines()
    assert len(kept) == len(fake.requests) - 1 >= 3


@pytest.mark.parametrize("way", ["hang", "drip"])
def test_a_server_that_does_not_answer(
    fake: FakeEndpoint, make: Any, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setattr(endpoints, "RETRIES", 1)
    setattr(fake, way, True)
    run = make(concurrency=2, timeout_s=0.3)
    with pytest.raises(EndpointError, match=r"failed 2 times.*no answer in 0.3 s.*resume"):
        run_here(run)
    assert (run.path / "predictions.jsonl").read_text() == ""


def test_nobody_there(make: Any, fake: FakeEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoints, "RETRIES", 1)
    run = make()
    with FakeEndpoint() as other:
        gone = other.url
    config = json.loads((run.path / "job.json").read_text())
    config["config"]["endpoint"]["url"] = gone
    (run.path / "job.json").write_text(json.dumps(config))
    with pytest.raises(EndpointError, match="the connection failed"):
        run_here(run)


def test_stopping_does_not_wait_for_the_server(fake: FakeEndpoint, make: Any) -> None:
    fake.hang = True
    run = make(timeout_s=20)
    context = jobs.JobContext(run)
    context.poll = lambda on_pause=None: (  # type: ignore[method-assign]
        jobs.Control.STOP if fake.requests else None
    )
    outcome, results = job.run_job(context)
    context.close()
    assert (outcome, results) == ("stopped", {"answers": 0})
    fake.closed.set()


def test_half_a_character_is_replaced(make: Any, fake: FakeEndpoint) -> None:
    fake.replies = [(200, {}, b'{"choices": [{"text": "\\ud83d"}]}')]
    run = make(concurrency=1)
    assert run_here(run)["outcome"] == "finished"


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://127.0.0.1:8080/v1/", "http://127.0.0.1:8080/v1"),
        ("https://api.example.com/v1/chat/completions", "https://api.example.com/v1"),
        ("http://localhost:11434/v1/completions", "http://localhost:11434/v1"),
    ],
)
def test_addresses(text: str, url: str) -> None:
    assert parse_url(text) == url


def test_addresses_that_are_none() -> None:
    for text in (
        "localhost:8080",
        "ftp://x/v1",
        "http://",
        "http://a:b@c/v1",
        "http://c/v1?k=1",
    ):
        with pytest.raises(UsageError):
            parse_url(text)


def test_the_command(ecellm: Any, refused: Any, fake: FakeEndpoint, tmp_path: Path) -> None:
    common = ["eval", "--model", "m", "--data", DATA, "--task", "PM", "--task", "SA",
              "--limit", ROWS, "--endpoint", fake.url]  # fmt: skip
    done = ecellm(*common, "--out", tmp_path / "run", "--json")
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert results["endpoint"]["url"] == fake.url
    assert results["subset"] is True
    fake.replies = [(200, {}, b"<html>log in</html>")] * 4
    message = refused(*common, "--out", tmp_path / "again")
    assert "HTML: <html>log in" in message
    fake.replies = ["answer"] * 5 + [(403, {}, b"no")]
    stopped = ecellm(*common, "--concurrency", 1, "--out", tmp_path / "kept")
    assert stopped.returncode == 1
    assert f"5 answers are kept; `ecellm resume {tmp_path / 'kept'}` goes on" in stopped.stderr
    done = ecellm("resume", tmp_path / "kept")
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "kept" / "predictions.jsonl").read_text().splitlines()) == ROWS
    usage = refused(*common, "--adapter", "x", "--out", tmp_path / "third", status=2)
    assert "--adapter has no effect with --endpoint" in usage
