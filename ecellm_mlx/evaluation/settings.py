"""The settings of an evaluation, declared once.

``ecellm eval``, the Evaluate screen, the table in ``docs/evaluation.md`` and ``job.json``
derive from it. Loads no mlx.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from ecellm_mlx import settings
from ecellm_mlx.data.prompts import Frame
from ecellm_mlx.errors import UsageError
from ecellm_mlx.inference.protocol import Decoding
from ecellm_mlx.settings import option
from ecellm_mlx.tasks.values import Values

# Keys of the section ``endpoint`` of ``job.json``, beside its ``url``.
SERVER = ("api", "frame", "concurrency", "timeout_s")

# Where the key of a server is, the first that is set.
KEYS = ("ECELLM_API_KEY", "OPENAI_API_KEY")


class Api(StrEnum):
    """Which of the two interfaces of a server."""

    COMPLETIONS = "completions"
    CHAT = "chat"


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """Every setting of an evaluation, as a user gives it or, ``resolved``, as it is kept.

    Raises:
        UsageError: values that are unknown or contradict each other, all of them together.
    """

    model: str = option(
        MISSING, "registry name or folder; with --endpoint the name there", "--model", "-m"
    )
    adapter: str | None = option(None, "adapter folder or run", "--adapter", "-a")
    data: Path = option(MISSING, "a file of rows with answers", "--data", "-d")
    tasks: tuple[str, ...] = option((), "only this task", "--task", example="PM")
    settings: tuple[str, ...] = option(
        (), "only this setting", "--setting", example="IND_Diverse_Instruction"
    )
    limit: int | None = option(None, "at most so many rows: a stratified subset", at_least=1)
    decodings: tuple[Decoding, ...] = option(
        (),
        "how answers are made: always valid, or sampled as in the paper; valid if not given, "
        "and paper at an endpoint, which offers nothing else",
        "--decoding",
    )
    values: Values = option(
        Values.FREE, "attribute values: words of the text only, or what the model writes"
    )
    batch_size: int = option(16, "rows computed at once", at_least=1)
    seed: int = 42
    endpoint: str | None = option(
        None, "ask this OpenAI-compatible server; its key is in ECELLM_API_KEY"
    )
    api: Api = option(
        Api.COMPLETIONS, "send the prompt as it is, or (chat) as a user's message"
    )
    frame: Frame = option(Frame.ALPACA, "prompt frame at an endpoint")
    concurrency: int = option(4, "requests at once to an endpoint", at_least=1, at_most=256)
    timeout_s: float = option(120.0, "seconds that one request may take", "--timeout", above=0)
    baseline: str | None = option(None, "an earlier evaluation to compare with in the report")
    threshold_from: str | None = option(
        None, "an evaluation of validation rows to choose yes/no thresholds on"
    )
    bertscore: Path | None = option(None, "folder of roberta-large, for BERTScore of answers")
    bertscore_layer: int | None = option(None, "layer of another model than roberta-large")
    model_name: str = ""  # what the user called the model, once ``model`` is its folder

    def __post_init__(self) -> None:
        settings.check(self, *self._contradictions())

    def _contradictions(self) -> Iterator[str]:
        if self.endpoint and self.adapter:
            yield (
                "--adapter has no effect with --endpoint: start the server with the adapter: "
                "`ecellm serve --model M --adapter A`"
            )
        if self.endpoint and Decoding.VALID in self.decodings:
            yield (
                "--decoding valid needs the model on this machine: expected --decoding paper, "
                "or none, with --endpoint"
            )
        if self.values == Values.SOURCE and Decoding.VALID not in self.all_decodings:
            yield (
                "--values source has no effect without --decoding valid: leave --values out, "
                "free generation follows no grammar"
            )

    @property
    def all_decodings(self) -> tuple[Decoding, ...]:
        """The decodings that are asked for, or the one that goes without saying."""
        default = Decoding.PAPER if self.endpoint else Decoding.VALID
        return self.decodings or (default,)

    @property
    def adapter_weights(self) -> Path | None:
        """The file of the adapter's weights, of resolved settings."""
        from ecellm_mlx.models.adapter_files import WEIGHTS_FILE

        return Path(self.adapter) / WEIGHTS_FILE if self.adapter else None

    def resolved(self) -> EvaluationSettings:
        """With whole names and paths, as ``job.json`` keeps them.

        Raises:
            ModelError, AdapterError, JobError, UsageError: what is named is not there.
        """
        from ecellm_mlx import jobs
        from ecellm_mlx.models import adapter_files, registry
        from ecellm_mlx.tasks.registry import find as find_task

        def run(name: str | None) -> str | None:
            return str(jobs.find(name).path) if name else None

        model = self.model if self.endpoint else str(registry.resolve(self.model).absolute())
        return replace(
            self,
            model=model,
            model_name=self.model,
            adapter=str(adapter_files.folder_of(self.adapter)) if self.adapter else None,
            data=self.data.absolute(),
            tasks=tuple(find_task(task).name for task in self.tasks),
            decodings=self.all_decodings,
            endpoint=parse_url(self.endpoint) if self.endpoint else None,
            baseline=run(self.baseline),
            threshold_from=run(self.threshold_from),
            bertscore=self.bertscore.absolute() if self.bertscore else None,
        )

    def to_json(self) -> dict[str, Any]:
        """As ``job.json`` has them: what concerns a server is a section of its own."""
        value = settings.to_json(self)
        server = {key: value.pop(key) for key in SERVER}
        return {
            **value,
            "endpoint": {"url": self.endpoint, **server} if self.endpoint else None,
        }

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> EvaluationSettings:
        """The inverse of ``to_json``."""
        server = dict(value["endpoint"] or {})
        flat = {**value, "endpoint": server.pop("url", None), **server}
        return settings.from_json(EvaluationSettings, flat)


def parse_url(text: str) -> str:
    """The base address in ``text``, without a trailing slash or the interface's name.

    Raises:
        UsageError: no http or https address, or one that holds a password.
    """
    parts = urllib.parse.urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(
            f"--endpoint {text!r} is no address",
            expected="such as http://127.0.0.1:8080/v1",
        )
    if parts.username or parts.password or parts.query:
        raise UsageError(
            "--endpoint must not hold a password or a query",
            cure=f"put the key into the environment as {KEYS[0]}",
        )
    path = parts.path.rstrip("/")
    for ending in ("/chat/completions", "/completions"):
        path = path.removesuffix(ending)
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc, path, "", ""))
