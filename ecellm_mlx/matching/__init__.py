"""The same products in two catalogs: candidates by words, judged by a model.

Knows pairs and known matches; tables, answers and journals are those of ``tables``,
``inference`` and ``catalog``.

    settings    what matching can be told, declared once
    job         which products of two catalogs are the same
    pairs       candidate pairs as a table, and what is decided
    candidates  the right products that read most like a left one
    blending    how likely a pair is, from words, prices and the model
    known       known matches: read, labelled, divided
    pair_rows   known matches as training rows
"""

from __future__ import annotations
