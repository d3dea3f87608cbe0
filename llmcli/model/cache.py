"""The KV cache: keys and values of all earlier tokens, so that a decode step computes one token only.

It gives them as it keeps them; what attention reads them as, `attend.read_as` says. Texts that are decoded together
have a cache of their own, see `batch_cache`.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

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


def kept_as(like: Tensor) -> torch.dtype:
    """What new keys and values `like` these are kept in where nothing was asked for: on a CPU float32, which PyTorch's
    own kernel reads fastest, elsewhere the dtype of the hidden states, which `like` has."""
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

    @property
    def kind(self) -> Hashable:
        """What steps have in common that one graph can compute."""


def _put(buffer: Tensor, new: Tensor, start: int, end: int) -> Tensor:
    """Writes keys or values (batch, kv_heads, new, head_dim) into the last slots before `end`; a view of all slots from
    `start` to `end`."""
    count = new.shape[2]
    buffer.narrow(2, end - count, count).copy_(new)
    return buffer.narrow(2, start, end - start)


@scripted
def _opened(keys: Tensor, values: Tensor, slots: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of a room's keys and values the slots of the tokens at `positions`, and all that these may see."""
    bounds: list[int] = slots.tolist()
    start, end, new = bounds[0], bounds[1], positions.shape[0]
    return (
        keys.narrow(3, end - new, new),
        values.narrow(3, end - new, new),
        keys.narrow(3, start, end - start),
        values.narrow(3, start, end - start),
    )


@dataclass
class TextStep:
    """The pass that adds tokens to a text, as a `Store` and a `Step`; see `KVCache.step`. A `Room`'s keys, values and
    bounds each; `places` says for each layer in which room it is, and where in it."""

    positions: Tensor
    keys: list[Tensor]
    values: list[Tensor]
    slots: Tensor
    places: Sequence[tuple[int, int]]
    visible: None = None
    length: int = 0

    @property
    def layers(self) -> Sequence[LayerStore]:
        rooms = zip(self.keys, self.values, self.slots.unbind(), strict=True)
        opened = [[part.unbind() for part in _opened(*room, self.positions)] for room in rooms]
        return [_Slots(*(part[place] for part in opened[room])) for room, place in self.places]

    @property
    def tensors(self) -> StepTensors:
        return self.positions, self.keys, self.values, self.slots

    @property
    def of(self) -> "Callable[..., TextStep]":
        return partial(TextStep, places=self.places)

    @property
    def kind(self) -> Hashable:
        return tuple(keys.dtype for keys in self.keys), len(self.positions) > 1


@dataclass
class _Slots:
    """Where a layer's new keys and values go, and all that the new queries may see, these included."""

    new_keys: Tensor
    new_values: Tensor
    keys: Tensor
    values: Tensor

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        self.new_keys.copy_(keys)
        self.new_values.copy_(values)
        return self.keys, self.values


