"""The terminal interface: a face of the engine, made with Textual.

Starts jobs and reads what they write, runs ``ecellm`` commands beside itself, and never loads
mlx or transformers in its own process. Workers read disks and pipes and post messages; only
message handlers touch widgets. Nothing of the engine knows of it.

    app          the app: places, jobs that it started, leaving without harm
    places       one table of places, and all that leads to them
    commands     the palette
    quick        what keeps every key quick
    messages     what workers tell the screens
    screens      one module a screen or dialog
    widgets      what is drawn
    dialog       asks for the parts of one command, and shows it as it grows
    child        an ``ecellm`` command beside the app
    line_child   a child that answers requests, line by line
    runs         runs on disk, summed up
    follow       all that is new in a run
    history      the story of a run, folded from its events
    evaluations  finished evaluations side by side
    on_disk      models, row files and adapters that forms can offer
    order        what the Train form says, as a command
    task_form    the fields of a task's question
    first_steps  the way to a first result
    device       facts of this machine, without mlx
    settings     what the app remembers
    themes       themes for every kind of colour vision
    cells        cells of tables
    formats      numbers and durations as short text
    web          the app in a browser
"""

from __future__ import annotations
