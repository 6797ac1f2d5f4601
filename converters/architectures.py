"""The one table of architectures: what each family is called, is made of, and can do.

An entry holds all that the product knows of a family, and one entry is all that it takes
to add one which mlx-lm has: registry, plans, conversion, GGUF, fusing, loading and the
messages that list families read this table and branch on nothing else. Tests compare
each entry with the classes of mlx-lm and transformers, so that none is written by guess.

Pure data: knows neither arrays nor files. Keys are ``model_type`` in ``config.json``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from converters.errors import ConversionError

# How Phi's layers are named: natively, or as in Microsoft's own code (``phi_layout``).
Layout = Literal["native", "legacy"]
# A width as the sum of those that a configuration gives: ``queries`` are heads · head_dim,
# ``keys`` key-value heads · head_dim (and values are as wide).
Width = str
Linears = Mapping[str, tuple[Width, Width]]

QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
INPUTS: Linears = {
    "self_attn.q_proj": ("hidden", "queries"),
    "self_attn.k_proj": ("hidden", "keys"),
    "self_attn.v_proj": ("hidden", "keys"),
}
ATTENTION: Linears = {**INPUTS, "self_attn.o_proj": ("queries", "hidden")}
GATED: Linears = {
    "mlp.gate_proj": ("hidden", "intermediate"),
    "mlp.up_proj": ("hidden", "intermediate"),
    "mlp.down_proj": ("intermediate", "hidden"),
}
GATE_AND_UP: Linears = {
    "mlp.gate_up_proj": ("hidden", "intermediate+intermediate"),
    "mlp.down_proj": ("intermediate", "hidden"),
}


@dataclass(frozen=True, kw_only=True)
class Gguf:
    """A family in GGUF, as llama.cpp computes it.

    Attributes:
        name: ``general.architecture``; tensors are named as the ``gguf`` library does.
        neighbours: llama.cpp rotates neighbouring values of a head, where Hugging Face
            rotates values half a head apart: rows of q and k change places.
        fused_qkv: q, k and v may be one tensor, ``attn_qkv``.
        layer_norm: norms subtract the mean (LayerNorm), and do not only divide (RMSNorm).
        norm_offset: added to the weights of norms, which Hugging Face keeps less by that.
        window: the width of the sliding window is written down.
        taken_for_granted: what llama.cpp does not read from the file, and the only value
            that it computes with; a key names another setting whose value is meant.
        imported: whether such files are also read.
    """

    name: str
    neighbours: bool = False
    fused_qkv: bool = False
    layer_norm: bool = False
    norm_offset: float = 0.0
    window: bool = False
    taken_for_granted: Mapping[str, Any] = field(default_factory=dict)
    imported: bool = False


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One family of models.

    mlx-lm and Hugging Face have the same paths and shapes for its linear and embedding
    layers, so that PEFT adapters convert; other families are compared layer by layer.

    Attributes:
        title: its name in messages.
        linears: the linear layers of a block by path: (in, out). This is what
            ``all-linear`` adapts; the output head is none of them.
        head_dim: width of a head where ``config.json`` does not say; None is hidden / heads.
        tied: whether the output head is the embedding where ``config.json`` does not say.
        norms: norms of a block over all hidden values.
        head_norms: whether queries and keys are normalized, too.
        rotary: share of a head that is rotated where ``config.json`` does not say.
        activation: of the middle of the MLP: x · sigmoid(x), or GELU.
        window: a sliding window in the configuration is computed by mlx-lm ``always``,
            only where ``layer_types`` say so (``listed``), or ``never``; families without
            a window are ``always`` right.
        pattern: mlx-lm takes windows in ``sliding_window_pattern``, not ``layer_types``.
        frame: the prompt frame that the paper trained the family with.
        layouts: how checkpoints and PEFT adapters may name layers.
        classes: module of ``ecellm_mlx.models`` with mlx-lm's classes made to read and
            compute what transformers does, where they differ.
        trained: whether logits are the head's output for the body's, which training needs.
        hf_class: transformers' class for checkpoints that are written; all tensors, not
            only those of linear layers, are then named and stored alike. Empty if not.
        gguf: how GGUF has it; None if it is not written.
    """

    title: str
    linears: Linears = field(default_factory=lambda: {**ATTENTION, **GATED})
    head_dim: int | None = None
    tied: bool = False
    norms: int = 2
    head_norms: bool = False
    rotary: float = 1.0
    activation: Literal["silu", "gelu"] = "silu"
    window: Literal["always", "listed", "never"] = "always"
    pattern: bool = False
    frame: Literal["alpaca", "mistral"] = "alpaca"
    layouts: tuple[Layout, ...] = ("native",)
    classes: str = ""
    trained: bool = True
    hf_class: str = ""
    gguf: Gguf | None = None

    @property
    def gated(self) -> bool:
        """Whether the MLP multiplies two projections of its input."""
        return any("gate" in name for name in self.linears)

    def ignores_window(self, config: Mapping[str, Any]) -> bool:
        """Whether mlx-lm sees everything where ``config.json`` has a sliding window."""
        unseen = self.window == "never" or (
            self.window == "listed" and not config.get("layer_types")
        )
        return unseen and bool(config.get("use_sliding_window", True))

    def head_width(self, config: Mapping[str, Any]) -> int:
        """Values of a head in a model of this ``config.json``."""
        hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
        return int(config.get("head_dim") or self.head_dim or hidden // heads)


ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture(
        title="Llama",
        hf_class="LlamaForCausalLM",
        gguf=Gguf(name="llama", neighbours=True, imported=True),
    ),
    "mistral": Architecture(
        title="Mistral",
        window="listed",
        frame="mistral",
        hf_class="MistralForCausalLM",
        gguf=Gguf(name="llama", neighbours=True),
    ),
    "phi": Architecture(
        title="Phi",
        linears={
            **INPUTS,
            "self_attn.dense": ("queries", "hidden"),
            "mlp.fc1": ("hidden", "intermediate"),
            "mlp.fc2": ("intermediate", "hidden"),
        },
        norms=1,
        rotary=0.5,
        activation="gelu",
        layouts=("native", "legacy"),
        classes="phi",
        hf_class="PhiForCausalLM",
        gguf=Gguf(name="phi2", fused_qkv=True, layer_norm=True),
    ),
    "qwen2": Architecture(title="Qwen2", window="never", hf_class="Qwen2ForCausalLM"),
    "qwen3": Architecture(
        title="Qwen3",
        head_dim=128,
        head_norms=True,
        window="never",
        hf_class="Qwen3ForCausalLM",
        gguf=Gguf(name="qwen3"),
    ),
    "gemma3_text": Architecture(
        title="Gemma 3",
        head_dim=256,
        tied=True,
        norms=4,
        head_norms=True,
        activation="gelu",
        pattern=True,
        classes="gemma3",
        hf_class="Gemma3ForCausalLM",
        gguf=Gguf(
            name="gemma3",
            norm_offset=1.0,
            window=True,
            taken_for_granted={
                "sliding_window_pattern": 6,
                "rope_local_base_freq": 10_000.0,
                "query_pre_attn_scalar": "head_dim",
            },
        ),
    ),
    "gemma": Architecture(title="Gemma", head_dim=256, tied=True, activation="gelu"),
    "gemma2": Architecture(
        title="Gemma 2",
        head_dim=256,
        tied=True,
        norms=4,
        activation="gelu",
        window="never",
        trained=False,
    ),
    "phi3": Architecture(
        title="Phi-3",
        linears={
            "self_attn.qkv_proj": ("hidden", "queries+keys+keys"),
            "self_attn.o_proj": ("queries", "hidden"),
            **GATE_AND_UP,
        },
        window="never",
    ),
    "cohere": Architecture(title="Cohere", tied=True, norms=1, trained=False),
    "cohere2": Architecture(title="Cohere 2", tied=True, norms=1, pattern=True, trained=False),
    "ernie4_5": Architecture(title="Ernie 4.5", head_dim=128, tied=True),
    "glm": Architecture(title="GLM", linears={**ATTENTION, **GATE_AND_UP}, head_dim=128),
    "glm4": Architecture(
        title="GLM-4", linears={**ATTENTION, **GATE_AND_UP}, head_dim=128, norms=4
    ),
    # Its published configurations scale logits, which is found out when one is loaded.
    "granite": Architecture(title="Granite"),
    "helium": Architecture(title="Helium"),
    "olmo2": Architecture(title="OLMo 2", head_norms=True),
    "seed_oss": Architecture(title="Seed-OSS", head_dim=128),
    "smollm3": Architecture(title="SmolLM3", tied=True),
    "stablelm": Architecture(title="StableLM"),
    "starcoder2": Architecture(
        title="StarCoder2",
        linears={
            **ATTENTION,
            "mlp.c_fc": ("hidden", "intermediate"),
            "mlp.c_proj": ("intermediate", "hidden"),
        },
        tied=True,
        activation="gelu",
        window="never",
    ),
}


