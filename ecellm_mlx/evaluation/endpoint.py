"""Answer rows through a server that speaks OpenAI's protocol.

``completions`` sends the prompt as it is, which is what a tuned model was trained on;
``chat`` sends the same text as one user message, for models that offer nothing else.
Sampling is the paper's. Requests run side by side; a passing failure (429, 5xx, a lost
or silent connection) is tried again after a growing pause, anything else ends the run
with what the server said, and every answer until then is kept.

The key comes from the environment and is written nowhere.
"""

from __future__ import annotations

import json
import os
import queue
import random
import ssl
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2

from ecellm_mlx import __version__
from ecellm_mlx.data import prompts
from ecellm_mlx.data.prompts import Frame
from ecellm_mlx.data.rows import Row
from ecellm_mlx.errors import EcellmError
from ecellm_mlx.evaluation.journal import Record, record
from ecellm_mlx.evaluation.settings import KEYS, Api
from ecellm_mlx.inference import protocol

PASSING = (408, 409, 425, 429, 500, 502, 503, 504, 529)
RETRIES = 6
FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 60.0
# What a server asks for is obeyed, but a run does not sleep for a day.
LONGEST_ASKED_S = 900.0
POLL_S = 0.5
PART = 1 << 16


class EndpointError(EcellmError):
    """A server that refuses, does not answer, or answers with something else."""


@dataclass(frozen=True)
class Endpoint:
    """A server and how to ask it.

    Attributes:
        url: base address, such as ``http://127.0.0.1:8080/v1``.
        model: name of the model at that server.
        api: the interface to use.
        frame: the prompt frame.
        seed: passed on; most servers then repeat themselves.
        timeout_s: seconds that one request may take.
    """

    url: str
    model: str
    api: Api = Api.COMPLETIONS
    frame: Frame = Frame.ALPACA
    seed: int = 42
    timeout_s: float = 120.0

    @property
    def address(self) -> str:
        """The address that requests go to."""
        return self.url + ("/chat/completions" if self.api is Api.CHAT else "/completions")


def answer(
    endpoint: Endpoint,
    rows: Sequence[Row],
    decoding: str,
    *,
    concurrency: int,
    proceed: Callable[[], bool],
    warn: Callable[[str], None],
) -> Iterator[list[Record]]:
    """Records as the server answers, in whatever order it does.

    Args:
        endpoint: the server.
        rows: the rows that have no answer yet.
        decoding: the name under which answers are recorded.
        concurrency: requests at once.
        proceed: called at least every ``POLL_S``; False stops.
        warn: told of retries, a sentence each.

    Raises:
        EndpointError: the server refused, or failed again and again. Answers that arrived
            beside the failure are yielded first.
    """
    stopped = threading.Event()
    client = _Client(endpoint, stopped)
    waiting = iter(rows)
    running: dict[Future[str], Row] = {}
    problem: EcellmError | None = None
    pool = ThreadPoolExecutor(concurrency, thread_name_prefix="endpoint")
    try:
        while True:
            going_on = problem is None and proceed()
            while going_on and len(running) < concurrency and (row := next(waiting, None)):
                running[pool.submit(client.ask, row)] = row
            if not running:
                break
            if not going_on:
                stopped.set()
            done, _ = wait(running, timeout=POLL_S, return_when=FIRST_COMPLETED)
            while not client.retries.empty():
                warn(client.retries.get())
            records = []
            for future in done:
                row = running.pop(future)
                error = future.exception()
                if error is None:
                    records.append(record(row, decoding, future.result()))
                elif isinstance(error, _Stopped):
                    continue
                elif isinstance(error, EcellmError):
                    problem = problem or error
                else:
                    raise error
            if records:
                yield records
            if not going_on and problem is None:
                # Requests in flight may take minutes; whoever stops does not wait for them.
                break
    finally:
        stopped.set()
        pool.shutdown(wait=False, cancel_futures=True)
        client.http.close()
    if problem is not None:
        raise problem


class _Stopped(Exception):  # noqa: N818 - not an error: the run was asked to stop
    """The run was stopped while a request waited for its next try."""


