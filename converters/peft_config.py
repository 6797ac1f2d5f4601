"""PEFT's ``adapter_config.json``: which settings mean what, and for which module.

The rules are those of ``peft.tuners``: a list of targets matches by whole path or by
its end, a string is a regular expression over the whole path, patterns match as
``(.*\\.)?(key)$`` and the first one wins.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converters.adapter import divisor
from converters.errors import ConversionError

ALL_LINEAR = "all-linear"
# Settings that change what the tensors mean, or add tensors that mlx-lm has no place for.
REFUSED = (
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "layer_replication",
    "lora_bias",
    "megatron_config",
    "modules_to_save",
    "monteclora_config",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_qalora",
)
# Initialisations that leave the base as it is. The others (pissa, olora, loftq, corda …)
# change the base's weights when PEFT loads the adapter, so B·A is not the whole update.
PLAIN_INITIALISATIONS = (True, False, None, "gaussian", "eva", "orthogonal")
# The settings of LoraConfig (PEFT 0.21) that are interpreted here, or that say nothing of
# inference. Anything else is kept and reported.
KNOWN = frozenset(
    {
        *REFUSED, "alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias",
        "corda_config", "ensure_weight_tying", "eva_config", "exclude_modules",
        "fan_in_fan_out", "inference_mode", "init_lora_weights", "layers_pattern",
        "layers_to_transform", "loftq_config", "lora_alpha", "lora_dropout", "lora_ga_config",
        "megatron_core", "peft_type", "peft_version", "qalora_group_size", "r",
        "rank_pattern", "revision", "runtime_config", "target_modules", "task_type",
        "use_dora", "use_rslora", "velora_config",
    }
)  # fmt: skip
# What older PEFT versions wrote for LoRA and later ones dropped, without effect.
_OBSOLETE = ("enable_lora", "merge_weights", "use_conv")


@dataclass(frozen=True)
class PeftSettings:
    """The settings that decide what each tensor means."""

    rank: int
    alpha: float
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    rslora: bool
    dora: bool
    dropout: float
    targets: str | tuple[str, ...] | None
    exclude: str | tuple[str, ...]
    layer_indices: tuple[int, ...] | None
    layers_patterns: tuple[str, ...]
    raw: Mapping[str, Any]

    def rank_of(self, module: str) -> int:
        """Rank of the module with this path."""
        return int(_lookup(self.rank_pattern, module, self.rank))

    def alpha_of(self, module: str) -> float:
        """lora_alpha of the module with this path."""
        return _lookup(self.alpha_pattern, module, self.alpha)

    def scale_of(self, module: str) -> float:
        """The factor on B·A, as PEFT computes it."""
        return self.alpha_of(module) / divisor(self.rank_of(module), self.rslora)

    def matches(self, module: str, *, linear: bool, head: str) -> bool:
        """Whether PEFT puts an adapter on ``module``.

        Args:
            module: its path in the Hugging Face model.
            linear: whether it is a linear layer.
            head: path of the output layer, which all-linear leaves out.
        """
        if isinstance(self.exclude, str):
            if self.exclude and re.fullmatch(self.exclude, module):
                return False
        elif _ends_with(module, self.exclude):
            return False
        if isinstance(self.targets, str):
            if self.targets.lower() == ALL_LINEAR:
                return linear and module != head
            return re.fullmatch(self.targets, module) is not None
        if not _ends_with(module, self.targets or ()):
            return False
        if module in (self.targets or ()) or self.layer_indices is None:
            return True
        return self._layer_index(module) in self.layer_indices

    @property
    def unknown(self) -> tuple[str, ...]:
        """Settings that have a value and that are not known here."""
        return tuple(
            key
            for key, value in self.raw.items()
            if key not in KNOWN and key not in _OBSOLETE and value
        )

    def _layer_index(self, module: str) -> int | None:
        patterns = [rf"(?:^|.*?\.){p}" for p in self.layers_patterns] or [r".*?\.[^.]*"]
        for pattern in patterns:
            if match := re.match(rf"{pattern}\.(?P<index>\d+)\.", module):
                return int(match["index"])
        return None


def parse(folder: Path, config: Mapping[str, Any]) -> PeftSettings:
    """Read and judge the settings of the adapter in ``folder``.

    Raises:
        ConversionError: it is no LoRA adapter, a setting cannot be represented (all
            such settings are named), or a value makes no sense.
    """
    if "lora_parameters" in config:
        raise ConversionError(
            f"{folder} is an MLX adapter; give one in PEFT's format, which names a peft_type."
        )
    if config.get("peft_type") != "LORA":
        raise ConversionError(
            f"{folder} is a PEFT adapter of type {config.get('peft_type')!r}; only LORA can be "
            "converted."
        )
    used = [key for key in REFUSED if config.get(key) not in (None, False, [], {})]
    if config.get("bias", "none") != "none":
        used.append(f"bias = {config['bias']!r}")
    start = config.get("init_lora_weights", True)
    if start not in PLAIN_INITIALISATIONS:
        used.append(f"init_lora_weights = {start!r} (it changes the base's weights)")
    if used:
        raise ConversionError(
            f"{folder} uses {', '.join(used)}, which mlx-lm's adapters cannot represent; train "
            "or export the adapter without."
        )
    try:
        settings = _parse(config)
        for pattern in (*settings.rank_pattern, *settings.alpha_pattern, *_regexes(settings)):
            re.compile(pattern)
    except (KeyError, TypeError, ValueError, AttributeError, re.error) as error:
        raise ConversionError(
            f"{folder}/adapter_config.json has a setting that makes no sense: {error!r}; "
            "copy the adapter again."
        ) from None
    return settings


def compose(
    ranks: Mapping[str, int],
    alphas: Mapping[str, float],
    *,
    layers: Collection[str] | None,
    rslora: bool,
    dora: bool,
    dropout: float,
    base: str,
) -> dict[str, Any]:
    """A configuration that makes PEFT adapt exactly these modules in this way.

    Args:
        ranks: path in the Hugging Face model → rank.
        alphas: path → lora_alpha.
        layers: all layers that PEFT could adapt, if they are known: then a target is
            written by its last part where that names no other layer.
        rslora: whether alpha is divided by √r.
        dora: whether there are magnitudes.
        dropout: lora_dropout.
        base: what PEFT shall load as its base.
    """
    rank, rank_pattern = _pattern(ranks)
    alpha, alpha_pattern = _pattern(alphas)
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": rank_pattern,
        "alpha_pattern": alpha_pattern,
        "lora_dropout": dropout,
        "target_modules": _target_names(ranks, layers),
        "use_rslora": rslora,
        "use_dora": dora,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "modules_to_save": None,
    }


def _parse(config: Mapping[str, Any]) -> PeftSettings:
    indices = config.get("layers_to_transform")
    if isinstance(indices, int):
        indices = [indices]
    rank = int(config["r"])
    rank_pattern = {str(k): int(v) for k, v in (config.get("rank_pattern") or {}).items()}
    if min(rank, *rank_pattern.values()) < 1 if rank_pattern else rank < 1:
        raise ValueError("a rank below 1")
    return PeftSettings(
        rank=rank,
        alpha=_number(config["lora_alpha"]),
        rank_pattern=rank_pattern,
        alpha_pattern={
            str(k): _number(v) for k, v in (config.get("alpha_pattern") or {}).items()
        },
        rslora=bool(config.get("use_rslora", False)),
        dora=bool(config.get("use_dora", False)),
        dropout=float(config.get("lora_dropout", 0.0)),
        targets=_names(config.get("target_modules")),
        exclude=_names(config.get("exclude_modules")) or (),
        layer_indices=tuple(map(int, indices)) if indices else None,
        layers_patterns=_strings(config.get("layers_pattern")),
        raw=config,
    )


def _regexes(settings: PeftSettings) -> list[str]:
    texts = [settings.targets, settings.exclude, *settings.layers_patterns]
    return [text for text in texts if isinstance(text, str) and text.lower() != ALL_LINEAR]


def _number(value: Any) -> float:
    """A number as JSON has it: 16 stays an integer, so that it is written back as one."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        raise ValueError(f"lora_alpha must be a positive number, not {value!r}")
    return value


