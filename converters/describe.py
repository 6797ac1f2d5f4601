"""What an adapter is, read from its own files: MLX and PEFT folders alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from converters.adapter import Adapter, LoraModule, alpha_of
from converters.files import read_json
from converters.mlx_adapter import read_mlx
from converters.names import ADAPTER_CONFIG as CONFIG
from converters.peft_files import read_peft
from converters.phi_layout import is_legacy

# Parts of our section that are told elsewhere, or that are bookkeeping.
_TOLD = ("alpha", "base", "modules", "peft", "rslora")


def describe(folder: Path) -> dict[str, Any]:
    """Facts about the adapter in ``folder``, ready for JSON.

    ``rank``, ``alpha`` and ``scale`` are those of most modules; ``ranks`` and ``alphas``
    list the modules that differ. ``size_mb`` is that of all files, in 10⁶ bytes.

    Raises:
        ConversionError: the files are missing, damaged, or of an unsupported kind.
    """
    config = read_json(folder / CONFIG)
    if "peft_type" not in config:
        adapter = read_mlx(folder)
        layout, provenance = "mlx", _told(adapter.ecellm)
        base = adapter.ecellm.get("base") or {}
    else:
        stored = read_peft(folder)
        settings = stored.settings
        adapter = Adapter(stored.modules, settings.dropout, settings.rslora)
        layout = "peft"
        base = {"name": config.get("base_model_name_or_path")}
        provenance = {"peft_version": config.get("peft_version")}
        if is_legacy(stored.modules):
            provenance["layout"] = "legacy"
        if unknown := settings.unknown:
            provenance["unknown_settings"] = list(unknown)
        provenance |= _told((stored.recorded.get("mlx") or {}).get("ecellm") or {})
    files = [path for path in folder.iterdir() if path.is_file()]
    return {
        "path": str(folder),
        "format": layout,
        "base": base.get("name"),
        "base_fingerprint": base.get("fingerprint"),
        "type": "dora" if adapter.dora else "lora",
        "rslora": adapter.rslora,
        "dropout": adapter.dropout,
        **_numbers(adapter),
        "targets": sorted({name.rsplit(".", 1)[-1] for name in adapter.modules}),
        "modules": len(adapter.modules),
        "parameters": adapter.parameters,
        "dtype": ", ".join(sorted(_dtypes(adapter.modules))),
        "size_mb": round(sum(path.stat().st_size for path in files) / 1e6, 3),
        "provenance": {key: value for key, value in provenance.items() if value is not None},
    }


def _numbers(adapter: Adapter) -> dict[str, Any]:
    ranks = {name: module.rank for name, module in adapter.modules.items()}
    alphas = {name: alpha_of(m, adapter.rslora) for name, m in adapter.modules.items()}
    rank, alpha = (Counter(v.values()).most_common(1)[0][0] for v in (ranks, alphas))
    scales = Counter(module.scale for module in adapter.modules.values())
    return {
        "rank": rank,
        "alpha": alpha,
        "scale": scales.most_common(1)[0][0],
        "ranks": {name: value for name, value in ranks.items() if value != rank},
        "alphas": {name: value for name, value in alphas.items() if value != alpha},
    }


def _told(section: Mapping[str, Any]) -> dict[str, Any]:
    told = {key: value for key, value in section.items() if key not in _TOLD}
    if isinstance(origin := section.get("peft"), dict):
        came = origin.get("config") or {}
        told["converted_from"] = f"PEFT {came.get('peft_version') or ''}".strip()
    return told


def _dtypes(modules: Mapping[str, LoraModule]) -> set[str]:
    arrays = (array for module in modules.values() for array in (module.a, module.b))
    return {str(array.dtype).rpartition(".")[2] for array in arrays}
