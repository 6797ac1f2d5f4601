"""Serve a model with its adapter as an OpenAI-compatible server: mlx-lm's, our loading.

mlx-lm's server does the talking. The model comes from ``models.loading``, so that the
device's number format and the checks of an adapter are those of every other verb; it is
loaded before the port is opened. A server has one model: what a request names otherwise
is refused, and nothing is ever fetched from the hub.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from typing import Any

from ecellm_mlx.errors import EcellmError

LOOPBACK = "127.0.0.1"
# Pages of other sites must not talk to a server on this machine through a browser.
ORIGINS = f"http://localhost,http://{LOOPBACK}"


class ServeError(EcellmError):
    """A port that cannot be used."""


def serve(
    model: str,
    *,
    adapter: str | None = None,
    host: str = LOOPBACK,
    port: int = 8080,
    max_tokens: int = 512,
    say: Callable[[str], None] = lambda _: None,
) -> None:
    """Serve until interrupted.

    Args:
        model: registry name or folder.
        adapter: adapter folder or run.
        host: address to listen at; anything but loopback is open to the network.
        port: TCP port.
        max_tokens: the longest answer, where a request does not say.
        say: told what is served and where, and of what is slower than expected.

    Raises:
        ModelError, AdapterError: the model or its adapter cannot be used.
        ServeError: the port is taken.
    """
    _check_port(host, port)
    # Before huggingface_hub is imported, which reads it once.
    os.environ["HF_HUB_OFFLINE"] = "1"
    from ecellm_mlx import device
    from ecellm_mlx.models import loading

    loaded = loading.load(model, adapter, warn=say)
    address = f"http://{host}:{port}/v1"
    say(f"{model}{f' with {adapter}' if adapter else ''} on {device.name()} at {address}")
    say(
        f"measure it with `ecellm eval --endpoint {address} --model default_model --frame "
        f"{loaded.frame} --data test.jsonl`; Ctrl-C ends it"
    )
    _run(loaded, host, port, max_tokens)


def _check_port(host: str, port: int) -> None:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        raise ServeError(
            f"cannot listen at {host}:{port}",
            got=(error.strerror or str(error)).lower(),
            cure="choose another --port or --host",
        ) from None


def _run(loaded: Any, host: str, port: int, max_tokens: int) -> None:
    from mlx_lm import server  # noqa: TID251
    from mlx_lm.utils import load_tokenizer  # noqa: TID251

    class OneModel(server.ModelProvider):
        """Hands out the model that was loaded, and no other."""

        def _load(
            self,
            model_path: str,
            adapter_path: str | None = None,
            draft_model_path: str | None = None,
        ) -> None:
            if model_path != str(loaded.path) or adapter_path or draft_model_path:
                raise ValueError(
                    "this server has one model: leave 'model' out or write default_model"
                )
            self.model_key = (model_path, adapter_path, draft_model_path)
            self.model = loaded.model
            self.tokenizer = load_tokenizer(loaded.path, eos_token_ids=sorted(loaded.stop_ids))
            self.processor = server.load_processor(self.model, loaded.config)
            self.draft_model = None
            caches = server.make_prompt_cache(self.model)
            self.is_batchable = all(hasattr(cache, "merge") for cache in caches)

    # mlx-lm's entry point reads its options from the command line and nowhere else.
    options = {
        "--model": str(loaded.path),
        "--host": host,
        "--port": str(port),
        "--max-tokens": str(max_tokens),
        "--allowed-origins": ORIGINS,
    }
    server.ModelProvider = OneModel
    sys.argv = ["ecellm serve", *(part for pair in options.items() for part in pair)]
    server.main()