class Room:
    """The keys and the values of layers that see equally far, each one tensor (layers, batch, kv_heads, slots,
    head_dim): a step finds the slots of all of them at once. Grown by doubling, so that an append is amortised O(1).
    With a window only the keys are kept that a later query can still see.

    `dtype` is that of the kept keys and values; None: `kept_as` says it.
    """

    def __init__(self, window: int | None, dtype: torch.dtype | None = None, layers: int = 1) -> None:
        self.window = window
        self.used = 0
        self.bounds = (0, 0)
        """Of the pass that came last: the first slot that its queries may see, and the end of its own tokens."""
        self.buffers: list[Tensor] = []
        self._dtype = dtype
        self._layers = layers

    def advance(self, new: int, like: Tensor | None = None) -> tuple[int, int]:
        """Makes room for `new` tokens and counts them; their `bounds`. `like` (batch, kv_heads, any, head_dim) are new
        keys: needed where nothing was appended yet."""
        self._drop_unseen(new)
        end = self.used + new
        self._reserve(end, self.buffers[1][0] if like is None else like)
        self.used = end
        self.bounds = (0 if self.window is None else max(0, end - (self.window - 1 + new))), end
        return self.bounds

    def _drop_unseen(self, new: int) -> None:
        """Moves the last window - 1 keys to the front once the buffers would have to grow."""
        keep = self.used if self.window is None else min(self.used, self.window - 1)
        if keep == self.used or self.used + new <= self._capacity:
            return
        for buffer in self.buffers:
            buffer[..., :keep, :] = buffer[..., self.used - keep : self.used, :].clone()
        self.used = keep

    def _reserve(self, tokens: int, like: Tensor) -> None:
        capacity = self._capacity
        if tokens <= capacity:
            return
        batch, heads, _, width = like.shape
        size = -(-max(tokens, 2 * capacity) // _CHUNK) * _CHUNK
        dtype = self.buffers[0].dtype if self.buffers else self._dtype or kept_as(like)
        for i, shape in enumerate((self._shape_of_keys(size, width), (size, width))):
            grown = torch.empty(self._layers, batch, heads, *shape, dtype=dtype, device=like.device)
            if len(self.buffers) > i:
                grown[:, :, :, : self.buffers[i].shape[3]] = self.buffers[i]
            self.buffers[i : i + 1] = [grown]

    def _shape_of_keys(self, size: int, width: int) -> tuple[int, ...]:
        """Those of so many slots of one head."""
        return size, width

    @property
    def _capacity(self) -> int:
        return self.buffers[1].shape[3] if self.buffers else 0

    def can_forget(self, count: int, length: int) -> bool:
        """Whether the last `count` of `length` tokens can go: with a window, older keys may have been dropped that the
        next query would see then."""
        left = length - count
        needed = left if self.window is None else min(left, self.window - 1)
        return self.used - count >= needed

    def forget(self, count: int) -> None:
        """Drops the keys and values of the last `count` tokens."""
        self.used = max(0, self.used - count)


class LayerCache:
    """The keys and values of one layer, (batch, kv_heads, tokens, head_dim): place `place` of a room, which counts a
    pass's tokens when they come to its first layer."""

    def __init__(self, room: Room, place: int = 0) -> None:
        self._room = room
        self._place = place

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Adds the new tokens' keys and values; returns those that the new queries may see, oldest first, as they are
        kept."""
        room = self._room
        start, end = room.bounds if self._place else room.advance(keys.shape[2], keys)
        buffers = [buffer[self._place] for buffer in room.buffers]
        return _put(buffers[0], keys, start, end), _put(buffers[1], values, start, end)

    def kept(self) -> tuple[Tensor, Tensor]:
        """The stored keys and values that a later query can see, (batch, kv_heads, tokens, head_dim), oldest first.
        Raises ValueError where nothing was appended yet."""
        room = self._room
        if not room.buffers:
            raise ValueError("the cache is empty")
        start = 0 if room.window is None else max(0, room.used - (room.window - 1))
        keys, values = (buffer[self._place, :, :, start : room.used] for buffer in room.buffers)
        return keys, values

    @property
    def allocated_bytes(self) -> int:
        return sum(buffer[self._place].numel() * buffer.element_size() for buffer in self._room.buffers)


class KVCache:
    """One `LayerCache` a layer, and the number of tokens seen so far. `dtype` as in `Room`."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype | None = None) -> None:
        windows = [config.window(i) for i in range(config.num_layers)]
        kinds = list(dict.fromkeys(windows))
        self._rooms = [Room(window, dtype, windows.count(window)) for window in kinds]
        self.dtype = dtype
        self._places = [(kinds.index(window), windows[:i].count(window)) for i, window in enumerate(windows)]
        self._layers = [LayerCache(self._rooms[room], place) for room, place in self._places]
        self.length = 0

    @property
    def layers(self) -> Sequence[LayerCache]:
        return self._layers

    def kept_as(self, length: int, like: Tensor) -> torch.dtype:  # noqa: ARG002
        """What a text of so many tokens is kept in, where hidden states are `like` these."""
        return self.dtype or kept_as(like)

    def step(self, count: int) -> Step:
        """The pass that adds so many tokens after others; they are counted from here on."""
        slots = torch.tensor([room.advance(count) for room in self._rooms])
        keys, values = zip(*(room.buffers for room in self._rooms), strict=True)
        self.length += count
        positions = torch.arange(self.length - count, self.length)
        return TextStep(positions, list(keys), list(values), slots, self._places)

    @property
    def allocated_bytes(self) -> int:
        return sum(layer.allocated_bytes for layer in self.layers)

    def can_crop(self, length: int) -> bool:
        """Whether the cache can go back to its first `length` tokens. Back to where the last append began it always
        can."""
        return all(room.can_forget(self.length - length, self.length) for room in self._rooms)

    def crop(self, length: int) -> None:
        """Forgets all but the first `length` tokens. Raises ValueError where `can_crop` says no."""
        if not 0 <= length <= self.length or not self.can_crop(length):
            raise ValueError(f"a cache of {self.length} tokens cannot go back to {length}")
        for room in self._rooms:
            room.forget(self.length - length)
        self.length = length

    def clear(self) -> None:
        for room in self._rooms:
            room.forget(room.used)
        self.length = 0
