"""The e-commerce tasks as data: what is asked, and what an answer looks like.

registry    every task: names, fields, kind of answer, metric, default instruction
"""

from __future__ import annotations

from ecellm_mlx.tasks.registry import TASKS, Answer, Kind, Task, find

__all__ = ["TASKS", "Answer", "Kind", "Task", "find"]
