"""Inference on this machine: rows in, answers out, valid whatever the model says.

Knows prompts, tokens and probabilities; how they are computed is the device's, what is
asked and what an answer means is the task's. ``answers`` and ``requests`` know rows; what
stands below them deals in token ids.

    answers   rows of any task answered, or streamed, under one or several decodings
    requests  a row as prompt tokens, its options, and room for the answer
    choices   probabilities of a closed set of answers
    rankings  the order that a model would write
    grammar   lists that are valid JSON, and their probability
    sampling  a token from logits: greedily, or by temperature and top-p
    stops     texts before which a free answer ends
    chat      a prompt in the words of the model's own chat template
    decoding  rows under way, each by a rule of its own
    engine    batched forward passes over prompts that share a prefix
    session   a model that stays loaded, for faces that load no mlx
    server    an OpenAI-compatible server: mlx-lm's, with our loading
"""

from __future__ import annotations
