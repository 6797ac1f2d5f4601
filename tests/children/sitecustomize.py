"""First on ``PYTHONPATH`` of every process that a test starts: hides PyTorch there.

Most users do not have it, so no command may need it by accident; and transformers, where
it finds PyTorch, takes seconds to import it. A test of what does need it (the proof
against PEFT, BERTScore) asks for the fixture ``torch_in_children``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType


class WithoutTorch(PathFinder):
    """What finds modules in folders, but for one."""

    @classmethod
    def find_spec(
        cls,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        return None if fullname == "torch" else super().find_spec(fullname, path, target)


if "ECELLM_TEST_TORCH" not in os.environ:
    sys.meta_path[:] = [
        WithoutTorch if finder is PathFinder else finder for finder in sys.meta_path
    ]
