"""A hub on 127.0.0.1 that speaks what ``huggingface_hub`` and a pull ask for.

Files under ``LFS`` are answered as the real hub does: a redirect to a second server
(another origin, as a CDN is) that holds the bytes. Every request is recorded, and
knobs make the hub misbehave. Start it with ``with FakeHub() as hub``.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

from . import fake_uploads

LFS = re.compile(r".*\.(safetensors|bin|gguf|onnx|model)|train\.json")


@dataclass
class Request:
    """One request as it was served; ``sent`` counts the body's bytes."""

    server: str
    method: str
    path: str
    file: str
    range: str | None
    authorization: str | None
    status: int = 0
    sent: int = 0


@dataclass
class Repo:
    """Commits by hash, and the branches that point to them."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    gated: str = ""
    private: bool = False


class FakeHub:
    """The hub, its content, its knobs and its log.

    Knobs: ``drops`` gives for a file how many bytes to send before each lost
    connection, in order; ``corrupt`` names files served with one changed byte;
    ``failures`` gives for a file statuses to answer first; ``ignore_range`` sends
    whole files; ``login_page`` answers everything with HTML; ``stall`` names files
    that stop half-way until the hub is closed.
    """

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.requests: list[Request] = []
        self.drops: dict[str, list[int]] = {}
        self.failures: dict[str, list[int]] = {}
        self.corrupt: set[str] = set()
        self.stall: set[str] = set()
        self.uploads = fake_uploads.UploadState()
        self.ignore_range = False
        self.login_page = False
        self.closed = threading.Event()
        self.stalled = threading.Event()
        self._servers = [self._server("hub"), self._server("cdn")]
        self.url, self.cdn_url = (f"http://127.0.0.1:{s.server_port}" for s in self._servers)

    def _server(self, role: str) -> ThreadingHTTPServer:
        handler = type("Handler", (_Handler,), {"hub": self, "role": role})
        return _Server(("127.0.0.1", 0), handler)

    def __enter__(self) -> FakeHub:
        for server in self._servers:
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closed.set()
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def commit(self, repo: str, files: dict[str, bytes], branch: str = "main") -> str:
        """Make ``branch`` point to a new commit that holds ``files``; its hash."""
        entry = self.repos.setdefault(repo, Repo())
        content = sorted((path, git_sha1(data)) for path, data in files.items())
        commit = hashlib.sha1(repr((content, len(entry.commits))).encode()).hexdigest()
        entry.commits[commit] = dict(files)
        entry.branches[branch] = commit
        return commit

    def asked(self, file: str, server: str | None = None) -> list[Request]:
        """The GET requests for ``file``, in order."""
        return [
            r
            for r in self.requests
            if r.method == "GET" and r.file == file and server in (None, r.server)
        ]

    def fetched_files(self) -> set[str]:
        """All files of which content was asked for."""
        return {r.file for r in self.requests if r.file}

    def body_bytes(self, file: str) -> int:
        """How many bytes of ``file`` went over the wire."""
        return sum(r.sent for r in self.asked(file) if r.status in (200, 206))


def git_sha1(data: bytes) -> str:
    """The name git gives to a content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up, as a killed pull does, is no news."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    role: str
    protocol_version = "HTTP/1.1"
    # Headers and body are two writes; Nagle would hold the second back for 40 ms.
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._serve()

    def do_HEAD(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._take()

    def do_PUT(self) -> None:
        self._take()

    def _take(self) -> None:
        path = unquote(urlsplit(self.path).path)
        authorization = self.headers.get("Authorization")
        self.record = Request(self.role, self.command, path, "", None, authorization)
        self.hub.requests.append(self.record)
        if self.command == "PUT":
            fake_uploads.put_object(self, path.rsplit("/", 1)[-1])
        else:
            fake_uploads.post(self, path)

    def log_message(self, *_: Any) -> None:
        """Requests are recorded, not printed."""

    def _serve(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.record = Request(
            self.role,
            self.command,
            path,
            "",
            self.headers.get("Range"),
            self.headers.get("Authorization"),
        )
        self.hub.requests.append(self.record)
        if self.hub.login_page:
            self._body(b"<html>log in</html>", "text/html")
        elif match := re.fullmatch(
            r"/api/(models|datasets)/(.+?/.+?)(?:/(revision|tree)/(.+))?", path
        ):
            # A dataset goes by its address, so that it may have a model's name.
            kind = "datasets/" if match[1] == "datasets" else ""
            self._api(kind + match[2], match[3], match[4] or "main")
        elif match := re.fullmatch(r"/cdn/(\w+)/(.+?)/([0-9a-f]{40})/(.+)", path):
            self._file(match[2], match[3], match[4], match[1])
        elif match := re.fullmatch(r"/(.+?/.+?)/resolve/(.+?)/(.+)", path):
            self._resolve(match[1], match[2], match[3])
        else:
            self._refuse(404, "EntryNotFound")

    def _api(self, repo: str, kind: str | None, revision: str) -> None:
        if not (commit := self._commit(repo, revision, gate="all")):
            return
        files = self.hub.repos[repo].commits[commit]
        if kind == "tree":
            self._json([_tree_entry(path, data) for path, data in files.items()])
        else:
            siblings = [_sibling(path, data) for path, data in files.items()]
            private = self.hub.repos[repo].private
            self._json(
                {
                    "_id": "0",
                    "id": repo,
                    "sha": commit,
                    "siblings": siblings,
                    "private": private,
                }
            )

    def _resolve(self, repo: str, revision: str, path: str) -> None:
        self.record.file = path
        if not (commit := self._commit(repo, revision, gate="files")):
            return
        data = self.hub.repos[repo].commits[commit].get(path)
        if data is None:
            self._refuse(404, "EntryNotFound")
        elif LFS.fullmatch(path):
            sha256 = hashlib.sha256(data).hexdigest()
            self._answer(
                302,
                {
                    "Location": f"{self.hub.cdn_url}/cdn/{sha256}/{repo}/{commit}/{path}",
                    "X-Repo-Commit": commit,
                    "X-Linked-Etag": f'"{sha256}"',
                    "X-Linked-Size": str(len(data)),
                    "Content-Length": "0",
                },
            )
        else:
            self._file(repo, commit, path, git_sha1(data))

    def _commit(self, repo: str, revision: str, gate: str) -> str | None:
        entry = self.hub.repos.get(repo)
        if entry is None:
            self._refuse(401 if self.record.authorization is None else 404, "RepoNotFound")
            return None
        # The real hub shows the list of a gated repository at times, its files never.
        if entry.gated in (gate, "all"):
            self._refuse(403 if self.record.authorization else 401, "GatedRepo")
            return None
        commit = entry.branches.get(revision, revision)
        if commit not in entry.commits:
            self._refuse(404, "RevisionNotFound")
            return None
        return commit

    def _file(self, repo: str, commit: str, path: str, etag: str) -> None:
        self.record.file = path
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": commit}
        if statuses := self.hub.failures.get(path):
            self._refuse(statuses.pop(0), "")
            return
        data = self.hub.repos[repo].commits[commit][path]
        if path in self.hub.corrupt:
            data = data[:-1] + bytes([data[-1] ^ 1])
        start, status, length = 0, 200, len(data)
        if self.record.range and not self.hub.ignore_range:
            start, status = int(self.record.range.removeprefix("bytes=").split("-")[0]), 206
            headers["Content-Range"] = f"bytes {start}-{length - 1}/{length}"
        body = data[start:]
        headers |= {"Content-Length": str(len(body)), "Accept-Ranges": "bytes"}
        self._answer(status, headers)
        if self.command == "HEAD":
            return
        if path in self.hub.stall:
            self._write(body[: len(body) // 2])
            self.hub.stalled.set()
            self.hub.closed.wait(30)
            self.close_connection = True
        elif drops := self.hub.drops.get(path):
            self._write(body[: drops.pop(0)])
            self.close_connection = True
        else:
            self._write(body)

    def _write(self, body: bytes) -> None:
        self.wfile.write(body)
        self.wfile.flush()
        self.record.sent += len(body)

    def _json(self, value: Any) -> None:
        self._body(json.dumps(value).encode(), "application/json")

    def _body(self, body: bytes, kind: str) -> None:
        self._answer(200, {"Content-Type": kind, "Content-Length": str(len(body))})
        if self.command != "HEAD":
            self._write(body)

    def _refuse(self, status: int, code: str) -> None:
        headers = {"Content-Length": "0"} | ({"X-Error-Code": code} if code else {})
        self._answer(status, headers)

    def _answer(self, status: int, headers: dict[str, str]) -> None:
        self.record.status = status
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


def _lfs(data: bytes) -> dict[str, Any]:
    return {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}


def _sibling(path: str, data: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"rfilename": path, "size": len(data), "blobId": git_sha1(data)}
    return entry | {"blobId": "f" * 40, "lfs": _lfs(data)} if LFS.fullmatch(path) else entry


def _tree_entry(path: str, data: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "type": "file",
        "path": path,
        "size": len(data),
        "oid": git_sha1(data),
    }
    if LFS.fullmatch(path):
        entry["lfs"] = _lfs(data) | {"oid": hashlib.sha256(data).hexdigest()}
    return entry
