"""The KV cache of one text whose keys lie in blocks, for attention as embedding bags; see `model.bags`."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llmcli.model.bags import BLOCK, FEW, Bags, Index, attend_in_bags, out_of_blocks, put_in_blocks
from llmcli.model.cache import KVCache, LayerCache, LayerStore, Room, Step, StepTensors
from llmcli.model.config import ModelConfig
from llmcli.model.scripted import scripted

LONG = 512
"""Tokens of a text whose attention takes long enough to be worth another graph (`model.traced`)."""
_MOST = 2.0**12
"""The largest key or value of the first tokens for which float16, which ends at 65,504, is expected to hold all."""


class Blocked(ABC):
    """A `LayerStore` of one text whose keys lie in blocks, (1, kv_heads, blocks, head_dim, BLOCK)."""

    @abstractmethod
    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]: ...

    def attend(self, q: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor | None:
        """What causal attention gives, after the new keys and values were taken in. q (1, heads, queries,
        head_dim), the others as for `append`. None, and nothing is taken in, where bags are not made for it."""
        if keys.shape[2] > FEW or q.shape[2] < keys.shape[2]:
            return None
        kept, kept_values, bags = self._take_in(keys, values)
        return attend_in_bags(q, kept, kept_values, bags, scale)

    @abstractmethod
    def _take_in(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Bags]:
        """All keys and values, new ones included, and the bags of the new ones' queries."""


class BlockedRoom(Room):
    """A `Room` of layers that all see the whole text, whose keys lie in blocks: (layers, batch, kv_heads, blocks,
    head_dim, BLOCK). It takes over what another one holds."""

    def __init__(self, config: ModelConfig, room: Room, dtype: torch.dtype) -> None:
        super().__init__(None, dtype, config.num_layers)
        self.used, self.bounds = room.used, room.bounds
        keys, values = room.buffers
        blocks = torch.unflatten(keys, 3, (-1, BLOCK)).transpose(-1, -2)
        self.buffers = [blocks.to(dtype).contiguous(), values.to(dtype)]
        self._index = Index(config.num_heads, config.num_kv_heads, config.head_dim)

    def bags(self, queries: int) -> Bags:
        """Those of the last queries."""
        return self._index(self.used, self._capacity, queries)

    def _shape_of_keys(self, size: int, width: int) -> tuple[int, ...]:
        return size // BLOCK, width, BLOCK


