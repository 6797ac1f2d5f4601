"""The engine: local fine-tuning of e-commerce language models on MLX.

Does the work and knows nothing of any screen. Importing it is cheap: neither mlx nor
transformers is loaded until a model is. Start with ``ecellm_mlx.models.loading.load`` or the
``ecellm`` command. Rooms stand on floors and import from the floors below them only
(``make boundaries``); from the ground up:

    errors        errors that reach a user, in one tree
    files         writes that a power cut cannot tear
    workspace     where models, datasets and runs live
    settings      how settings are declared: once, typed, explained
    recipes       training recipes as data
    sample        real rows and a real catalog
    device/       what the machine is and how it computes; the only room that asks
    jobs/         a job is a process and a directory
    tasks/        the tasks as data, one file for each kind of answer
    tables/       every table format, read and written back
    data/         rows, prompts, tokens, batches
    models/       models by name, loaded, identified, with LoRA on them
    hub/          pulls, resumed and verified
    training/     recipe, step, loop, checkpoint
    inference/    answers from a model
    distributed/  one job on several machines
    evaluation/   predictions, metrics, reports
    catalog/      a task over a product table
    matching/     the same products in two catalogs
    export/       fused, PEFT, GGUF, cards, publishing
    studies/      the paper's studies as commands
    cli/          the ``ecellm`` command
"""

from __future__ import annotations

__version__ = "0.1.0"
