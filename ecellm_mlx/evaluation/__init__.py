"""Evaluation: predictions, metrics as published and strict, and what may be concluded.

Knows rows, answers and figures. Answers come from a model here or from a server elsewhere;
how they are decoded is ``inference``'s, how a task's are scored is ``tasks``'.

    settings     what an evaluation can be told, declared once
    job          an answer for every row, then metrics and a report
    local        answers of a model here
    endpoint     answers of a server elsewhere
    journal      answers so far, safe against a kill
    predictions  files of predictions, fitted to their rows
    metrics      scores, official and strict
    resampling   intervals, and whether two sets of answers differ
    details      confusion matrices, attributes, the worst answers
    calibration  whether probabilities mean what they say
    thresholds   thresholds chosen on one evaluation, applied to another
    bertscore    BERTScore of generated answers
    compare      two sets of answers by task and setting
    systems      finished evaluations as they are compared
    report       one evaluation or several, side by side
    documents    a report as HTML or Markdown
    plots        plots as SVG
    published    the paper's figures
"""

from __future__ import annotations
