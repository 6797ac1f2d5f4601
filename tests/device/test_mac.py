"""A Mac's own tools, played by small scripts on PATH; without them nothing happens."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from ecellm_mlx.device import failures, mac


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of tools that come first on PATH; the machine passes for a Mac."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setattr(mac, "MACOS", True)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


def tool(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)


def asked(path: Path) -> str:
    """What a tool wrote down of how it was called, once it has."""
    deadline = time.monotonic() + 20
    while not path.exists() or not path.read_text().endswith("\n"):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return path.read_text().strip()


def test_a_job_keeps_the_machine_awake(tools: Path, tmp_path: Path) -> None:
    tool(tools, "caffeinate", f'echo "$@" > {tmp_path}/asked')
    assert mac.keep_awake(4242)
    assert asked(tmp_path / "asked") == "-i -w 4242"


@pytest.mark.parametrize(
    ("level", "expected"), [("1", "normal"), ("2", "high"), ("4", "critical"), ("x", None)]
)
def test_memory_pressure(tools: Path, level: str, expected: str | None) -> None:
    tool(tools, "sysctl", f'[ "$2" = kern.memorystatus_vm_pressure_level ] && echo {level}')
    assert mac.memory_pressure() == expected


def test_heat_and_low_power_mode_are_named(tools: Path) -> None:
    tool(
        tools,
        "pmset",
        '[ "$2" = therm ] && echo "CPU_Speed_Limit = 62" || echo " lowpowermode 1"',
    )
    assert mac.slowed_by() == [
        "heat (the processor runs at 62 % of its speed)",
        "low power mode",
    ]
    tool(tools, "pmset", 'echo "CPU_Speed_Limit = 100"; echo " lowpowermode 0"')
    assert mac.slowed_by() == []


def test_a_notification_carries_any_text(tools: Path, tmp_path: Path) -> None:
    tool(tools, "osascript", f'shift 2; printf "%s|%s\\n" "$1" "$2" > {tmp_path}/asked')
    assert mac.notify("ecellm", 'run "x"; done')
    assert asked(tmp_path / "asked") == 'ecellm|run "x"; done'


def test_a_folder_is_left_out_of_backups(tools: Path, tmp_path: Path) -> None:
    tool(tools, "tmutil", f'echo "$@" > {tmp_path}/asked')
    assert mac.exclude_from_backup(tmp_path / "models")
    assert asked(tmp_path / "asked") == f"addexclusion {tmp_path}/models"


def test_tools_that_fail_or_hang_end_nothing(
    tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mac, "TOOL_TIMEOUT_S", 0.2)
    tool(tools, "sysctl", "exit 1")
    tool(tools, "pmset", "exec sleep 5")
    tool(tools, "osascript", "exit 1")
    assert mac.memory_pressure() is None
    assert mac.slowed_by() == []
    assert not mac.notify("a", "b")


def test_elsewhere_no_tool_is_asked(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mac, "MACOS", False)
    tool(tools, "caffeinate", "exit 0")
    tool(tools, "tmutil", "exit 0")
    assert not mac.keep_awake(1)
    assert not mac.exclude_from_backup(Path("x"))
    assert mac.memory_pressure() is None


METAL = "[METAL] Command buffer execution failed: "


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (METAL + "Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)",
         failures.OUT_OF_MEMORY),
        ("[malloc] Unable to allocate 1073741824 bytes.", failures.OUT_OF_MEMORY),
        ("[metal::malloc] Attempting to allocate 18253611008 bytes which is greater than the "
         "maximum allowed buffer size of 17179869184 bytes.", failures.TOO_LARGE),
        ("[metal::malloc] Resource limit (499000) exceeded.", failures.TOO_MANY),
        (METAL + "Caused GPU Timeout Error (00000002:kIOGPUCommandBufferCallbackErrorTimeout)",
         failures.TOO_LONG),
        (METAL + "Impacting Interactivity (0000000e:kIOGPUCommandBufferCallbackErrorImpacting"
         "Interactivity)", failures.TOO_LONG),
        (METAL + "Innocent Victim (00000005:kIOGPUCommandBufferCallbackErrorInnocentVictim)",
         failures.TAKEN_AWAY),
        (METAL + "Page Fault", failures.FAILED),
        ("[matmul] Last dimension of first input must match", None),
    ],
)  # fmt: skip
def test_errors_of_a_gpu_are_explained(error: str, expected: str | None) -> None:
    assert failures.explain(RuntimeError(error)) == expected
    assert failures.explain(ValueError(error)) is None
    assert failures.explain(MemoryError()) == failures.OUT_OF_MEMORY