def get(model_type: object) -> Architecture | None:
    """The entry of a ``model_type``; None if the table has none."""
    return ARCHITECTURES.get(str(model_type))


def has_layout(model_type: object, layout: Layout) -> bool:
    """Whether layers of the family may be named in that way."""
    family = get(model_type)
    return layout == "native" or (family is not None and layout in family.layouts)


def with_known_names(model_type: str) -> Architecture:
    """The entry of a family whose layers PEFT names as mlx-lm does.

    Raises:
        ConversionError: the table has none; a guessed name would be a silent no-op.
    """
    if family := get(model_type):
        return family
    raise ConversionError(
        f"nothing says how Hugging Face names the layers of {model_type!r}: it is none of "
        f"{', '.join(ARCHITECTURES)}; install PyTorch, or give a base from the hub."
    )


def exported_to_hf(model_type: str) -> Architecture:
    """The entry of a family that can be written as transformers reads it.

    Raises:
        ConversionError: it cannot.
    """
    family = get(model_type)
    if family is None or not family.hf_class:
        names = (name for name, entry in ARCHITECTURES.items() if entry.hf_class)
        raise ConversionError(
            f"models of the architecture {model_type!r} cannot be exported; supported are "
            f"{', '.join(names)}: fuse to MLX with `ecellm adapters fuse` instead."
        )
    return family


def exported_to_gguf(model_type: str) -> Gguf:
    """How GGUF has a family.

    Raises:
        ConversionError: it is not written as GGUF.
    """
    family = get(model_type)
    if family is None or family.gguf is None:
        names = (name for name, entry in ARCHITECTURES.items() if entry.gguf)
        raise ConversionError(
            f"GGUF export does not support the architecture {model_type!r}; supported are "
            f"{', '.join(names)}: use `ecellm export hf` instead."
        )
    return family.gguf


def imported_from_gguf(name: object) -> str | None:
    """The ``model_type`` of GGUF files of the architecture ``name`` that can be read."""
    return next((key for key, gguf in _ggufs() if gguf.imported and gguf.name == name), None)


def supported() -> str:
    """The families that everything works for, in words: for the cure of an error."""
    *others, last = (entry.title for entry in ARCHITECTURES.values() if entry.hf_class)
    return f"{', '.join(others)} or {last}"


def _ggufs() -> Iterator[tuple[str, Gguf]]:
    return ((name, entry.gguf) for name, entry in ARCHITECTURES.items() if entry.gguf)
