"""Which device computes: chosen by the environment, the machine, and what is installed."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from ecellm_mlx import device
from ecellm_mlx.device import runtime
from ecellm_mlx.device.backend import mx, nn
from ecellm_mlx.device.plain import Plain
from ecellm_mlx.errors import UsageError

linux_cpu = pytest.mark.skipif(
    runtime.prepare().backend != "cpu" or not runtime.LINUX,
    reason="the extras are those of the Linux CPU backend",
)


@linux_cpu
def test_plain_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ECELLM_DEVICE", raising=False)
    assert device.name() == device.expected().name == "cpu"
    monkeypatch.setenv("ECELLM_DEVICE", "plain")
    assert device.name() == device.expected().name == "cpu (plain)"
    assert type(device.current()) is Plain
    assert device.conditions()["device"] == "cpu (plain)"
    monkeypatch.setenv("ECELLM_DEVICE", "auto")
    assert device.name() == "cpu"


def test_another_value_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECELLM_DEVICE", "fast")
    for ask in (device.current, device.expected):
        with pytest.raises(UsageError, match=r"ECELLM_DEVICE=fast .*expected auto or plain"):
            ask()


@linux_cpu
def test_without_the_room_of_the_extras_everything_is_plain(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, device.EXTRAS, None)  # type: ignore[arg-type]
    assert device.name() == device.expected().name == "cpu (plain)"


def test_the_extras_are_loaded_only_where_they_are_used() -> None:
    code = (
        "import sys; from ecellm_mlx import device; device.current()\n"
        "import ecellm_mlx.inference.answers\n"
        "print([name for name in sys.modules if name.startswith(device.EXTRAS)])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={**os.environ, "ECELLM_DEVICE": "plain"},
    )  # fmt: skip
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(("traits", "dtype"), [(device.METAL, "bf"), (device.PLAIN_CPU, "f32")])
def test_the_dtype_to_compute_in(traits: device.Traits, dtype: str) -> None:
    model = nn.Sequential(nn.Linear(8, 8))
    model.set_dtype(mx.bfloat16)
    Plain(traits).prepare(model, pytest.fail)
    expected = {"bf": mx.bfloat16, "f32": mx.float32}[dtype]
    assert model.layers[0].weight.dtype == expected
