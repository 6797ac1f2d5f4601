"""``ecellm launch``: a verb on several machines, with an exit status that can be trusted.

``mlx.launch`` starts the ranks and ends them all when one fails, but returns 0 whatever
happened. Here rank 0 reports success (``cli.rank``); without that report it is a failure.
"""

from __future__ import annotations

import secrets
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Annotated

import typer

from ecellm_mlx.cli.output import narrate
from ecellm_mlx.errors import JobError, UsageError

LAUNCHER = """\
from mlx._distributed_utils.launch import main
try:
    main()
except KeyboardInterrupt:
    raise SystemExit(130) from None
"""
VERBS = (("train",), ("resume",), ("catalog", "run"), ("catalog", "match"))


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(context_settings={"allow_interspersed_args": False})(launch)


def launch(
    command: Annotated[
        list[str], typer.Argument(help="The verb and its options, as without launch.")
    ],
    ranks: Annotated[
        int | None, typer.Option("-n", min=1, help="Ranks on this machine, to try it.")
    ] = None,
    hosts: Annotated[
        str | None, typer.Option(help="Addresses of the machines, this one first: a,b.")
    ] = None,
    hostfile: Annotated[
        Path | None, typer.Option(help="A file that mlx.distributed_config wrote.")
    ] = None,
    env: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE for all ranks; repeatable.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="First of the ports that ranks use to find another.")
    ] = None,
) -> None:
    """Run train, resume, catalog run or catalog match on several machines at once.

    Example: ecellm launch --hosts 192.168.1.10,192.168.1.11 catalog run shop.csv --task AVE
    --attributes Brand,Color --yes --model ecellm-m --out shop.out.csv
    """
    if not any(tuple(command[: len(verb)]) == verb for verb in VERBS):
        raise UsageError(
            f"`{command[0]}` cannot run on several machines",
            expected=", ".join(" ".join(verb) for verb in VERBS),
        )
    if sum(value is not None for value in (ranks, hosts, hostfile)) != 1:
        raise UsageError("say where to run with one of -n, --hosts and --hostfile")
    from ecellm_mlx.cli.rank import TOKEN

    token = secrets.token_hex(16)
    options = ["--env", f"{TOKEN}={token}"]
    for item in [*(_shares(ranks) if ranks else ()), *(env or ())]:
        options += ["--env", item]
    for name, value in (
        ("-n", ranks), ("--hosts", hosts), ("--hostfile", hostfile), ("--starting-port", port),
    ):  # fmt: skip
        if value is not None:
            options += [name, str(value)]
    program = [sys.executable, "-m", "ecellm_mlx.cli.rank", *command]
    if not _run([sys.executable, "-c", LAUNCHER, *options, "--", *program], token):
        raise JobError(
            "the ranks did not all finish; what went wrong is said above",
            cure="start the same command again, with --resume for a catalog, and `resume RUN` "
            "for a training run",
        )


def _shares(ranks: int) -> list[str]:
    """Limits that give each rank on this machine its share of the cores."""
    from ecellm_mlx.device import runtime

    share = max(1, runtime.host_threads() // ranks)
    return [f"{name}={share}" for name in runtime.THREAD_LIMITS]


def _run(command: list[str], token: str) -> bool:
    """Run the launcher, pass on what is said, and return whether ``token`` was among it."""
    # The launcher would read an empty stdin over and over.
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout
    assert process.stderr
    seen = threading.Event()
    # A rank on another machine has but one stream.
    readers = [
        threading.Thread(
            target=_pass_on, args=(source, target, token.encode(), seen), daemon=True
        )
        for source, target in (
            (process.stdout, sys.stdout.buffer), (process.stderr, sys.stderr.buffer),
        )
    ]  # fmt: skip
    for reader in readers:
        reader.start()
    try:
        for reader in readers:
            reader.join()
        process.wait()
    except KeyboardInterrupt:
        # The terminal sent it to the ranks as well, which end at their next batch or step.
        narrate("stopping; press Ctrl-C again to leave")
        process.wait()
        raise
    return seen.is_set()


def _pass_on(source: IO[bytes], target: IO[bytes], token: bytes, seen: threading.Event) -> None:
    for line in source:
        if line.strip() == token:
            seen.set()
            continue
        target.write(line)
        target.flush()
