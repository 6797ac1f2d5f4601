"""Hand models and adapters over to others, in their formats and with a card.

Knows bases, adapters and what was measured of them; knows neither training nor screens.
How a file of each format looks is the converters' business; here it is decided what goes
into one. Everything appears only when it is whole.

    weights     a base's tensors with an adapter's updates in them, one by one
    write       fused, quantized and Hugging Face folders
    gguf        files for llama.cpp, Ollama and LM Studio
    peft        adapters to PEFT and back
    proof       that a converted adapter gives PEFT's logits
    divergence  what quantization changed
    card        what is known of a folder
    card_text   its model card
    publish     folders on the hub
"""

from __future__ import annotations
