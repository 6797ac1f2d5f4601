"""What a pull asks the hub for: the files of a commit, and the bytes of one file.

The hub's own client lists, authorises and follows proxies; the bytes are fetched
here, over plain HTTP with range requests. Its downloader does not serve: it writes
to a file of a random name and deletes it on failure, so that an interrupted 10 GB
shard starts at zero again. Xet, its other transport, is not used for the same
reason: this code never asks for it, so HF_HUB_DISABLE_XET has nothing to change.
Knows no folders and prints nothing. ``huggingface_hub`` is imported when needed.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ecellm_mlx import __version__
from ecellm_mlx.errors import HubError
from ecellm_mlx.files import storage_errors
from ecellm_mlx.models.folder import is_wanted
from ecellm_mlx.models.registry import ModelName
from ecellm_mlx.models.source import RemoteFile, Source

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

# Rows of a dataset, and the judgments that ranking rows lack.
ROWS = re.compile(r"(train|val|validation|test|label)\.jsonl?")
TRANSIENT = (408, 429, 500, 502, 503, 504)
RETRIES = 5
RETRY_WAIT_S = 1.0
TOKEN = "set HF_TOKEN or run `hf auth login`"


class HubClient:
    """The hub as far as one model is concerned.

    Args:
        name: which model, at which revision.
        endpoint: the hub's address; ``HF_ENDPOINT`` or the public hub if not given.
    """

    def __init__(self, name: ModelName, endpoint: str | None = None) -> None:
        from huggingface_hub import constants

        self.name = name
        # The hub's client reads the variable only once, when it is imported.
        chosen = endpoint or os.environ.get("HF_ENDPOINT") or constants.ENDPOINT
        self.endpoint = chosen.rstrip("/")

    def source(self) -> Source:
        """The commit behind the revision, and those of its files that a model needs.

        Raises:
            HubError: the hub cannot be reached, or refuses, or has nothing that fits.
        """
        from huggingface_hub import HfApi, constants

        repo = self.name.repo
        with self._errors():
            try:
                api = HfApi(endpoint=self.endpoint, library_name="ecellm-mlx")
                ask = api.dataset_info if self.name.kind == "dataset" else api.model_info
                info = ask(
                    repo,
                    revision=self.name.revision,
                    files_metadata=True,
                    timeout=constants.HF_HUB_ETAG_TIMEOUT,
                )
            except (ValueError, KeyError, TypeError) as error:
                # The login page of a network, or a server that is no hub.
                raise HubError(
                    f"{self.endpoint} answered with something that is no {self.name.kind}",
                    got=_first_line(error),
                    cure="check HF_ENDPOINT and whether the network asks for a login",
                ) from error
        names = [s.rfilename for s in info.siblings or []]
        kind = self.name.kind
        belongs = ROWS.fullmatch if kind == "dataset" else is_wanted
        wanted = [s for s in info.siblings or [] if belongs(s.rfilename)]
        if kind == "dataset" and not wanted:
            raise HubError(
                f"{repo} has no rows that can be used",
                expected="train.json, validation.json or test.json",
                got=", ".join(names[:8]),
                cure="choose a repository that has them",
            )
        if kind == "model" and not any(s.rfilename.endswith(".safetensors") for s in wanted):
            raise HubError(
                f"{repo} has no weights that can be used",
                expected="model.safetensors or its shards",
                got=", ".join(n for n in names if re.search(r"\.(bin|gguf|safetensors)$", n)),
                cure="choose a repository that has them",
            )
        if not info.sha or any(s.size is None for s in wanted):
            raise HubError(
                f"{self.endpoint} does not tell the commit and the file sizes of {repo}",
                cure="check HF_ENDPOINT",
            )
        files = tuple(sorted(map(_remote_file, wanted), key=lambda f: f.path))
        return Source(repo, self.name.revision, info.sha, files)

    def fetch(
        self, source: Source, file: RemoteFile, part: Path, report: Callable[[int, int], None]
    ) -> None:
        """Complete ``part``, which holds the first bytes of ``file`` or none.

        A lost connection is taken up where it broke, until several attempts in a row
        brought nothing. The content is not checked.

        Args:
            report: called with (bytes in ``part``, bytes just added).

        Raises:
            HubError: the hub refuses, or the connection does not hold.
            StorageError: ``part`` cannot be written.
        """
        failures = 0
        while (have := part.stat().st_size) < file.size:
            with self._errors():
                lost = self._stream(source, file, part, report)
            size = part.stat().st_size
            failures = 0 if size > have else failures + 1
            if failures > RETRIES:
                raise HubError(
                    f"the connection failed {failures} times at {size:,} of {file.size:,} "
                    f"bytes of {file.path}",
                    got=lost,
                    cure="pull again later: it goes on from there",
                )
            if size < file.size:
                time.sleep(RETRY_WAIT_S * 2**failures)

    def _stream(
        self, source: Source, file: RemoteFile, part: Path, report: Callable[[int, int], None]
    ) -> str:
        """Append what one request yields to ``part``; say why it ended early, if it did."""
        from huggingface_hub import constants, get_session, hf_hub_url, hf_raise_for_status
        from huggingface_hub.errors import HfHubHTTPError

        have = part.stat().st_size
        url = hf_hub_url(
            source.repo,
            file.path,
            repo_type=self.name.kind,
            revision=source.commit,
            endpoint=self.endpoint,
        )
        headers = _headers()
        if have:
            headers["Range"] = f"bytes={have}-"
        timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
        try:
            with get_session().stream("GET", url, headers=headers, timeout=timeout) as response:
                if response.status_code >= 400:
                    response.read()
                    hf_raise_for_status(response)
                resumed = response.status_code == 206
                span = response.headers.get("Content-Range", "")
                if resumed and not span.startswith(f"bytes {have}-"):
                    raise HubError(
                        f"{self.endpoint} sent another part of {file.path} than asked for",
                        expected=f"bytes {have}-",
                        got=span or "no Content-Range",
                        cure="pull again later",
                    )
                # A server that ignores the range sends the file from its start.
                position = have if resumed else 0
                with _writing(part, "ab" if resumed else "wb") as write:
                    for chunk in response.iter_bytes():
                        write(chunk)
                        position += len(chunk)
                        report(position, len(chunk))
        except HfHubHTTPError as error:
            if error.response.status_code not in TRANSIENT:
                raise
            return f"HTTP status {error.response.status_code}"
        except http_error() as error:
            return _first_line(error)
        return ""

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Say in one sentence what the hub, or the way to it, refuses."""
        from huggingface_hub import errors

        repo = self.name.repo
        place = f"datasets/{repo}" if self.name.kind == "dataset" else repo
        page = f"{self.endpoint}/{place}"
        try:
            yield
        except errors.OfflineModeIsEnabled:
            raise HubError(
                f"{repo} cannot be fetched in offline mode", cure="unset HF_HUB_OFFLINE"
            ) from None
        except errors.GatedRepoError:
            card = self.name.card
            accept = card.gate if card and card.gate else f"accept its terms at {page}"
            raise HubError(
                f"{repo} is gated: only accounts that accepted its licence may fetch it",
                cure=f"{accept}, then {TOKEN}, and pull again",
            ) from None
        except errors.RevisionNotFoundError:
            raise HubError(
                f"{repo} has no revision {self.name.revision!r}",
                cure=f"choose a branch, tag or commit from {page}/commits/main",
            ) from None
        except errors.RepositoryNotFoundError:
            raise HubError(
                f"{repo} does not exist on {self.endpoint}, or is private",
                cure=f"check the name, or {TOKEN} if it is yours",
            ) from None
        except errors.HfHubHTTPError as error:
            status = error.response.status_code
            raise HubError(
                f"{self.endpoint} refused {repo}",
                got=f"HTTP status {status}",
                cure=f"check your token: {TOKEN}"
                if status in (401, 403)
                else "try again later",
            ) from error
        except http_error() as error:
            raise HubError(
                f"{self.endpoint} cannot be reached",
                got=_first_line(error),
                cure="check the connection and HF_ENDPOINT, then pull again",
            ) from error


