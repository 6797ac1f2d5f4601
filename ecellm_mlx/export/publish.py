"""Publish a folder on the hub: what would be sent, then the sending.

The hub's own client uploads. Large files go first, one by one, and are kept by the hub
even if the push is cut off there: the next push sends only what is missing, and one
commit makes everything visible at once. The token comes from the environment or from
``hf auth login``, never from an option. ``huggingface_hub`` is imported when needed.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ecellm_mlx.data.prompts import frame_for
from ecellm_mlx.errors import EcellmError, HubError, UsageError
from ecellm_mlx.export import card, card_text
from ecellm_mlx.hub.client import http_error
from ecellm_mlx.models.adapter_files import CONFIG_FILE, WEIGHTS_FILE, folder_of
from ecellm_mlx.models.fingerprint import verify_safetensors
from ecellm_mlx.models.folder import CARD_FILE
from ecellm_mlx.models.registry import REPO
from ecellm_mlx.models.source import RemoteFile

from converters.gguf_header import read_header

if TYPE_CHECKING:
    from huggingface_hub import HfApi

TOKEN_CURE = "set HF_TOKEN or run `hf auth login` with a token that may write"


@dataclass(frozen=True)
class PushPlan:
    """What a push would do.

    Attributes:
        folder: where the files are.
        repo: ``owner/name``.
        files: name and bytes of all files, in the order of sending.
        unchanged: names of those that the hub has already, byte for byte.
        exists: whether the repository is there.
        private: whether it is, or will be, private.
        card: a model card for a folder that has none, or None.
    """

    folder: Path
    repo: str
    files: tuple[tuple[str, int], ...]
    unchanged: frozenset[str]
    exists: bool
    private: bool
    card: str | None

    @property
    def bytes_total(self) -> int:
        """Bytes of all files."""
        return sum(size for _, size in self.files)

    @property
    def bytes_to_send(self) -> int:
        """Bytes of those that the hub does not have."""
        return sum(size for name, size in self.files if name not in self.unchanged)

    def to_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "repo": self.repo,
            "exists": self.exists,
            "private": self.private,
            "files": [
                {"name": name, "bytes": size, "unchanged": name in self.unchanged}
                for name, size in self.files
            ],
            "bytes_to_send": self.bytes_to_send,
        }


def plan(source: str | Path, repo: str, *, private: bool = False) -> PushPlan:
    """Check the folder, and ask the hub what it has already.

    Args:
        source: a model or adapter folder, or a run.
        repo: ``owner/name`` on the hub.
        private: create the repository as a private one.

    Raises:
        UsageError: ``repo`` is no repository name, or public although private is asked.
        EcellmError, ConversionError: nothing to publish, or damaged files.
        HubError: there is no token, the hub refuses, or cannot be reached.
    """
    if not REPO.fullmatch(repo):
        raise UsageError(f"{repo!r} is no repository", expected="owner/name")
    folder = _folder(Path(source))
    files = _files(folder)
    generated = None if (folder / CARD_FILE).exists() else _generated_card(folder)
    sizes = [(path.name, path.stat().st_size) for path in files]
    if generated is not None:
        sizes.append((CARD_FILE, len(generated.encode())))
    remote = _remote(repo)
    if remote is not None and private and not remote["private"]:
        raise UsageError(
            f"{repo} is public", expected="a private repository",
            cure="make it private on its settings page, or leave out --private",
        )  # fmt: skip
    known = remote["files"] if remote else {}
    unchanged = frozenset(
        path.name for path in files if path.name in known and not known[path.name].problem(path)
    )
    return PushPlan(
        folder,
        repo,
        tuple(sizes),
        unchanged,
        remote is not None,
        bool(remote["private"]) if remote else private,
        generated,
    )


def push(
    planned: PushPlan, report: Callable[[str, int], None] = lambda _name, _size: None
) -> str:
    """Send what the hub does not have; returns the address of the commit.

    Args:
        planned: from ``plan``.
        report: called with the name and bytes of each file before it is sent.

    Raises:
        HubError: the hub refuses, or the connection does not hold; a later push goes on.
    """
    from huggingface_hub import CommitOperationAdd

    with _errors(planned.repo):
        api = _api()
        api.create_repo(planned.repo, private=planned.private, exist_ok=True)
        operations = []
        for name, size in planned.files:
            if name in planned.unchanged:
                continue
            report(name, size)
            content: Any = planned.folder / name
            if name == CARD_FILE and planned.card is not None:
                content = planned.card.encode()
            operation = CommitOperationAdd(name, content)
            # Small files travel in the commit itself and pass through here untouched.
            api.preupload_lfs_files(planned.repo, additions=[operation])
            operations.append(operation)
        if not operations:
            return f"{api.endpoint}/{planned.repo}"
        made = api.create_commit(
            planned.repo, operations, commit_message="Upload with ecellm-mlx"
        )
    return str(made.commit_url)


def _folder(source: Path) -> Path:
    """The folder to publish: ``source``, or the adapter of a run."""
    if (source / "job.json").exists() or (source / CONFIG_FILE).exists():
        return folder_of(source)
    if source.is_dir():
        return source
    raise EcellmError(
        f"{source} is no folder", expected="a model or adapter folder, or a run",
        cure="check the path",
    )  # fmt: skip


def _files(folder: Path) -> list[Path]:
    """What is published: the folder's own files, large ones first, all of them whole."""
    files = [
        path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")
    ]
    weights = [path for path in files if path.suffix in (".safetensors", ".gguf")]
    if not weights:
        raise EcellmError(
            f"{folder} holds no weights", expected="*.safetensors or *.gguf",
            cure="give a folder that fuse, export or train wrote",
        )  # fmt: skip
    for path in weights:
        if path.suffix == ".gguf":
            read_header(path)
        else:
            verify_safetensors(path)
    return sorted(files, key=lambda path: (path not in weights, path.name))


