"""Inference on this machine: rows in, answers out, valid whatever the model says.

Knows prompts, tokens and probabilities; how they are computed is the device's, what is
asked and what an answer means is the task's. ``answers`` and ``requests`` know rows; what
stands below them deals in token ids.

    answers   rows of any task, answered under one or several decodings
    protocol  the two decodings, and the paper's sampling
    requests  rows as an engine takes them
    engine    forward passes over prompts that share a prefix
    decoding  rows decoded side by side, each by its own rule
    choices   closed answers scored as options
    rankings  items ranked by the orders that a model would write
    grammar   structured answers that are always valid
    sampling  a token from logits
    stops     texts before which a free answer ends
    chat      a prompt in the model's chat template
    session   a model that stays loaded and answers requests
    server    an OpenAI-compatible server
"""

from __future__ import annotations
