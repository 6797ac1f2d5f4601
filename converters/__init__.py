"""Translate model and adapter files between formats, exactly.

Knows arrays and files: depends on mlx, numpy and safetensors, and on nothing of the engine;
the only reader and writer of adapter formats. What a format cannot represent is refused by
name, never dropped.

    files           writes that a reader sees whole, and a power cut cannot tear
    phi_config      configurations of Phi's own code, in native keys
    architectures   the one table of architectures
    errors          the root of all errors that reach a user
    base            what a conversion needs to know of a base
    adapter         an adapter in neither format
    mlx_adapter     mlx-lm's adapter format, read and written
    peft            between mlx-lm's adapters and PEFT's
    peft_config     what PEFT's settings mean, for which module
    peft_files      a PEFT adapter's files
    peft_layers     which layer of one is which of the other
    names           paths of modules
    packing         ranks and scales of their own, in a format with one of each
    phi_layout      Phi-2's old names and its native ones
    describe        what an adapter is, of either format
    verify          proof that two adapters are the same update
    merged          a base plus its update
    tensors         tensor files that may come from anywhere
    header          a safetensors header, checked
    torch_file      a PyTorch file, without running its pickle
    shards          safetensors models, tensor by tensor
    folders         a folder written as a whole
    gguf            GGUF to MLX
    gguf_export     a model as GGUF
    gguf_adapter    an adapter as GGUF
    gguf_header     a GGUF header, checked
    gguf_names      where GGUF keeps what
    gguf_tokenizer  a tokenizer from GGUF
    gguf_vocab      a tokenizer as GGUF
"""

from __future__ import annotations
