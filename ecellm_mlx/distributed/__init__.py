"""One job as several processes, which ``mlx.launch`` starts on one machine or on many.

Knows how ranks find each other, share work and end together; knows nothing of losses, rows
or tables, which the rooms that use it hand in.

    launched   whether ``mlx.launch`` started this process; loads no mlx
    ranks      the processes, and what they tell each other
    followers  a training run: what the ranks behind the first do
    shards     a catalog: chunks shared among the ranks
"""

from __future__ import annotations
