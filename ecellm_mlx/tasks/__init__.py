"""The tasks: what is asked, and what an answer looks like. Knows no rows, tables or models.

registry         every task as one entry: names, fields, kind of answer, metric, instruction
kind             what is asked of a kind of answer: options or grammar, parsing, scoring,
                 counting, import
yes_no, choice, ranking, extraction, text
                 the kinds, each with all that depends on it
fields, inputs   fields that tasks share, and how inputs are written and read back
values, attribute_lists
                 what extracted values may be, and the grammar that says so
tally            metrics as formulas of sums over rows (needs numpy, loaded when scoring)
"""

from __future__ import annotations

from ecellm_mlx.tasks.kind import Constraint, Kind
from ecellm_mlx.tasks.registry import TASKS, Task, find

__all__ = ["TASKS", "Constraint", "Kind", "Task", "find"]
