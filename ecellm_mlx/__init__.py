"""Local fine-tuning of e-commerce language models on MLX.

Importing this package is cheap: neither mlx nor transformers is loaded until a
model is. Start with ``ecellm_mlx.models.loading.load`` or the ``ecellm`` command.
"""

from __future__ import annotations

__version__ = "0.1.0"
