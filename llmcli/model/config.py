"""What a model is made of: one frozen description that every family's config.json is translated into.

The description names parts, not families: `CausalLM` never asks which family it runs.
"""

from dataclasses import dataclass, field
from typing import Literal

Norm = Literal["layernorm", "rmsnorm"]
NormPlacement = Literal["pre", "post", "sandwich"]
Activation = Literal["gelu", "gelu_tanh", "gelu_quick", "relu", "silu"]
QKNorm = Literal["none", "head", "full"]
RopeKind = Literal["default", "linear", "dynamic", "llama3", "yarn", "longrope"]

FULL = "full_attention"
SLIDING = "sliding_attention"


@dataclass(frozen=True)
class RopeConfig:
    """Rotary position embedding of one kind of layer.

    `dim` is the number of channels of a head that rotate (all, or the first part: partial rotary), `theta` the base.
    An odd `dim` rotates one channel more.
    The other fields are the keys of the scaling in force and are read only by the kinds that use them.
    """

    dim: int
    theta: float = 10_000.0
    kind: RopeKind = "default"
    factor: float = 1.0
    original_length: int = 0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    short_factor: tuple[float, ...] = ()
    long_factor: tuple[float, ...] = ()


@dataclass(frozen=True)
class ModelConfig:
    """The shape and the parts of a causal language model."""

    family: str
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    context_length: int

    norm: Norm = "rmsnorm"
    norm_eps: float = 1e-5
    norm_offset: bool = False
    """RMSNorm multiplies by (1 + weight) instead of weight."""
    norm_placement: NormPlacement = "pre"
    """pre: x + f(norm(x)); post: x + norm(f(x)); sandwich: x + norm(f(norm(x)))."""
    parallel_residual: bool = False
    """x + attention(norm1(x)) + feed_forward(norm2(x))."""

    learned_positions: bool = False
    rope: dict[str, RopeConfig] = field(default_factory=dict)
    """By layer type; empty for a learned table."""
    layer_types: tuple[str, ...] = ()
    """One of `full_attention` and `sliding_attention` per layer; empty: all full."""
    rope_layers: tuple[bool, ...] = ()
    """Which layers rotate; empty: all."""
    sliding_window: int = 0
    """Number of keys that a query of a sliding layer sees, itself included."""

    activation: Activation = "silu"
    gated: bool = True
    qkv_bias: bool = False
    attention_out_bias: bool = False
    ffn_bias: bool = False
    lm_head_bias: bool = False
    qk_norm: QKNorm = "none"
    """head: over each head's channels; full: over all heads' channels together."""
    attention_scale: tuple[float, ...] = ()
    """The factor on QK^T per layer; empty: 1 / sqrt(head_dim)."""
    attention_softcap: float = 0.0
    final_softcap: float = 0.0
    embedding_scale: float = 1.0
    tied: bool = False

    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    dtype: str = "float32"
    """The dtype that config.json declares for the stored weights."""

    def layer_type(self, layer: int) -> str:
        return self.layer_types[layer] if self.layer_types else FULL

    def rotates(self, layer: int) -> bool:
        return bool(self.rope) and (self.rope_layers[layer] if self.rope_layers else True)

    def scale(self, layer: int) -> float:
        """The factor on QK^T before the softmax, per layer."""
        scale: float = self.attention_scale[layer] if self.attention_scale else self.head_dim**-0.5
        return scale

    def window(self, layer: int) -> int | None:
        """Keys visible to a query of this layer, itself included; None: all before it."""
        return self.sliding_window if self.layer_type(layer) == SLIDING else None

    @property
    def slides(self) -> bool:
        """Whether any layer has a window."""
        return any(self.window(layer) is not None for layer in range(self.num_layers))
