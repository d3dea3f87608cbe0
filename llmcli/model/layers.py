"""The parts of a transformer block: norms, self-attention, feed-forward network."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llmcli.model.activations import ACTIVATIONS
from llmcli.model.attend import attend, attention_scores, attention_weights, causal_mask, full_mask, read_as
from llmcli.model.blocked_cache import Blocked
from llmcli.model.cache import LayerStore
from llmcli.model.cast import as_dtype
from llmcli.model.config import ModelConfig
from llmcli.model.linear import Linear, Part
from llmcli.model.positions import rotate
from llmcli.model.scripted import scripted
from llmcli.model.tap import Tap


class Embedding(Part):
    """A table of vectors, one a row. Without the initialisation of torch's own, which on the meta device costs an
    import of 800 modules."""

    def __init__(self, rows: int, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, size))

    def forward(self, index: Tensor) -> Tensor:
        """(...) int64 -> (..., size)."""
        return F.embedding(index, self.weight)


class LayerNorm(Part):
    """(x - mean) / sqrt(variance + eps) * weight + bias over the last axis (Ba et al. 2016, arXiv:1607.06450)."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(size))
        self.bias = nn.Parameter(torch.empty(size))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(as_dtype(x, self.weight.dtype), self.weight.shape, self.weight, self.bias, self.eps)


_ZERO = torch.zeros((), device="cpu")


@scripted
def _normed_row(x: Tensor, weight: Tensor, eps: float, zero: Tensor) -> Tensor:
    """RMSNorm of one row: its norm, and 0 + scale * x * weight. `F.rms_norm` is seven operations."""
    norm = float(torch.linalg.vector_norm(x))
    return torch.addcmul(zero, x, weight, value=(norm * norm / weight.numel() + eps) ** -0.5)


def _normed_rows(x: Tensor, weight: Tensor, eps: Tensor) -> Tensor:
    """RMSNorm of many rows, eps (1, 1, 1): eps + mean(x^2) is one product of each row with itself. `F.rms_norm` writes
    all squares into memory first: 512 rows of 576 take 320 microseconds, and 100 this way."""
    rows = x.reshape(-1, 1, len(weight))
    scale = torch.baddbmm(eps, rows, rows.transpose(1, 2), alpha=1 / len(weight)).rsqrt_()
    return (rows * scale).mul_(weight).view_as(x)


class RMSNorm(Part):
    """x / sqrt(mean(x^2) + eps) * weight over the last axis (Zhang and Sennrich 2019, arXiv:1910.07467).

    With `offset` the factor is 1 + weight, as the Gemma family stores it.
    """

    def __init__(self, size: int, eps: float, offset: bool = False) -> None:
        super().__init__()
        self.eps = eps
        self.offset = offset
        self.weight = nn.Parameter(torch.empty(size))
        self._eps = torch.full((1, 1, 1), eps, device="cpu")

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight
        factor = 1.0 + weight if self.offset else weight
        if torch.is_grad_enabled() or not x.is_cpu or not x.dtype == weight.dtype == torch.float32:
            return F.rms_norm(as_dtype(x, weight.dtype), weight.shape, factor, self.eps)
        if x.numel() == weight.numel():
            return _normed_row(x, factor, self.eps, _ZERO)
        return _normed_rows(x, factor, self._eps)


