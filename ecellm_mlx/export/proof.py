"""Compare the logits of MLX with an MLX adapter and of PyTorch with a PEFT adapter.

Both run the same base in float32 on the same real prompts. The models are in memory
one after the other. PEFT's own loader reads the PEFT adapter, and what it warns of is
an error here: a tensor that it ignores would be a silent no-op.
"""

from __future__ import annotations

import importlib.util
import json
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ecellm_mlx import sample
from ecellm_mlx.data import rows
from ecellm_mlx.data.prompts import prompt
from ecellm_mlx.device import runtime
from ecellm_mlx.device.backend import mx, nn, tree_flatten
from ecellm_mlx.errors import AdapterError, ModelError
from ecellm_mlx.models import loading, lora, registry
from ecellm_mlx.models.adapter_files import folder_of
from ecellm_mlx.models.config import read_config
from ecellm_mlx.models.fingerprint import weight_files

from converters import phi_layout
from converters.header import read_header
from converters.peft_files import read_peft
from converters.verify import Verification, compare

Logits = list[np.ndarray]

PROMPTS, LENGTH = 4, 64
FLOAT32_BYTES = 4
# Two float32 forward passes of one model agree to this share of their largest logit.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class LogitProof:
    """How the logits of both sides compare.

    Attributes:
        tokens: positions compared.
        max_abs_error: largest difference between the two.
        max_abs_logit: largest logit, to judge the error by.
        effect: largest change that the adapter makes to the base's logits.
    """

    tokens: int
    max_abs_error: float
    max_abs_logit: float
    effect: float

    @property
    def equal(self) -> bool:
        """Whether the difference is rounding."""
        return self.max_abs_error <= TOLERANCE * max(1.0, self.max_abs_logit)


@dataclass(frozen=True)
class Result:
    """What ``ecellm adapters verify`` has to say.

    Attributes:
        updates: the comparison of ΔW, tensor by tensor.
        logits: the comparison of logits; None if it was not made.
        notes: why it was not made.
    """

    updates: Verification
    logits: LogitProof | None
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """All numbers, as JSON values."""
        return {
            "modules": self.updates.modules,
            "max_abs_error": self.updates.max_abs_error,
            "max_abs_update": self.updates.max_abs_update,
            "bit_identical": self.updates.bit_identical,
            "logits": asdict(self.logits) if self.logits else None,
        }

    def rows(self) -> list[tuple[str, Any]]:
        """The same for a table."""
        facts = self.to_json()
        facts["logits"] = facts["logits"] or "not compared"
        return list(facts.items())

    def require_equal(self) -> None:
        """Raise if the two adapters differ by more than rounding.

        Raises:
            AdapterError: they do.
        """
        if not self.updates.equal:
            raise AdapterError(
                "the two adapters are different updates",
                got=f"a difference of {self.updates.max_abs_error:.2e} in ΔW",
                expected=f"at most {self.updates.tolerance:.0e} of its largest entry, "
                f"{self.updates.max_abs_update:.2e}",
                cure="convert again",
            )
        if self.logits and not self.logits.equal:
            raise AdapterError(
                "the two adapters give different logits",
                got=f"a difference of {self.logits.max_abs_error:.2e}",
                expected=f"at most {TOLERANCE:.0e} of {self.logits.max_abs_logit:.2e}",
                cure="check that both were made for this base",
            )


def verify(adapter: str | Path, peft_adapter: Path, *, base: str | None = None) -> Result:
    """Compare an MLX and a PEFT adapter, on ``base`` where that is possible.

    Args:
        adapter: an MLX adapter folder, or a run.
        peft_adapter: a PEFT adapter folder.
        base: registry name or folder; None compares the tensors only.

    Raises:
        AdapterError: one of them does not load completely.
        ConversionError: one of them is damaged, or they adapt different layers.
        ModelError: the base cannot be loaded.
    """
    folder = folder_of(adapter)
    updates = compare(folder, peft_adapter)
    if base is None:
        return Result(updates, None, ("no base was given with --base: logits not compared",))
    legacy = phi_layout.is_legacy(read_peft(peft_adapter).modules)
    if why := obstacle(base, legacy=legacy):
        return Result(updates, None, (f"{why}: logits not compared",))
    return Result(updates, compare_logits(folder, peft_adapter, base), ())


