"""A model that stays loaded and answers requests: ``python -m ecellm_mlx.inference.session``.

For faces that must not load mlx themselves. One JSON object a line on stdin is a
request, one a line on stdout an event; ``id`` ties them together. Requests are served
in their order, one at a time. The process ends with its stdin, so it cannot outlive
the face that started it.

    {"id": 1, "op": "load", "model": "smollm2-135m", "adapter": RUN or null}
        → loaded {device, frame, seconds}
    {"id": 2, "op": "generate", "prompt": TEXT, "side": "base" | "adapter",
     "max_tokens": 200, "temperature": 0, "chat": false, "stop": [TEXT, …] or null}
        → text {text}, again and again, then done {text, tokens, prompt_tokens, seconds, ending}
    {"id": 3, "op": "answer", "side": …, "rows": [{task, instruction, input, options}]}
        → text {index, text} where an answer is written, answer {index, prediction,
          probability, options, error} for each row, then done {seconds}
    {"op": "cancel", "id": 2}
        → ends a request at its next token; its done says ``ending: cancelled``

What goes wrong with a request is an ``error {message}`` event, and the session goes on.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import IO, Any

from ecellm_mlx.data.rows import Row
from ecellm_mlx.device import failures
from ecellm_mlx.errors import EcellmError, UsageError
from ecellm_mlx.inference.chat import as_chat
from ecellm_mlx.inference.stops import Stops

Emit = Callable[..., None]
MAX_TOKENS = 4096


class CancelledError(Exception):
    """The face no longer wants the answer."""


class Session:
    """Serves requests with one model at a time.

    Args:
        emit: called with the fields of each event.
        cancelled: tells whether a request is no longer wanted.
    """

    def __init__(self, emit: Emit, cancelled: Callable[[Any], bool] = lambda _: False) -> None:
        self._emit = emit
        self._cancelled = cancelled
        self._model: _Model | None = None

    def serve(self, request: dict[str, Any]) -> None:
        """Serve one request; never raises for what the user can cause."""
        key = request.get("id")
        operations = {"load": self._load, "generate": self._generate, "answer": self._answer}
        began = time.perf_counter()
        try:
            operation = operations.get(str(request.get("op")))
            if operation is None:
                raise UsageError(
                    f"the session knows no operation {request.get('op')!r}",
                    expected=", ".join(operations),
                )
            for event in operation(request):
                self._emit(id=key, **event)
        except CancelledError:
            self._emit(
                id=key, event="done", ending="cancelled", seconds=time.perf_counter() - began
            )
        except EcellmError as error:
            self._emit(id=key, event="error", message=str(error))
        except Exception as error:  # noqa: BLE001 - the boundary of a process: nothing is above it
            meaning = failures.explain(error) or f"unexpected {type(error).__name__}: {error}"
            self._emit(id=key, event="error", message=f"{meaning[0].upper()}{meaning[1:]}.")

    def _load(self, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        began = time.perf_counter()
        self._model = None
        warnings: list[str] = []
        model = _Model(str(request["model"]), request.get("adapter") or None, warnings.append)
        self._model = model
        for message in warnings:
            yield {"event": "warning", "message": message}
        yield {
            "event": "loaded",
            "device": model.device,
            "frame": str(model.base.frame),
            "seconds": time.perf_counter() - began,
        }

    def _generate(self, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        began = time.perf_counter()
        model = self._model_of(request)
        watch = self._watch(request)
        limit = min(MAX_TOKENS, max(1, int(request.get("max_tokens", 200))))
        prompt, said = str(request["prompt"]), ""
        if request.get("chat"):
            prompt = as_chat(model.base.tokenizer, prompt)
        pieces = model.answerer.stream_text(
            prompt,
            max_tokens=limit,
            temperature=float(request.get("temperature", 0.0)),
            stop=Stops([str(text) for text in request.get("stop") or ()]),
        )
        for piece in pieces:
            watch()
            said += piece
            if piece:
                yield {"event": "text", "text": piece}
        tokens = model.count(said)
        yield {
            "event": "done",
            "text": said,
            "tokens": tokens,
            "prompt_tokens": model.count(prompt),
            "seconds": time.perf_counter() - began,
            "ending": "length" if tokens >= limit else "end",
        }

    def _answer(self, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        began = time.perf_counter()
        model = self._model_of(request)
        watch = self._watch(request)
        for index, item in enumerate(request["rows"]):
            watch()
            try:
                for event in model.answer(_row(index, item), watch):
                    yield {"index": index, **event}
            except EcellmError as error:
                yield {"event": "answer", "index": index, "prediction": "", "error": str(error)}
        yield {"event": "done", "ending": "end", "seconds": time.perf_counter() - began}

    def _model_of(self, request: dict[str, Any]) -> _Model:
        """The loaded model, on the side that a request asks for."""
        if self._model is None:
            raise UsageError("no model is loaded", cure="send a load request first")
        self._model.use(adapter=request.get("side") == "adapter")
        return self._model

    def _watch(self, request: dict[str, Any]) -> Callable[[], None]:
        def watch() -> None:
            if self._cancelled(request.get("id")):
                raise CancelledError

        return watch


class _Model:
    """A loaded base, and an adapter that is put on and taken off as a request asks."""

    def __init__(self, model: str, adapter: str | None, warn: Callable[[str], None]) -> None:
        from ecellm_mlx import device
        from ecellm_mlx.inference.answers import Answerer
        from ecellm_mlx.models import adapter_files, loading

        self.device = device.name()
        self.base = loading.load(model, adapter, warn=warn)
        self._folder = None if adapter is None else adapter_files.folder_of(adapter)
        self._on = self._folder is not None
        self.answerer = Answerer(self.base, batch_size=8)

    def use(self, *, adapter: bool) -> None:
        """Put the adapter on, or take it off.

        Raises:
            UsageError: there is none to put on.
        """
        if adapter and self._folder is None:
            raise UsageError("no adapter is loaded", cure="load the model with one")
        if adapter != self._on:
            self.base.use_adapter(self._folder if adapter else None)
            self._on = adapter

    def count(self, text: str) -> int:
        """Tokens of a text."""
        return len(self.base.tokenizer.encode(text, add_special_tokens=False))

    def answer(self, row: Row, watch: Callable[[], None]) -> Iterator[dict[str, Any]]:
        """Events of one row: pieces of a written answer, then the answer."""
        for piece in self.answerer.stream(row):
            watch()
            if piece.answer is None:
                yield {"event": "text", "text": piece.text}
                continue
            answer = piece.answer
            yield {
                "event": "answer",
                "prediction": answer.prediction,
                "probability": answer.probability,
                "options": list(answer.options.items()),
            }


def _row(index: int, item: dict[str, Any]) -> Row:
    from ecellm_mlx import tasks

    task = tasks.find(str(item["task"]))
    return Row(
        id=str(item.get("id") or index),
        instruction=str(item.get("instruction") or task.instruction),
        input=str(item["input"]),
        options=item.get("options") or None,
        output="",
        task=task.name,
        setting="session",
        split="",
    )


def main(requests: IO[str], events: IO[str]) -> None:
    """Serve ``requests`` until they end."""
    waiting: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    unwanted: set[Any] = set()
    writing = threading.Lock()

    def emit(**event: Any) -> None:
        line = json.dumps(event, ensure_ascii=False, default=str)
        with writing:
            try:
                events.write(line + "\n")
                events.flush()
            except (OSError, ValueError):
                # Nobody listens any more.
                os._exit(0)

    def read() -> None:
        for line in requests:
            try:
                request = json.loads(line)
                operation = request.get("op")
            except (ValueError, AttributeError):
                emit(id=None, event="error", message="A request is no JSON object.")
                continue
            if operation == "cancel":
                unwanted.add(request.get("id"))
            else:
                waiting.put(request)
        # The face has gone: what is being computed is of no use to anyone.
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    session = Session(emit, unwanted.__contains__)
    emit(id=None, event="ready", pid=os.getpid())
    while True:
        session.serve(waiting.get())


if __name__ == "__main__":
    # Libraries may print; stdout is for events alone.
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8", newline="\n")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    main(sys.stdin, channel)
