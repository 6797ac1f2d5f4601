"""The paper's studies as commands: many runs and evaluations, one report.

Knows which runs a study needs and how they compare; starts them as the jobs that anyone
could start, and goes on where it was stopped.

    study  data scaling, diversity, hold-out, generalist: run, resumed, reported
    arms   which rows each arm trains on and answers
"""

from __future__ import annotations
