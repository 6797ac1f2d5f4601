"""Offline catalog processing: a shop's table in, the same table with answers out.

Knows tables, questions and answers; how an answer comes about is ``inference``'s, how a file
is written down ``tables``'. Answers go to a journal first, so that a run that was killed goes
on to the very table of an uninterrupted one.

    settings   what catalog jobs can be told, declared once
    job        create and run: answer every product of a table
    answering  the first pass: plan, then let the model answer what is lacking
    journal    answers so far, safe against a kill
    writing    the second pass: the table with its answers
    preview    rendered prompts and a few answers, before hours are spent
    review     the rows that a person should look at
    lists      own labels and attributes
    saved      a question in a file
    canonical  one spelling for values that shops write in many ways
    guard      pause while the battery or memory is low
"""

from __future__ import annotations
