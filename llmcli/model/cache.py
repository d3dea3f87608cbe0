"""The KV cache: keys and values of all earlier tokens, so that a decode step computes one token only.

On a CPU attention reads them in float32, whatever the model computes in. One query against 1,024 keys, 12 heads of 64
channels, 2 threads, microseconds: float32 96, bfloat16 1,120, float16 1,910; 9 heads on 3: 75, 105 and 820. From main
memory, 12 layers in turn, float32 takes 238, and 16-bit keys read as float32 take 210: half the memory, hardly faster.
Texts that are decoded together have a cache of their own, see `batch_cache`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from llmcli.model.cast import as_dtype
from llmcli.model.config import ModelConfig
from llmcli.model.scripted import scripted

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


StepTensors = tuple[Tensor | list[Tensor], ...]


class Step(Store, Protocol):
    """The pass that adds tokens to texts, in a form that can be traced: all that changes between two steps of one
    kind are their `tensors`, of which `of` makes a step again."""

    @property
    def positions(self) -> Tensor: ...

    @property
    def visible(self) -> Tensor | None: ...

    @property
    def tensors(self) -> StepTensors: ...

    @property
    def of(self) -> "Callable[..., Step]": ...


def put(buffer: Tensor, new: Tensor, start: int, end: int) -> Tensor:
    """Writes keys or values (batch, kv_heads, new, head_dim) into the last slots before `end`; a view of all slots from
    `start` to `end`."""
    count = new.shape[2]
    buffer.narrow(2, end - count, count).copy_(new)
    return buffer.narrow(2, start, end - start)


def _read(keys: Tensor, values: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    dtype = read_as(like)
    return as_dtype(keys, dtype), as_dtype(values, dtype)


@scripted
def _put_both(
    key_buffer: Tensor, value_buffer: Tensor, keys: Tensor, values: Tensor, slots: Tensor
) -> tuple[Tensor, Tensor]:
    bounds: list[int] = slots.tolist()
    return put(key_buffer, keys, bounds[0], bounds[1]), put(value_buffer, values, bounds[0], bounds[1])


@dataclass
class TextStep:
    """The pass that adds tokens to a text, as a `Store` and a `Step`; see `KVCache.step`."""

    positions: Tensor
    keys: list[Tensor]
    values: list[Tensor]
    slots: Tensor
    visible: None = None
    length: int = 0

    @property
    def layers(self) -> Sequence[LayerStore]:
        return [_Slots(*each) for each in zip(self.keys, self.values, self.slots.unbind(), strict=True)]

    @property
    def tensors(self) -> StepTensors:
        return self.positions, self.keys, self.values, self.slots

    @property
    def of(self) -> "type[TextStep]":
        return TextStep


@dataclass
class _Slots:
    """The buffers of a layer, and the first slot and the end of what the new tokens may see, they themselves last."""

    keys: Tensor
    values: Tensor
    slots: Tensor

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        return _read(*_put_both(self.keys, self.values, keys, values, self.slots), keys)


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
        key_buffer, value_buffer, start, end = self.advance(keys.shape[2], keys)
        return _read(put(key_buffer, keys, start, end), put(value_buffer, values, start, end), keys)

    def advance(self, new: int, like: Tensor | None = None) -> tuple[Tensor, Tensor, int, int]:
        """Makes room for `new` tokens and counts them: the buffers of keys and values, the first slot that the new
        queries may see, and the end of the new tokens' own. `like` new keys: needed where nothing was appended yet."""
        self._drop_unseen(new)
        end = self._used + new
        like = self._keys if like is None else like
        assert like is not None
        self._reserve(end, like, self.dtype or read_as(like))
        self._used = end
        start = 0 if self.window is None else max(0, end - (self.window - 1 + new))
        assert self._keys is not None
        assert self._values is not None
        return self._keys, self._values, start, end

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
        self.dtype = dtype
        self.layers = [LayerCache(config.window(i), dtype) for i in range(config.num_layers)]
        self.length = 0

    def step(self, count: int) -> "TextStep":
        """The pass that adds so many tokens after others; they are counted from here on."""
        keys, values, *slots = zip(*(layer.advance(count) for layer in self.layers), strict=True)
        self.length += count
        positions = torch.arange(self.length - count, self.length)
        return TextStep(positions, list(keys), list(values), torch.tensor(list(zip(*slots, strict=True))))

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
