"""Recipes that come with the package: commented TOML files, the paper's and for laptops.

Data only. ``ecellm_mlx.training.recipe`` declares what may stand in them, reads them by name
and refuses what contradicts itself; a test loads every one.
"""

from __future__ import annotations
