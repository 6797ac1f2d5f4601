"""The same app in a browser: ``ecellm --web``, served by textual-serve.

Each tab is an app of its own; jobs are shared, because they live on disk. There is no
password, so the server listens on this machine only unless told otherwise, and refuses
requests that a page of another origin makes: a browser would send those, too.
"""

from __future__ import annotations

import ipaddress
import shlex
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

from ecellm_mlx.errors import UsageError

LOOPBACK = "127.0.0.1"
DEFAULT_PORT = 8765
COMMAND = shlex.join([sys.executable, "-m", "tui"])


def is_loopback(host: str) -> bool:
    """Whether ``host`` is reached from this machine only."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def allowed(served: str, host: str, origin: str | None) -> bool:
    """Whether a request may be served.

    Args:
        served: the address that the server listens on.
        host: the request's ``Host`` header.
        origin: its ``Origin`` header, if it has one.
    """
    name = urlsplit(f"//{host}").hostname or ""
    if is_loopback(served) and not is_loopback(name):
        # Another name for this machine, which a page elsewhere may have made up.
        return False
    return origin is None or urlsplit(origin).netloc == host


def serve(host: str = LOOPBACK, port: int = DEFAULT_PORT) -> None:
    """Serve until Ctrl-C.

    Raises:
        UsageError: textual-serve is not installed, or the port is taken.
    """
    try:
        from aiohttp import web
        from textual_serve.server import Server
    except ImportError:
        raise UsageError(
            "the app cannot be served to a browser: textual-serve is not installed",
            cure="run `pip install 'ecellm-mlx[web]'`",
        ) from None
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UsageError(
                f"cannot listen on {host}, port {port}",
                got=(error.strerror or str(error)).lower(),
                cure="choose others with --host and --port",
            ) from None
    if not is_loopback(host):
        sys.stderr.write(
            f"warning: everyone who can reach {host}:{port} can use ecellm as you can.\n"
        )

    @web.middleware
    async def guard(
        request: web.Request, handler: Callable[[web.Request], Awaitable[Any]]
    ) -> Any:
        if not allowed(host, request.host, request.headers.get("Origin")):
            raise web.HTTPForbidden(text="This page may not use ecellm.")
        return await handler(request)

    class Guarded(Server):
        async def _make_app(self) -> web.Application:
            app = await super()._make_app()
            app.middlewares.append(guard)
            return app

    Guarded(COMMAND, host=host, port=port, title="ecellm").serve()
