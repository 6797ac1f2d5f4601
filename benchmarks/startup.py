"""How fast `ecellm --help` answers, against mlx-lm's command and a bare interpreter.

    .venv/bin/python benchmarks/startup.py

Each command runs in turn, so that a drift of the machine hits all of them; medians
are printed, with ratios to ours. Goal: under 0.3 s.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

RUNS = 7
COMMANDS = {
    "ecellm --help": [sys.executable, "-m", "ecellm_mlx.cli", "--help"],
    "mlx_lm.generate --help": [sys.executable, "-m", "mlx_lm", "generate", "--help"],
    "python -c pass": [sys.executable, "-c", "pass"],
}


def seconds(command: list[str]) -> float:
    """Wall time of one run of ``command``."""
    start = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def main() -> None:
    """Warm up once, then measure all commands in turn."""
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for run in range(RUNS + 1):
        for name, command in COMMANDS.items():
            taken = seconds(command)
            if run:
                times[name].append(taken)
    ours = statistics.median(times["ecellm --help"])
    for name, taken in times.items():
        median = statistics.median(taken)
        spread = f"{min(taken):.3f} to {max(taken):.3f}"
        print(f"{name:24} median {median:.3f} s ({spread}), {median / ours:.2f} × ours")


if __name__ == "__main__":
    main()
