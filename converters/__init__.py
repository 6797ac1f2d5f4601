"""Translate model and adapter files between formats, exactly.

Knows arrays and files: depends on mlx, numpy and safetensors, and on nothing of
the engine. What a format cannot represent is refused by name, never dropped.
"""

from __future__ import annotations
