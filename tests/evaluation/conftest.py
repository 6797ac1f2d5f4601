"""Fixtures of the evaluation tests."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture
def refused(ecellm: Any) -> Any:
    """Run a command that must fail with one sentence and no traceback; the sentence."""

    def run(*arguments: Any, status: int = 1, **options: Any) -> str:
        done = ecellm(*arguments, **options)
        assert done.returncode == status, done.stdout + done.stderr
        lines = [line for line in done.stderr.splitlines() if line.startswith("ecellm: ")]
        assert len(lines) == 1, done.stderr
        assert lines[0].endswith(".")
        assert "Traceback" not in done.stderr
        return lines[0]

    return run
