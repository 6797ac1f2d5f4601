"""An OpenAI-compatible server on 127.0.0.1 that answers from a table, or misbehaves."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# What a knob may make of a request: status, headers and body; None hangs up.
Reply = tuple[int, dict[str, str], bytes] | None


class FakeEndpoint:
    """The server and its log. Use it with ``with FakeEndpoint() as fake``.

    ``replies`` are used up first, one for each request; ``answer`` makes the rest from a
    prompt. ``hang`` lets requests wait until the server is closed.
    """

    def __init__(self, answer: Callable[[str], str] = lambda _: "yes") -> None:
        self.answer = answer
        self.replies: list[Reply] = []
        self.hang = False
        self.drip = False
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.most_at_once = 0
        self.delay_s = 0.0
        self.closed = threading.Event()
        self._lock = threading.Lock()
        self._now = 0
        handler = type("Handler", (_Handler,), {"fake": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> FakeEndpoint:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closed.set()
        self._server.shutdown()
        self._server.server_close()

    def enter(self) -> Reply | str:
        """Count a request in; the reply it gets, or ``answer``."""
        with self._lock:
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
            return self.replies.pop(0) if self.replies else "answer"

    def leave(self) -> None:
        """Count a request out."""
        with self._lock:
            self._now -= 1


class _Handler(BaseHTTPRequestHandler):
    fake: FakeEndpoint

    def do_POST(self) -> None:
        fake = self.fake
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        reply = fake.enter()
        fake.requests.append(body)
        fake.headers.append(dict(self.headers))
        fake.paths.append(self.path)
        try:
            if fake.hang:
                fake.closed.wait(30)
                return
            if fake.drip:
                self.send_response(200)
                self.end_headers()
                while not fake.closed.wait(0.05):
                    self.wfile.write(b" ")
                return
            fake.closed.wait(fake.delay_s)
            if reply == "answer":
                chat = self.path.endswith("/chat/completions")
                prompt = body["messages"][0]["content"] if chat else body["prompt"]
                text = fake.answer(prompt)
                choice = {"message": {"content": text}} if chat else {"text": text}
                reply = (200, {}, json.dumps({"choices": [choice]}).encode())
            if reply is None:
                self.close_connection = True
                return
            status, headers, data = reply
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(data))}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)
        except ConnectionError:
            # Whoever asked has given up.
            self.close_connection = True
        finally:
            fake.leave()

    def log_message(self, *_: Any) -> None:
        """Requests are recorded, not printed."""
