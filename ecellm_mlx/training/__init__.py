"""LoRA training: what mlx-lm's models and layers become by rows and a recipe.

Knows recipes, steps and checkpoints; how a step is computed is the device's affair. Only
``loop``, ``step`` and what they use load mlx.

    inputs      rows, base and machine of a run
    setup       check all that can be checked, then create the run
    recipe      settings of a run, declared once
    plan        does it fit, how long, what helps
    memory      memory that a run will need
    adapter     the adapter that a recipe asks for
    loop        the run itself, from its directory
    step        one optimizer step
    loss        cross-entropy at supervised positions
    dropout     masks that follow from seed, layer and row
    schedule    learning rates
    validation  the loss on held-out rows
    checkpoint  complete on disk, or not there
"""

from __future__ import annotations
