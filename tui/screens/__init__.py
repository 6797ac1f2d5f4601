"""One module for each screen or dialog.

A place is a ``base.PlaceScreen`` with a line in ``tui.places``; everything else is opened from
one. Screens know widgets and messages; what they show is read by ``tui``'s own modules.

    base         what places have in common
    home         this machine and its runs
    models       what can be pulled and what is here
    data         rows as a model reads them
    train        the form that starts a run
    evaluate     base and adapters on the same rows
    playground   ask a model, and its adapter beside it
    catalog      a table, a question, a preview, the run
    adapters     what was trained, and the ways out
    run          one run, live
    review       the least sure answers of a catalog
    import_rows  a table as rows
    miss         one row that was answered otherwise
    picker       choose a run
    help         what a screen is for, and its keys
    jump         a letter on everything that can be focused
    quit         the question before leaving
"""

from __future__ import annotations