def _remote_file(sibling: RepoSibling) -> RemoteFile:
    size = sibling.size or 0
    if sibling.lfs:
        # blob_id is that of the pointer here, not of the content.
        return RemoteFile(sibling.rfilename, size, sha256=sibling.lfs.sha256)
    return RemoteFile(sibling.rfilename, size, git_sha1=sibling.blob_id)


def _headers() -> dict[str, str]:
    from huggingface_hub import constants, get_token

    headers = {
        "User-Agent": f"ecellm-mlx/{__version__}",
        # Byte positions mean nothing within a compressed body.
        "Accept-Encoding": "identity",
    }
    token = None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()
    if token:
        headers["Authorization"] = f"Bearer {token}"
    return headers


def http_error() -> type[Exception]:
    """What the hub's HTTP library raises: httpx's up to huggingface-hub 1, httpx2's since."""
    from huggingface_hub.errors import HfHubHTTPError

    return next(base for base in HfHubHTTPError.__mro__ if base.__name__ == "HTTPError")


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


@contextlib.contextmanager
def _writing(path: Path, mode: str) -> Iterator[Callable[[bytes], None]]:
    """Write to ``path``; only the disk's own errors become a ``StorageError``."""
    with storage_errors(path):
        # Unbuffered: what arrived before a crash is in the file.
        stream: Any = path.open(mode, buffering=0)

    def write(chunk: bytes) -> None:
        with storage_errors(path):
            rest = memoryview(chunk)
            while rest:
                rest = rest[stream.write(rest) :]

    with stream:
        yield write
        with storage_errors(path):
            os.fsync(stream.fileno())