class BlockedLayer(Blocked, LayerCache):
    """A `LayerCache` in such a room."""

    _room: BlockedRoom

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """As `LayerCache` does; a copy of the keys."""
        self._put(keys, values)
        return self.kept()

    def kept(self) -> tuple[Tensor, Tensor]:
        keys, values = (buffer[self._place] for buffer in self._room.buffers)
        return out_of_blocks(keys, self._room.used), values[:, :, : self._room.used]

    def _take_in(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Bags]:
        return *self._put(keys, values), self._room.bags(keys.shape[2])

    def _put(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        room, count = self._room, keys.shape[2]
        _, end = room.bounds if self._place else room.advance(count)
        kept, kept_values = (buffer[self._place] for buffer in room.buffers)
        return _put(kept, kept_values, keys, values, end - count)


@scripted
def _put(keys: Tensor, values: Tensor, new_keys: Tensor, new_values: Tensor, first: int) -> tuple[Tensor, Tensor]:
    """Writes new tokens into a layer's slots from `first` on; all its keys and values."""
    values.narrow(2, first, new_values.shape[2]).copy_(new_values)
    return put_in_blocks(keys, new_keys, first), values


@scripted
def _put_at(
    keys: Tensor, values: Tensor, new_keys: Tensor, new_values: Tensor, positions: Tensor
) -> tuple[Tensor, Tensor]:
    """The same from the first of `positions` on."""
    return _put(keys, values, new_keys, new_values, int(positions[0]))


@scripted
def _up_to(keys: Tensor, values: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Of a layer's slots those of the tokens up to the last of `positions`; a copy of the keys."""
    tokens = int(positions[-1]) + 1
    return out_of_blocks(keys, tokens), values.narrow(2, 0, tokens)


@scripted
def _opened(keys: Tensor, values: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Of all layers the slots of the one token at `positions`."""
    slot, width = int(positions[0]), keys.shape[-1]
    block = keys.select(3, slot // width)
    return block.narrow(-1, slot % width, 1).transpose(-1, -2), values.narrow(3, slot, 1)


@dataclass
class BlockedStep:
    """The pass that adds a few tokens to a text, as a `Store` and a `Step`; see `LongCache.step`."""

    positions: Tensor
    keys: Tensor
    values: Tensor
    bags: Bags
    visible: None = None
    length: int = 0

    @property
    def layers(self) -> Sequence[LayerStore]:
        layers = list(zip(self.keys.unbind(), self.values.unbind(), strict=True))
        if len(self.positions) > 1:
            return [_Several(keys, values, self.bags, self.positions) for keys, values in layers]
        new = _opened(self.keys, self.values, self.positions)
        opened = zip(layers, *(part.unbind() for part in new), strict=True)
        return [_One(keys, values, self.bags, self.positions, *slots) for (keys, values), *slots in opened]

    @property
    def tensors(self) -> StepTensors:
        return self.positions, self.keys, self.values, [each for each in self.bags if each is not None]

    @property
    def of(self) -> "Callable[..., BlockedStep]":
        return _step_of

    @property
    def kind(self) -> Hashable:
        return "blocked", self.keys.dtype, len(self.positions) > 1


def _step_of(positions: Tensor, keys: Tensor, values: Tensor, bags: list[Tensor]) -> BlockedStep:
    return BlockedStep(positions, keys, values, Bags(*bags))


@dataclass
class _Step(Blocked):
    """A layer in a step."""

    keys: Tensor
    values: Tensor
    bags: Bags
    positions: Tensor

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        kept, kept_values, _ = self._take_in(keys, values)
        return _up_to(kept, kept_values, self.positions)


@dataclass
class _One(_Step):
    """With the slots of the one new token."""

    new_keys: Tensor
    new_values: Tensor

    def _take_in(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Bags]:
        self.new_keys.copy_(keys)
        self.new_values.copy_(values)
        return self.keys, self.values, self.bags


class _Several(_Step):
    def _take_in(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Bags]:
        return *_put_at(self.keys, self.values, keys, values, self.positions), self.bags


class LongCache(KVCache):
    """A `KVCache` on a CPU, of layers that all see the whole text: a text of `LONG` tokens and more has its keys in
    blocks, from the pass on that comes then. These are kept as `blocked`, or in float32 where float16 might not hold
    them."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype | None, blocked: torch.dtype) -> None:
        super().__init__(config, dtype)
        self._config = config
        self._blocked = blocked
        self._room: BlockedRoom | None = None

    @property
    def layers(self) -> Sequence[LayerCache]:
        self._long()
        return self._layers

    def kept_as(self, length: int, like: Tensor) -> torch.dtype:
        if self._room is not None:
            return self._room.buffers[0].dtype
        return self._blocked if length >= LONG else super().kept_as(length, like)

    def step(self, count: int) -> Step:
        room = self._long()
        if room is None:
            return super().step(count)
        room.advance(count)
        self.length += count
        positions = torch.arange(self.length - count, self.length)
        return BlockedStep(positions, room.buffers[0], room.buffers[1], room.bags(count))

    def _long(self) -> BlockedRoom | None:
        """The room of a long text, which it enters here."""
        if self._room is None and self.length >= LONG and self._rooms[0].buffers[0].shape[1] == 1:
            plain = self._rooms[0]
            fits = all(float(part[..., : plain.used, :].abs().amax()) < _MOST for part in plain.buffers)
            self._room = BlockedRoom(self._config, plain, self._blocked if fits else torch.float32)
            self._rooms = [self._room]
            self._layers = [BlockedLayer(self._room, i) for i in range(self._config.num_layers)]
        return self._room
