"""The half of the fake hub that takes uploads: repositories, Git LFS objects, commits.

Knobs on ``UploadState``: ``refuse`` answers every write with a status; ``lost`` counts
uploads of large files whose connection is cut after the body.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .fake_hub import FakeHub, _Handler

TOKEN = "hf_test"


@dataclass
class UploadState:
    """Large files by SHA-256, what was sent, and the knobs."""

    objects: dict[str, bytes] = field(default_factory=dict)
    sent: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    refuse: int = 0
    lost: int = 0


def put_object(handler: _Handler, oid: str) -> None:
    """``PUT /lfs/<oid>``: the bytes of a large file, without a token, as a CDN takes them."""
    body = read_body(handler)
    state = handler.hub.uploads
    if state.lost:
        state.lost -= 1
        handler.close_connection = True
        return
    if hashlib.sha256(body).hexdigest() != oid:
        handler._refuse(400, "")
        return
    state.objects[oid] = body
    state.sent.append(oid)
    handler._body(b"", "text/plain")


def post(handler: _Handler, path: str) -> None:
    """All POST requests of an upload."""
    body = read_body(handler)
    hub = handler.hub
    if handler.record.authorization != f"Bearer {TOKEN}":
        handler._refuse(401, "")
    elif hub.uploads.refuse:
        handler._refuse(hub.uploads.refuse, "")
    elif path == "/api/repos/create":
        _create(handler, json.loads(body))
    elif path == "/api/validate-yaml":
        handler._json({"errors": [], "warnings": []})
    elif match := re.fullmatch(r"/api/models/(.+?/.+?)/preupload/(.+)", path):
        files = [_mode(hub, match[1], file) for file in json.loads(body)["files"]]
        handler._json({"files": files})
    elif match := re.fullmatch(r"/(.+?/.+?)\.git/info/lfs/objects/batch", path):
        objects = [_action(hub, entry) for entry in json.loads(body)["objects"]]
        handler._json({"transfer": "basic", "objects": objects})
    elif match := re.fullmatch(r"/api/models/(.+?/.+?)/commit/(.+)", path):
        _commit(handler, match[1], match[2], body)
    else:
        handler._refuse(404, "EntryNotFound")


def read_body(handler: _Handler) -> bytes:
    """The request's body, with a length or in chunks."""
    if handler.headers.get("Transfer-Encoding") != "chunked":
        return handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
    body = b""
    while size := int(handler.rfile.readline().strip(), 16):
        body += handler.rfile.read(size)
        handler.rfile.readline()
    handler.rfile.readline()
    return body


def _create(handler: _Handler, wanted: dict[str, Any]) -> None:
    from .fake_hub import Repo

    hub = handler.hub
    name = f"{wanted['organization']}/{wanted['name']}"
    private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
    status = 409 if name in hub.repos else 200
    if status == 200:
        hub.repos[name] = Repo(private=private)
        hub.commit(name, {})
    answer = json.dumps({"url": f"{hub.url}/{name}", "id": name}).encode()
    headers = {"Content-Type": "application/json", "Content-Length": str(len(answer))}
    handler._answer(status, headers)
    handler._write(answer)


def _mode(hub: FakeHub, repo: str, file: dict[str, Any]) -> dict[str, Any]:
    from .fake_hub import LFS

    mode = "lfs" if LFS.fullmatch(file["path"]) else "regular"
    return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": None}


def _action(hub: FakeHub, entry: dict[str, Any]) -> dict[str, Any]:
    known = {k: entry[k] for k in ("oid", "size")}
    if entry["oid"] in hub.uploads.objects:
        return known
    return known | {"actions": {"upload": {"href": f"{hub.cdn_url}/lfs/{entry['oid']}"}}}


def _commit(handler: _Handler, repo: str, branch: str, body: bytes) -> None:
    hub = handler.hub
    entry = hub.repos[repo]
    files = dict(entry.commits.get(entry.branches.get(branch, ""), {}))
    for line in map(json.loads, body.splitlines()):
        value = line["value"]
        if line["key"] == "header":
            hub.uploads.messages.append(value["summary"])
        elif line["key"] == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif line["key"] == "lfsFile":
            files[value["path"]] = hub.uploads.objects[value["oid"]]
    commit = hub.commit(repo, files, branch)
    handler._json({"commitOid": commit, "commitUrl": f"{hub.url}/{repo}/commit/{commit}"})