def obstacle(base: str, *, legacy: bool) -> str:
    """Why logits cannot be compared on this machine, or an empty string.

    Args:
        base: registry name or folder.
        legacy: whether the PEFT adapter has the names of Phi's old layout.
    """
    if any(importlib.util.find_spec(name) is None for name in ("torch", "peft")):
        return "PyTorch and PEFT are not installed"
    if legacy:
        return "transformers has no Phi of the old layout to load the PEFT adapter into"
    network, _ = loading.open_lazily(registry.resolve(base))
    count = sum(_size(module) for module in lora.adaptable(network).values())
    needed, free = count * FLOAT32_BYTES / runtime.GIB, runtime.available_memory_gb()
    if needed > free:
        return f"{base} needs {needed:.1f} GB in float32, and {free:.1f} GB is free"
    return ""


def compare_logits(adapter: Path, peft_adapter: Path, base: str) -> LogitProof:
    """Run both sides on ``base``.

    Args:
        adapter: folder in mlx-lm's format.
        peft_adapter: folder in PEFT's format.
        base: registry name or folder; in MLX or Hugging Face layout, quantized or not.

    Raises:
        AdapterError: one of the adapters does not load completely.
        ModelError: the base cannot be loaded.
    """
    path = registry.resolve(base)
    prompts, plain, ours = _mlx_logits(path, adapter)
    mx.clear_cache()
    theirs = _peft_logits(path, peft_adapter, prompts)
    error = max(float(np.abs(a - b).max()) for a, b in zip(ours, theirs, strict=True))
    return LogitProof(
        tokens=sum(map(len, prompts)),
        max_abs_error=error,
        max_abs_logit=max(float(np.abs(a).max()) for a in theirs),
        effect=max(float(np.abs(a - b).max()) for a, b in zip(ours, plain, strict=True)),
    )


def _size(module: nn.Module) -> int:
    """Values in a layer's weight, quantized or not."""
    size: int = module.weight.size
    return size * 32 // module.bits if "scales" in module else size


def _mlx_logits(path: Path, adapter: Path) -> tuple[list[list[int]], Logits, Logits]:
    """Prompts, and the logits (T, vocab) of each without and with the adapter."""
    base = loading.load(path, exact=True)
    prompts = _prompts(base)
    plain = [_run(base.model, tokens) for tokens in prompts]
    base.use_adapter(adapter)
    return prompts, plain, [_run(base.model, tokens) for tokens in prompts]


def _prompts(base: loading.LoadedModel) -> list[list[int]]:
    """Tokens of real prompts from the sample, one row of as many tasks."""
    chosen = rows.stratified(rows.load(sample.folder() / "test.jsonl"), PROMPTS, seed=0)
    return [base.tokenizer.encode(prompt(row, base.frame))[:LENGTH] for row in chosen]


def _run(network: nn.Module, tokens: list[int]) -> np.ndarray:
    return np.array(network(mx.array([tokens]))[0].astype(mx.float32))


def _peft_logits(path: Path, adapter: Path, prompts: list[list[int]]) -> Logits:
    import torch
    from peft import PeftModel

    base = _torch_base(path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = PeftModel.from_pretrained(base, str(adapter)).eval()
    ignored = [str(w.message) for w in caught if "adapter keys" in str(w.message)]
    if ignored:
        raise AdapterError(
            f"PEFT does not load all of {adapter}",
            got=" ".join(ignored[0].split())[:300],
            cure="convert it again",
        )
    with torch.no_grad():
        return [model(torch.tensor([tokens])).logits[0].float().numpy() for tokens in prompts]


def _torch_base(path: Path) -> Any:
    """The base in PyTorch and float32: from its own files where transformers reads them.

    Quantized MLX weights and Phi's old layout are unknown to transformers; these get the
    values that MLX computes with.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = read_config(path)
    stored = json.loads((path / "config.json").read_text(encoding="utf-8"))
    if "quantization" not in config and config == stored and not _old_names(path):
        return AutoModelForCausalLM.from_pretrained(
            path, dtype=torch.float32, local_files_only=True
        )
    plain = {k: v for k, v in config.items() if not k.startswith("quantization")}
    settings = AutoConfig.for_model(plain.pop("model_type"), **plain)
    model = AutoModelForCausalLM.from_config(settings, dtype=torch.float32)
    state = {
        name: torch.from_numpy(np.array(array))
        for name, array in tree_flatten(loading.load(path, exact=True).model.parameters())
    }
    missing, unexpected = model.load_state_dict(state, strict=False)
    tied = {"lm_head.weight"} if settings.tie_word_embeddings else set()
    if unexpected or set(missing) - tied:
        names = [*unexpected, *sorted(set(missing) - tied)]
        raise ModelError(
            f"the weights of {path} do not fit transformers' model",
            got=", ".join(names[:5]),
            cure="verify without --base",
        )
    model.tie_weights()
    return model


def _old_names(path: Path) -> bool:
    tensors = (name for file in weight_files(path) for name in read_header(file).tensors)
    return phi_layout.is_legacy({name.rpartition(".")[0] for name in tensors})
