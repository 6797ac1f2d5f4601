"""Small widgets, each for itself.

They draw what they are given and know nothing of runs or files; screens put them together.

    nav            the places, at the top
    key_bar        the keys, at the bottom
    command_line   the command that the screen stands for
    activity       a command that runs: how far, what it says
    choice         a list, with room for a path
    model_choices  a model, and an adapter or none
    cycle          one of a few words
    recipe_form    every setting of a recipe
    problem        what is wrong, in one sentence
    facts          names and values
    table          text in columns
    event_log      what a run says
    loss_plot      losses over steps
    prompt_view    a row as a model reads it
    answer_pane    an answer as it comes
"""

from __future__ import annotations
