"""Pause a job while the battery is low or memory is short, when asked to.

A user's ``resume`` overrules the guard until the condition has passed once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from ecellm_mlx.device import mac, runtime
from ecellm_mlx.jobs import PAUSE_POLL_S, Control, JobContext, State

# A condition must have passed by this much, or pause and work would alternate.
MARGIN = 1.1
# Readings cost more than a small batch.
CHECK_INTERVAL_S = 5.0


@dataclass
class Guard:
    """Watches battery and memory for one job.

    Args:
        battery_percent: pause below this charge while unplugged; None never does.
        memory_gb: pause while less than this is available (GiB); None never does.
        battery, memory: the readings.
        sleep: how to wait.
    """

    battery_percent: float | None = None
    memory_gb: float | None = None
    battery: Callable[[], mac.Battery | None] = mac.battery
    memory: Callable[[], float] = runtime.available_memory_gb
    sleep: Callable[[float], None] = time.sleep
    interval_s: float = CHECK_INTERVAL_S
    _checked: float = float("-inf")
    _overruled: bool = False

    def reason(self, *, margin: float = 1.0) -> str:
        """Why to pause now; empty if there is no reason."""
        if self.battery_percent is not None:
            reading = self.battery()
            if reading and not reading.plugged:
                limit = min(self.battery_percent * margin, 100.0)
                if reading.percent < limit:
                    return f"battery at {reading.percent:.0f}%, below {limit:g}%"
        if self.memory_gb is not None:
            available = self.memory()
            least = self.memory_gb * margin
            if available < least:
                return f"{available:.1f} GB of memory available, below {least:g} GB"
        return ""

    def poll(self, context: JobContext) -> Control | None:
        """The order to obey between two batches; returns when there is no reason to pause."""
        order = context.poll()
        if order is Control.STOP or time.monotonic() - self._checked < self.interval_s:
            return order
        self._checked = time.monotonic()
        reason = self.reason()
        if not reason:
            self._overruled = False
            return order
        if self._overruled:
            return order
        while reason:
            context.set_state(State.PAUSED, f"paused: {reason}")
            self.sleep(PAUSE_POLL_S)
            context.advance(context.status.step)
            request = context.run.take_request()
            if request is Control.RESUME:
                self._overruled = True
                break
            if request is not None:
                # Anything else is for the job itself, a pause by the user included.
                context.run.request(request)
            if context.poll() is Control.STOP:
                context.set_state(State.RUNNING)
                return Control.STOP
            reason = self.reason(margin=MARGIN)
        context.set_state(State.RUNNING)
        return order