class Identity(Part):
    """What stands where a family has no norm."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def make_norm(config: ModelConfig, size: int | None = None) -> nn.Module:
    size = config.hidden_size if size is None else size
    if config.norm == "layernorm":
        return LayerNorm(size, config.norm_eps)
    return RMSNorm(size, config.norm_eps, config.norm_offset)


class Attention(Part):
    """Causal self-attention with grouped key/value heads (Vaswani et al. 2017, arXiv:1706.03762; grouped-query:
    Ainslie et al. 2023, arXiv:2305.13245)."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.num_heads = config.num_heads
        self.num_kv_heads = config.num_kv_heads
        self.head_dim = config.head_dim
        self.scale = config.scale(layer)
        self.softcap = config.attention_softcap
        self.window = config.window(layer)
        q_size, kv_size = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        self.q = Linear(config.hidden_size, q_size, config.qkv_bias)
        self.k = Linear(config.hidden_size, kv_size, config.qkv_bias)
        self.v = Linear(config.hidden_size, kv_size, config.qkv_bias)
        self.o = Linear(q_size, config.hidden_size, config.attention_out_bias)
        self.qkv: Linear | None = None
        """q, k and v in one, where the weights were packed: one product instead of three."""
        self.qk_norm = config.qk_norm
        if self.qk_norm != "none":
            full = self.qk_norm == "full"
            self.q_norm = make_norm(config, q_size if full else config.head_dim)
            self.k_norm = make_norm(config, kv_size if full else config.head_dim)

    def forward(
        self,
        x: Tensor,
        rope: tuple[Tensor, Tensor] | None,
        visible: Tensor | None,
        cache: LayerStore | None,
        tap: Tap | None,
        last_only: bool = False,
    ) -> Tensor:
        """x (batch, queries, hidden), or (batch, hidden), one query each -> the same; (batch, 1, hidden) with
        `last_only`.

        `visible` (batch, 1, queries, keys), causal itself, True where a query may look, narrows the causal rule:
        documents packed into one row, rows of unequal length; in float32 it is added to the scores, as `attend` says.
        Where a layer keeps fewer keys its first columns count.
        """
        if self.qkv is not None and self.qk_norm == "none" and tap is None:
            q, k, v = self._stacked(self.qkv, x, rope)
        else:
            q, k, v = self._separate(x, rope, tap)
        if last_only:
            q = q[:, :, -1:]
            visible = None if visible is None else visible[..., -1:, :]
        heads = None
        if isinstance(cache, Blocked) and tap is None and visible is None:
            heads = cache.attend(q, k, v, self.scale)
        if heads is None:
            heads = self._attend(q, k, v, x.dtype, visible, cache, tap)
        heads = _side_by_side(heads, x.dim())
        return cast(Tensor, self.o(heads if self.o.rounds else as_dtype(heads, x.dtype)))

    def _attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        dtype: torch.dtype,
        visible: Tensor | None,
        cache: LayerStore | None,
        tap: Tap | None,
    ) -> Tensor:
        """As `attend`, over what the cache holds with these keys and values; `dtype` is that of the hidden states."""
        rounded = self.o.rounds
        if cache is not None:
            k, v = cache.append(k, v)
            dtype = read_as(k, q.shape[2], dtype, rounded=rounded and not self.softcap)
        q, k, v = as_dtype(q, dtype), as_dtype(k, dtype), as_dtype(v, dtype)
        mask = causal_mask(q.shape[2], k.shape[2], self.window, q.device)
        if visible is not None:
            visible = visible[..., : k.shape[2]]
            mask = visible if mask is None else visible & mask
        if tap is not None:
            self._record(tap, q, k, mask)
        heads = attend(q, k, v, mask, scale=self.scale, softcap=self.softcap, rounded=rounded)
        return heads if tap is None else tap("heads", self.layer, heads)

    def _stacked(self, qkv: Linear, x: Tensor, rope: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor, Tensor]:
        """`_separate` in a third of its operations, which are what a decode step of a small model costs: q and k lie
        side by side and are turned at once."""
        turning = self.num_heads + self.num_kv_heads
        heads = _heads(qkv(x), self.head_dim)
        qk, v = heads.split_with_sizes((turning, self.num_kv_heads), dim=1)
        if rope is not None:
            qk = rotate(as_dtype(qk, x.dtype), *rope)
        q, k = qk.split_with_sizes((self.num_heads, self.num_kv_heads), dim=1)
        return q, k, v

    def _separate(
        self, x: Tensor, rope: tuple[Tensor, Tensor] | None, tap: Tap | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x -> q (batch, heads, queries, head_dim), k and v (batch, kv_heads, queries, head_dim); q and k rotated."""
        q, k, v = self._project(x)
        if tap is not None:
            q, k, v = (tap(name, self.layer, t) for name, t in (("query", q), ("key", k), ("value", v)))
        if rope is not None:
            q, k = rotate(q, *rope), rotate(k, *rope)
        if tap is not None:
            q, k = tap("rotated_query", self.layer, q), tap("rotated_key", self.layer, k)
        return q, k, v

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x -> q, k and v as `_separate` gives them, q and k not yet rotated."""
        if self.qkv is None:
            q, k, v = self.q(x), self.k(x), self.v(x)
        else:
            sizes = [heads * self.head_dim for heads in (self.num_heads, self.num_kv_heads, self.num_kv_heads)]
            q, k, v = as_dtype(self.qkv(x), x.dtype).split_with_sizes(sizes, dim=-1)
        if self.qk_norm == "full":
            q, k = self.q_norm(q), self.k_norm(k)
        if self.qk_norm == "head":
            q = self.q_norm(torch.unflatten(q, -1, (-1, self.head_dim))).flatten(-2)
            k = self.k_norm(torch.unflatten(k, -1, (-1, self.head_dim))).flatten(-2)
        return _heads(q, self.head_dim), _heads(k, self.head_dim), _heads(v, self.head_dim)

    def _record(self, tap: Tap, q: Tensor, k: Tensor, mask: Tensor | None) -> None:
        """Hands the scores and weights of the wanted heads to the tap; the other heads' are never computed."""
        wanted = sorted(tap.heads(self.layer) or ())
        if not wanted:
            return
        group = self.num_heads // self.num_kv_heads
        index = torch.tensor(wanted, device=q.device)
        # In float32, as a kernel adds up the products of 16-bit numbers.
        q, k = q[:, index].float(), k[:, index // group].float()
        scores = attention_scores(q, k, self.scale, self.softcap)
        scores = tap("scores", self.layer, scores)
        tap("weights", self.layer, attention_weights(scores, full_mask(mask, q, k)))


def _heads(x: Tensor, head_dim: int) -> Tensor:
    """(batch, queries, heads * head_dim), or (batch, heads * head_dim) -> (batch, heads, queries, head_dim)."""
    if x.dim() == 2:
        return torch.unflatten(x, -1, (-1, 1, head_dim))
    return torch.unflatten(x, -1, (-1, head_dim)).transpose(1, 2)


def _side_by_side(heads: Tensor, axes: int) -> Tensor:
    """What `_heads` was given, of so many axes."""
    return heads.flatten(1) if axes == 2 else heads.transpose(1, 2).flatten(2)


class FeedForward(Part):
    """down(act(up(x))), or gated: down(act(gate(x)) * up(x)) (Shazeer 2020, arXiv:2002.05202)."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.activation = config.activation
        self.gated = config.gated
        self.gate_up: Linear | None = None
        """gate and up in one, where the weights were packed."""
        if config.gated:
            self.gate = Linear(config.hidden_size, config.intermediate_size, config.ffn_bias)
        self.up = Linear(config.hidden_size, config.intermediate_size, config.ffn_bias)
        self.down = Linear(config.intermediate_size, config.hidden_size, config.ffn_bias)

    def forward(self, x: Tensor, tap: Tap | None) -> Tensor:
        """x (..., hidden) -> (..., hidden)."""
        if not self.gated:
            hidden = self.up.activated(x, self.activation)
        else:
            gate, up = self._gate_and_up(x)
            hidden = ACTIVATIONS[self.activation](gate) * up
        if tap is not None:
            hidden = tap("ffn_hidden", self.layer, hidden)
        return cast(Tensor, self.down(hidden))

    def _gate_and_up(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.gate_up is None:
            return self.gate(x), self.up(x)
        gate, up = self.gate_up(x).split_with_sizes((self.gate.out_features, self.up.out_features), dim=-1)
        return gate, up