class _Client:
    """Asks for one answer at a time; many threads share it.

    ``retries`` collects what went wrong and is tried again, for the thread that reports.
    """

    def __init__(self, endpoint: Endpoint, stopped: threading.Event) -> None:
        self.endpoint, self.stopped = endpoint, stopped
        self.retries: queue.SimpleQueue[str] = queue.SimpleQueue()
        host = urllib.parse.urlsplit(endpoint.url).hostname or ""
        local = host in ("localhost", "::1") or host.startswith("127.")
        headers = {"Accept": "application/json", "User-Agent": f"ecellm-mlx/{__version__}"}
        if key := next((os.environ[name] for name in KEYS if os.environ.get(name)), ""):
            headers["Authorization"] = f"Bearer {key}"
        # No redirects: one would take the key, and a POST as a GET, to another place.
        self.http = httpx2.Client(
            headers=headers,
            timeout=endpoint.timeout_s,
            # What is on this machine is not reached through anyone's proxy.
            trust_env=not local,
            # As many as there are threads; certificates are the system's.
            limits=httpx2.Limits(max_connections=None),
            verify=ssl.create_default_context(),
        )

    def ask(self, row: Row) -> str:
        """The server's answer to one row."""
        attempt = 0
        while True:
            if self.stopped.is_set():
                raise _Stopped
            result = self._once(row)
            if isinstance(result, str):
                return result
            if attempt == RETRIES:
                break
            pause = result.wait_s or min(LONGEST_WAIT_S, FIRST_WAIT_S * 2**attempt)
            # Requests that failed together should not come back together.
            pause *= 1 + random.random() / 4
            self.retries.put(
                f"{self.endpoint.url}: {result.what}; trying again in {pause:.0f} s"
            )
            attempt += 1
            if self.stopped.wait(pause):
                raise _Stopped
        raise EndpointError(
            f"{self.endpoint.address} failed {RETRIES + 1} times for row {row.id}",
            got=result.what,
            cure="answers so far are kept: go on later with `ecellm resume`",
        )

    def _question(self, row: Row) -> dict[str, Any]:
        text = prompts.prompt(row, self.endpoint.frame)
        asked: dict[str, Any] = (
            {"messages": [{"role": "user", "content": text}]}
            if self.endpoint.api is Api.CHAT
            else {"prompt": text}
        )
        return asked | {
            "model": self.endpoint.model,
            "max_tokens": protocol.PAPER_MAX_TOKENS,
            "temperature": protocol.PAPER_TEMPERATURE,
            "top_p": protocol.PAPER_TOP_P,
            "seed": self.endpoint.seed,
        }

    def _once(self, row: Row) -> str | _Failure:
        """The answer, or a failure that may pass; others are raised."""
        deadline = time.monotonic() + self.endpoint.timeout_s
        address, question = self.endpoint.address, self._question(row)
        try:
            with self.http.stream("POST", address, json=question) as response:
                data = _read(response, deadline)
        except (httpx2.TimeoutException, TimeoutError):
            return _Failure(f"no answer in {self.endpoint.timeout_s:g} s")
        except httpx2.HTTPError as error:
            return _Failure(f"the connection failed ({error or type(error).__name__})")
        if response.is_success:
            return self._text(data)
        said = _message(data)
        if response.status_code in PASSING:
            wait_s = _retry_after(response.headers)
            return _Failure(f"status {response.status_code}{said}", wait_s)
        raise self._refused(response.status_code, said, row)

    def _text(self, data: bytes) -> str:
        try:
            choice = json.loads(data)["choices"][0]
            text = (
                choice["message"].get("content")
                if self.endpoint.api is Api.CHAT
                else choice["text"]
            )
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            raise EndpointError(
                f"{self.endpoint.address} answered with something else than an answer",
                got=_excerpt(data),
                expected="JSON with choices",
                cure="check the address: it usually ends in /v1",
            ) from None
        # A server may have nothing to say, which is an answer too.
        # Half of a surrogate pair, which JSON can hold, cannot be written down.
        return text.encode(errors="replace").decode() if isinstance(text, str) else ""

    def _refused(self, status: int, said: str, row: Row) -> EndpointError:
        cure = "check the request at the server"
        if status in (401, 403):
            cure = f"set the key in the environment as {KEYS[0]}"
        elif status in (404, 405):
            other = Api.COMPLETIONS if self.endpoint.api is Api.CHAT else Api.CHAT
            cure = (
                f"check the address and the name of the model, or try --api {other}: "
                "a server may offer one of the two only"
            )
        elif status == 400:
            cure = f"the server may not accept the length or a setting of row {row.id}"
        return EndpointError(
            f"{self.endpoint.address} refused the request",
            got=f"status {status}{said}",
            cure=cure,
        )


@dataclass(frozen=True)
class _Failure:
    """Why a try failed, and how long the server asks to wait."""

    what: str
    wait_s: float = 0.0


def _read(response: httpx2.Response, deadline: float) -> bytes:
    """The body; a server that sends a byte now and then does not get around the limit."""
    parts = []
    for part in response.iter_bytes():
        parts.append(part)
        if time.monotonic() > deadline:
            raise TimeoutError
    return b"".join(parts)


def _message(data: bytes) -> str:
    """What the server says about an error, behind a colon."""
    try:
        value = json.loads(data)
        value = value.get("error", value)
        text = value.get("message", "") if isinstance(value, dict) else value
    except (ValueError, AttributeError):
        text = _excerpt(data) if data else ""
    return f": {_one_line(str(text))}" if text else ""


def _retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that the Retry-After header asks for, as a number or a date; 0 if it does not."""
    asked = headers.get("Retry-After", "")
    try:
        seconds = float(asked)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(asked).timestamp() - time.time()
        except ValueError:
            return 0.0
    return min(LONGEST_ASKED_S, max(0.0, seconds))


def _excerpt(data: bytes) -> str:
    text = data[:PART].decode("utf-8", errors="replace").strip()
    kind = "HTML: " if text[:200].lower().startswith(("<!doctype html", "<html")) else ""
    return kind + _one_line(text) if text else "an empty body"


def _one_line(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 160 else text[:157] + "…"
