"""The tasks as data, and one file for each kind of answer.

Says what is asked, what an answer may be, how it is read, counted and scored. Knows no rows,
tables or models. Everything else asks a task and branches on none.

    registry         every task as one entry: names, fields, kind of answer, metric, instruction
    kind             what is asked of a kind of answer
    yes_no           yes or no
    choice           one of several options
    ranking          an order of items
    extraction       attributes and their values
    text             free text
    fields           fields that tasks share
    inputs           how inputs are written and read back
    values           what extracted values may be
    attribute_lists  the grammar of extracted values
    tally            metrics as formulas of sums over rows; loads numpy when it scores
"""

from __future__ import annotations

from ecellm_mlx.tasks.kind import Constraint, Kind
from ecellm_mlx.tasks.registry import TASKS, Task, find

__all__ = ["TASKS", "Constraint", "Kind", "Task", "find"]
