"""LoRA training: what mlx-lm's models and layers become by rows and a recipe.

Knows recipes, steps and checkpoints; how a step is computed is the device's affair. Only
``loop``, ``step`` and what they use load mlx.

    recipe      settings of a run        loop        a run, from its directory
    setup       checks and creates it    step        one optimizer step
    plan        memory and time of it    loss        cross-entropy at supervised positions
    memory      its peak, predicted      dropout     masks that follow from a seed
    schedule    learning rates           adapter     the recipe's adapter on a model
    inputs      rows and base of a run   validation  the loss on held-out rows, and samples
    checkpoint  what a kill survives     reference   the page of all settings
"""
