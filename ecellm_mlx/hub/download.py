"""Pull a model or a dataset from the hub: sized first, pinned to a commit, resumed, verified.

A pull works in ``models/NAME.partial`` and renames it once every file is there
and proven, so a folder under its final name is whole:

    FILE.part             bytes so far; a later pull asks for the rest only
    FILE                  size and checksum agree with the hub's
    .ecellm-source.json   repository, revision, commit and files (``models.source``)

Nothing is printed; ``progress`` is called instead. The network is touched by
``plan`` and ``pull`` only, through ``models.hub_client``.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ecellm_mlx import workspace as workspaces
from ecellm_mlx.errors import HubError, StorageError
from ecellm_mlx.files import ensure_folder, storage_errors, sync_folder
from ecellm_mlx.hub.client import HubClient
from ecellm_mlx.jobs import lock
from ecellm_mlx.models.registry import GB, ModelCard, ModelName, parse_name
from ecellm_mlx.models.source import SOURCE, RemoteFile, Source, read_source, write_source
from ecellm_mlx.workspace import Workspace

LOCK = ".lock"
PART = ".part"
REPORT_EVERY = 1 << 20


@dataclass(frozen=True)
class PullPlan:
    """What a pull will do.

    ``bytes_present`` are here already and are reused; ``complete`` says that all of
    the model is in place at this commit.
    """

    name: str
    source: Source
    folder: Path
    card: ModelCard | None
    bytes_total: int
    bytes_present: int
    bytes_free: int
    complete: bool

    @property
    def files(self) -> tuple[RemoteFile, ...]:
        """The files of the model."""
        return self.source.files

    @property
    def commit(self) -> str:
        """The commit that all files are taken from."""
        return self.source.commit

    @property
    def bytes_to_download(self) -> int:
        """What is left to fetch."""
        return self.bytes_total - self.bytes_present


@dataclass(frozen=True)
class PullProgress:
    """One report. ``stage`` is planned, downloading, verifying or complete.

    ``done_bytes`` of ``total_bytes`` includes what earlier pulls fetched.
    """

    stage: str
    done_bytes: int
    total_bytes: int
    file: str = ""


@dataclass(frozen=True)
class PullResult:
    """What a pull did; ``already_complete`` if there was nothing to do."""

    plan: PullPlan
    path: Path
    bytes_downloaded: int
    already_complete: bool

    @property
    def summary(self) -> str:
        """One line for a user."""
        commit = self.plan.commit[:12]
        if self.already_complete:
            return f"{self.plan.name} is already complete at commit {commit}"
        fetched = f"{self.bytes_downloaded / GB:.2f} GB"
        return f"{self.plan.name}: {fetched} from {self.plan.source.repo} at commit {commit}"


Report = Callable[[PullProgress], None]


def plan(
    name_or_repo: str | ModelName,
    *,
    revision: str | None = None,
    workspace: Workspace | None = None,
    endpoint: str | None = None,
) -> PullPlan:
    """Ask the hub what ``name_or_repo`` consists of; nothing is downloaded or written.

    Args:
        name_or_repo: a registry name or ``owner/name``, each with or without ``@REVISION``;
            or a name that was taken apart, of a dataset for example.
        revision: a branch, tag or commit; the registry's, or main, if not given.
        endpoint: the hub's address; ``HF_ENDPOINT`` or the public hub if not given.

    Raises:
        ModelError, UsageError: the name cannot be understood.
        HubError: the hub cannot be reached, or refuses, or has nothing that fits.
    """
    name = _parsed(name_or_repo, revision)
    home = workspace or workspaces.current()
    folder = (home.datasets if name.kind == "dataset" else home.models) / name.folder
    installed = read_source(folder)
    if folder.exists() and installed is None:
        raise HubError(
            f"{folder} is already there and was not pulled from the hub",
            cure="use it as it is, or move it away and pull again",
        )
    if installed and installed.commit == name.revision and installed.whole(folder):
        # A commit never changes, so the hub need not be asked again.
        source = installed
    else:
        source = HubClient(name, endpoint).source()
    return PullPlan(
        name=name.folder,
        source=source,
        folder=folder,
        card=name.card,
        bytes_total=source.size,
        bytes_present=_present(source, folder),
        bytes_free=_free(folder),
        complete=installed is not None
        and installed.commit == source.commit
        and source.whole(folder),
    )


def pull(
    name_or_repo: str | ModelName,
    *,
    revision: str | None = None,
    workspace: Workspace | None = None,
    progress: Report | None = None,
    endpoint: str | None = None,
    dry_run: bool = False,
) -> PullResult:
    """Bring a model into the workspace, or finish an interrupted pull of it.

    ``progress`` is called first with the size, before any file is asked for. It may
    raise to stop the pull; what was fetched is kept for the next one.

    Raises:
        ModelError, UsageError, HubError: as ``plan``.
        HubError: also a connection that does not hold, a wrong checksum, or another
            pull of the same model.
        StorageError: not enough room, or a folder that cannot be written.
    """
    todo = plan(name_or_repo, revision=revision, workspace=workspace, endpoint=endpoint)
    report = progress or (lambda _: None)
    report(PullProgress("planned", todo.bytes_present, todo.bytes_total))
    if todo.complete or dry_run:
        return PullResult(todo, todo.folder, 0, todo.complete)
    if todo.bytes_to_download > todo.bytes_free:
        raise StorageError(
            f"{todo.folder.parent}: there is too little room for {todo.name}",
            expected=f"{todo.bytes_to_download / GB:.2f} GB free",
            got=f"{todo.bytes_free / GB:.2f} GB",
            cure="free some space, or move the workspace with ECELLM_HOME",
        )
    partial = ensure_folder(_beside(todo.folder, ".partial"))
    with _locked(partial, todo.name):
        with storage_errors(partial):
            _finish_swap(todo.folder)
            _settle(todo, partial)
        client = HubClient(_parsed(name_or_repo, revision), endpoint)
        download = _Download(client, todo, partial, report)
        # Small files first: a gated repository then refuses before any weights.
        for file in sorted(todo.files, key=lambda f: (f.size, f.path)):
            download.obtain(file)
        with storage_errors(todo.folder):
            _publish(partial, todo.folder)
    report(PullProgress("complete", todo.bytes_total, todo.bytes_total))
    return PullResult(todo, todo.folder, download.fetched, False)


class _Download:
    """The files of one pull, one after the other, and what is reported of them."""

    def __init__(
        self, client: HubClient, todo: PullPlan, partial: Path, report: Report
    ) -> None:
        self.client, self.todo, self.partial, self.report = client, todo, partial, report
        self.fetched = 0
        self._finished = 0
        self._reported = 0

    def obtain(self, file: RemoteFile) -> None:
        """Have ``file`` in the partial folder, verified."""
        target, part = self.partial / file.path, self.partial / (file.path + PART)
        if not file.fits(target):
            with storage_errors(part):
                part.touch()
                if part.stat().st_size > file.size:
                    part.write_bytes(b"")

            def received(position: int, fresh: int) -> None:
                self.fetched += fresh
                done = self._finished + position
                if abs(done - self._reported) >= REPORT_EVERY:
                    self._say("downloading", done, file)

            self.client.fetch(self.todo.source, file, part, received)
            self._say("verifying", self._finished + file.size, file)
            with storage_errors(part):
                if problem := file.problem(part):
                    part.unlink()
                    raise HubError(
                        f"{file.path} arrived damaged and was removed: {problem}",
                        cure="pull again to fetch it anew",
                    )
                part.rename(target)
        self._finished += file.size
        self._say("downloading", self._finished, file)

    def _say(self, stage: str, done: int, file: RemoteFile) -> None:
        self._reported = done
        self.report(PullProgress(stage, done, self.todo.bytes_total, file.path))


def _parsed(name: str | ModelName, revision: str | None) -> ModelName:
    return name if isinstance(name, ModelName) else parse_name(name, revision)


def _beside(folder: Path, suffix: str) -> Path:
    return folder.with_name(folder.name + suffix)


def _present(source: Source, folder: Path) -> int:
    """Bytes of ``source`` that need not be fetched for ``folder``."""
    partial = _beside(folder, ".partial")
    installed, begun = read_source(folder), read_source(partial)
    total = 0
    for file in source.files:
        part = partial / (file.path + PART)
        in_folder = source.shares(file, installed) and file.fits(folder / file.path)
        if source.shares(file, begun) and not in_folder:
            if file.fits(partial / file.path):
                total += file.size
            elif part.is_file() and part.stat().st_size <= file.size:
                total += part.stat().st_size
        elif in_folder:
            total += file.size
    return total


def _free(folder: Path) -> int:
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


@contextlib.contextmanager
def _locked(partial: Path, name: str) -> Iterator[None]:
    """Two pulls that append to one file would spoil it."""
    try:
        with lock.hold(partial / LOCK):
            yield
    except lock.HeldError:
        raise HubError(
            f"another pull of {name} is running", cure="wait for it, or stop it first"
        ) from None


def _settle(todo: PullPlan, partial: Path) -> None:
    """Make ``partial`` hold nothing but files of the plan, finished or begun."""
    source, begun = todo.source, read_source(partial)
    keep = {file.path for file in source.files if source.shares(file, begun)}
    for path in partial.iterdir():
        if path.name != LOCK and path.name.removesuffix(PART) not in keep:
            path.unlink()
    write_source(partial, source)
    installed = read_source(todo.folder)
    for file in source.files:
        old, new = todo.folder / file.path, partial / file.path
        if file.fits(new) or not source.shares(file, installed) or file.problem(old):
            continue
        try:
            os.link(old, new)
        except OSError:
            # Some file systems have no hard links.
            part = partial / (file.path + PART)
            shutil.copyfile(old, part)
            part.rename(new)


def _publish(partial: Path, folder: Path) -> None:
    """Give a complete folder its final name, in place of an older one."""
    (partial / LOCK).unlink()
    for left in partial.glob("*" + PART):
        left.unlink()
    sync_folder(partial)
    if folder.exists():
        folder.rename(_beside(folder, ".old"))
    partial.rename(folder)
    sync_folder(folder.parent)
    _finish_swap(folder)


def _finish_swap(folder: Path) -> None:
    """Drop the folder that ``folder`` replaced; what a user added to it moves along."""
    old = _beside(folder, ".old")
    if not old.exists():
        return
    if not folder.exists():
        # Interrupted between the two renames.
        old.rename(folder)
        return
    source = read_source(old)
    ours = {SOURCE, *(file.path for file in source.files)} if source else {SOURCE}
    for path in old.iterdir():
        if path.name not in ours and not (folder / path.name).exists():
            path.rename(folder / path.name)
    shutil.rmtree(old)
