"""Rows: what they are, the files that hold them, and the prompts and tokens made of them.

Knows tasks and tables; knows no model, and imports no mlx.

schema, rows, json_items    one row, a file of rows, and the JSON values of a file
prompts                     frames, and the text that a model reads
question, importing         rows from the cells of a table, without and with answers
encoding, batches           tokens of a row, and how rows are put together
holdout                     a category left out of training
token_view                  for people: where prompt, answer and cutoff lie
"""
