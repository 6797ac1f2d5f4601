"""Hand models and adapters over to others, in their formats and with a card.

Knows bases, adapters and what was measured of them; knows neither training nor screens.
How a file of each format looks is the converters' business; here it is decided what goes
into one. Everything appears only when it is whole.

    weights     a base's tensors with an adapter's updates in them
    card_text   the card's text
    write       whole models: fused, quantized, or in Hugging Face's layout
    peft        adapters to and from PEFT
    gguf        models and adapters as GGUF
    proof       logits of both sides, compared
    divergence  how far one model's answers are from another's
    card        what a folder is, and under which terms
    publish     a folder on the hub: what would be sent, then the sending
"""

from __future__ import annotations
