"""The KV cache: keys and values of all earlier tokens, so that a decode step computes one token only."""

import torch
from torch import Tensor

from llmcli.model.config import ModelConfig

_CHUNK = 256


class LayerCache:
    """Keys and values of one layer, (batch, kv_heads, tokens, head_dim), grown by doubling so that an append is
    amortised O(1). A sliding layer keeps only the keys that a later query can still see."""

    def __init__(self, window: int | None) -> None:
        self.window = window
        self._keys: Tensor | None = None
        self._values: Tensor | None = None
        self._used = 0

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Adds the new tokens' keys and values; returns those that the new queries may see, oldest first."""
        new = keys.shape[2]
        self._drop_unseen(new)
        end = self._used + new
        self._reserve(end, keys)
        assert self._keys is not None
        assert self._values is not None
        self._keys[:, :, self._used : end] = keys
        self._values[:, :, self._used : end] = values
        self._used = end
        start = 0 if self.window is None else max(0, end - (self.window - 1 + new))
        return self._keys[:, :, start:end], self._values[:, :, start:end]

    def _drop_unseen(self, new: int) -> None:
        """Moves a sliding layer's last window - 1 keys to the front once the buffer would have to grow."""
        keep = self._used if self.window is None else min(self._used, self.window - 1)
        capacity = 0 if self._keys is None else self._keys.shape[2]
        if keep == self._used or self._used + new <= capacity:
            return
        assert self._keys is not None
        assert self._values is not None
        for buffer in (self._keys, self._values):
            buffer[:, :, :keep] = buffer[:, :, self._used - keep : self._used].clone()
        self._used = keep

    def _reserve(self, tokens: int, like: Tensor) -> None:
        capacity = 0 if self._keys is None else self._keys.shape[2]
        if tokens <= capacity:
            return
        batch, heads, _, width = like.shape
        size = max(tokens, 2 * capacity if capacity else 0)
        size = -(-size // _CHUNK) * _CHUNK
        for name in ("_keys", "_values"):
            grown = torch.empty(batch, heads, size, width, dtype=like.dtype, device=like.device)
            old: Tensor | None = getattr(self, name)
            if old is not None:
                grown[:, :, : self._used] = old[:, :, : self._used]
            setattr(self, name, grown)

    def crop(self, tokens: int) -> None:
        """Forgets all but the first `tokens` kept keys."""
        self._used = min(self._used, tokens)

    @property
    def used(self) -> int:
        return self._used

    @property
    def allocated_bytes(self) -> int:
        buffers = [b for b in (self._keys, self._values) if b is not None]
        return sum(b.numel() * b.element_size() for b in buffers)


class KVCache:
    """One `LayerCache` a layer, and the number of tokens seen so far."""

    def __init__(self, config: ModelConfig) -> None:
        self.layers = [LayerCache(config.window(i)) for i in range(config.num_layers)]
        self.length = 0

    @property
    def allocated_bytes(self) -> int:
        return sum(layer.allocated_bytes for layer in self.layers)

    def clear(self) -> None:
        for layer in self.layers:
            layer.crop(0)
        self.length = 0
