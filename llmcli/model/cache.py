"""The KV cache: keys and values of all earlier tokens, so that a decode step computes one token only.

On a CPU attention reads them in float32, whatever the model computes in. One query against 1,024 keys, 12 heads of 64
channels, 2 threads, microseconds: float32 96, bfloat16 1,120, float16 1,910; 9 heads on 3: 75, 105 and 820. From main
memory, 12 layers in turn, float32 takes 238, and 16-bit keys read as float32 take 210: half the memory, hardly faster.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from llmcli.model.config import ModelConfig

KV_DTYPES: dict[str, torch.dtype | None] = {
    "auto": None,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
_CHUNK = 256


def kv_dtype_name(dtype: torch.dtype | None) -> str:
    """The name in `KV_DTYPES`."""
    return next(name for name, each in KV_DTYPES.items() if each == dtype)


def read_as(like: Tensor) -> torch.dtype:
    """What attention reads keys and values in: on a CPU float32, elsewhere the dtype of the hidden states, which `like`
    has."""
    return torch.float32 if like.device.type == "cpu" else like.dtype


class LayerStore(Protocol):
    """Where a layer's attention leaves new keys and values, and gets those that its queries may look at."""

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]: ...


class Store(Protocol):
    """What a forward pass continues: the keys and values of each layer, and how many tokens they are of."""

    length: int

    @property
    def layers(self) -> Sequence[LayerStore]: ...


class LayerCache:
    """Keys and values of one layer, (batch, kv_heads, tokens, head_dim), grown by doubling so that an append is
    amortised O(1). A sliding layer keeps only the keys that a later query can still see.

    `dtype` is that of the stored keys and values; None: the one that attention reads them in.
    """

    def __init__(self, window: int | None, dtype: torch.dtype | None = None) -> None:
        self.window = window
        self.dtype = dtype
        self._keys: Tensor | None = None
        self._values: Tensor | None = None
        self._used = 0

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Adds the new tokens' keys and values; returns those that the new queries may see, oldest first: on a CPU in
        float32, elsewhere in the dtype of `keys`."""
        dtype = read_as(keys)
        new = keys.shape[2]
        self._drop_unseen(new)
        end = self._used + new
        self._reserve(end, keys, self.dtype or dtype)
        assert self._keys is not None
        assert self._values is not None
        self._keys.narrow(2, self._used, new).copy_(keys)
        self._values.narrow(2, self._used, new).copy_(values)
        self._used = end
        start = 0 if self.window is None else max(0, end - (self.window - 1 + new))
        seen = self._keys.narrow(2, start, end - start), self._values.narrow(2, start, end - start)
        return seen if seen[0].dtype == dtype else (seen[0].to(dtype), seen[1].to(dtype))

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

    def _reserve(self, tokens: int, like: Tensor, dtype: torch.dtype) -> None:
        capacity = 0 if self._keys is None else self._keys.shape[2]
        if tokens <= capacity:
            return
        batch, heads, _, width = like.shape
        size = max(tokens, 2 * capacity if capacity else 0)
        size = -(-size // _CHUNK) * _CHUNK
        for name in ("_keys", "_values"):
            grown = torch.empty(batch, heads, size, width, dtype=dtype, device=like.device)
            old: Tensor | None = getattr(self, name)
            if old is not None:
                grown[:, :, : self._used] = old[:, :, : self._used]
            setattr(self, name, grown)

    def can_forget(self, count: int, length: int) -> bool:
        """Whether the last `count` of `length` tokens can go: a sliding layer may have dropped older keys that the
        next query would see then."""
        left = length - count
        needed = left if self.window is None else min(left, self.window - 1)
        return self._used - count >= needed

    def forget(self, count: int) -> None:
        """Drops the keys and values of the last `count` tokens."""
        self._used = max(0, self._used - count)

    def kept(self) -> tuple[Tensor, Tensor]:
        """The stored keys and values that a later query can see, (batch, kv_heads, tokens, head_dim), oldest first.
        Raises ValueError where nothing was appended yet."""
        if self._keys is None or self._values is None:
            raise ValueError("the cache is empty")
        start = 0 if self.window is None else max(0, self._used - (self.window - 1))
        return self._keys[:, :, start : self._used], self._values[:, :, start : self._used]

    @property
    def used(self) -> int:
        return self._used

    @property
    def allocated_bytes(self) -> int:
        buffers = [b for b in (self._keys, self._values) if b is not None]
        return sum(b.numel() * b.element_size() for b in buffers)


class KVCache:
    """One `LayerCache` a layer, and the number of tokens seen so far. `dtype` as in `LayerCache`."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype | None = None) -> None:
        self.layers = [LayerCache(config.window(i), dtype) for i in range(config.num_layers)]
        self.length = 0

    @property
    def allocated_bytes(self) -> int:
        return sum(layer.allocated_bytes for layer in self.layers)

    def can_crop(self, length: int) -> bool:
        """Whether the cache can go back to its first `length` tokens. Back to where the last append began it always
        can."""
        return all(layer.can_forget(self.length - length, self.length) for layer in self.layers)

    def crop(self, length: int) -> None:
        """Forgets all but the first `length` tokens. Raises ValueError where `can_crop` says no."""
        if not 0 <= length <= self.length or not self.can_crop(length):
            raise ValueError(f"a cache of {self.length} tokens cannot go back to {length}")
        for layer in self.layers:
            layer.forget(self.length - length)
        self.length = length

    def clear(self) -> None:
        for layer in self.layers:
            layer.forget(layer.used)
        self.length = 0
