"""Models on disk and in memory: by name, loaded, identified, with LoRA on them.

Knows folders, configurations and layers; architecture facts stand in
``converters.architectures``. Knows nothing of rows, training or answers.

    folder           which files make a model folder
    config           a configuration, where mlx-lm looks for it
    tokenizer        the tokenizer of a folder; loads no mlx
    registry         models by name, and where one lives
    shape            the shape of a model, without any weights
    loading          a model folder, loaded for this machine, with an adapter on it
    lora             LoRA: attach, save, load
    initialisations  how A and B begin
    adapter_files    where an adapter's files are; loads no mlx
    base_layers      what converters must know of a base
    body             a causal model as body and head
    fingerprint      the identity of a folder, and whether it is whole
    source           where a pulled folder came from
    phi              mlx-lm's Phi, for two more kinds of checkpoint
    gemma3           mlx-lm's Gemma 3, its embedding's scale in its own precision
"""

from __future__ import annotations