def _generated_card(folder: Path) -> str | None:
    """A card for an adapter of ours; None where nothing is known."""
    if not (folder / WEIGHTS_FILE).exists():
        return None
    config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    ecellm = config.get("ecellm") or {}
    recorded = ecellm.get("base") or {}
    if not recorded.get("name"):
        return None
    values = config["lora_parameters"]
    return card_text.render(
        card.Provenance(
            kind="mlx-adapter",
            base=card.base_of(str(recorded["name"]), None),
            frame=frame_for(str(recorded.get("model_type"))),
            stored=f"rank {values['rank']}, scale {values['scale']:g}",
            ecellm=ecellm,
            job=card.read_job(folder),
        )
    )


def _remote(repo: str) -> dict[str, Any] | None:
    """Privacy and files of a repository; None if it does not exist."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import RepositoryNotFoundError

    if not get_token():
        raise HubError("pushing needs a token of the hub", cure=TOKEN_CURE)
    with _errors(repo):
        try:
            info = _api().model_info(repo, files_metadata=True)
        except RepositoryNotFoundError as error:
            if error.response.status_code == 401:
                raise _refused(repo, 401) from error
            return None
    return {
        "private": bool(info.private),
        "files": {
            s.rfilename: RemoteFile(
                s.rfilename,
                s.size or 0,
                sha256=s.lfs.sha256 if s.lfs else None,
                git_sha1=None if s.lfs else s.blob_id,
            )
            for s in info.siblings or []
        },
    }


def _api() -> HfApi:
    from huggingface_hub import HfApi, constants

    endpoint = os.environ.get("HF_ENDPOINT") or constants.ENDPOINT
    return HfApi(endpoint=endpoint.rstrip("/"), library_name="ecellm-mlx")


@contextlib.contextmanager
def _errors(repo: str) -> Iterator[None]:
    """Say in one sentence what the hub, or the way to it, refuses."""
    from huggingface_hub import errors

    try:
        yield
    except errors.OfflineModeIsEnabled:
        raise HubError(
            f"{repo} cannot be pushed in offline mode", cure="unset HF_HUB_OFFLINE"
        ) from None
    except (http_error(), RuntimeError) as error:
        # The client wraps what went wrong with one file.
        cause = error.__cause__ if isinstance(error, RuntimeError) else error
        if not isinstance(cause, http_error()):
            raise
        if isinstance(cause, errors.HfHubHTTPError):
            raise _refused(repo, cause.response.status_code) from error
        first = next(iter(str(cause).strip().splitlines()), "")
        raise HubError(
            f"{repo} could not be sent",
            got=first or type(cause).__name__,
            cure="check the connection and HF_ENDPOINT, then push again: files that arrived "
            "are not sent twice",
        ) from error


def _refused(repo: str, status: int) -> HubError:
    cures = {
        401: f"the token is missing, wrong or expired: {TOKEN_CURE}",
        403: f"the token may not write there: check the owner, or {TOKEN_CURE}",
        404: "check the owner's name",
        409: "it changed meanwhile: push again",
        412: "it changed meanwhile: push again",
    }
    return HubError(
        f"the hub refused {repo}",
        got=f"HTTP status {status}",
        cure=cures.get(status, "push again later: files that arrived are not sent twice"),
    )