def _names(value: Any) -> str | tuple[str, ...] | None:
    return value if value is None or isinstance(value, str) else tuple(map(str, value))


def _strings(value: Any) -> tuple[str, ...]:
    names = _names(value or ())
    return (names,) if isinstance(names, str) else names or ()


def _lookup(patterns: Mapping[str, Any], module: str, default: Any) -> Any:
    for key, value in patterns.items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return default


def _ends_with(module: str, names: Collection[str]) -> bool:
    return any(module == name or module.endswith(f".{name}") for name in names)


def _pattern(values: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The commonest value, and the others by name: the last part where that is enough."""
    common = Counter(values.values()).most_common(1)[0][0]
    by_leaf: dict[str, set[Any]] = {}
    for module, value in values.items():
        by_leaf.setdefault(_leaf(module), set()).add(value)
    others = {}
    for module, value in values.items():
        if value != common:
            others[_leaf(module) if len(by_leaf[_leaf(module)]) == 1 else module] = value
    return common, others


def _target_names(modules: Collection[str], layers: Collection[str] | None) -> list[str]:
    adapted = set(modules)
    left_out = {_leaf(name) for name in layers or () if name not in adapted}
    return sorted(
        {name if layers is None or _leaf(name) in left_out else _leaf(name) for name in adapted}
    )


def _leaf(module: str) -> str:
    return module.rsplit(".", 1)[-1]
