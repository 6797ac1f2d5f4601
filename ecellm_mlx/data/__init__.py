"""Rows: what they are, the files that hold them, and the prompts and tokens made of them.

Knows tasks and tables; knows no model, and imports no mlx.

    schema      what a row is, and what makes an answer fit its task
    rows        files of rows: load, check, find, choose
    json_items  JSON values of a file, each with its line
    importing   own tables as rows
    holdout     a category left out of training
    question    what is asked about every product
    prompts     the text that a model reads before its answer
    encoding    tokens of a row, and which are learned
    batches     which rows are computed together, in what order
    token_view  a row as tokens, for people
"""

from __future__ import annotations
