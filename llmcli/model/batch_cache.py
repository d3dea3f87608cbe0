"""The KV cache of several texts that are decoded together: a row each, of its own length.

The token at position p of a text lies in slot p of its row. A sliding layer has as many slots as its window, and p lies
in slot p mod window: what it is written over no later query can see. The order of the slots does not matter to
attention, since keys are rotated before they come here. So for every layer alike a query at position p may look at the
slots up to p.

A decode step gets a layer's slots all, filled or not: rows that follow one another in memory without a gap are read
from it twice as fast. So there are few more slots than tokens, and a buffer grows often, by little.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from llmcli.model.attend import added_mask
from llmcli.model.cache import LayerStore, StepTensors, kept_as
from llmcli.model.config import ModelConfig
from llmcli.model.scripted import scripted

_SPARE = 16
"""A buffer has a multiple of so many slots, half of them to spare when it grows, and one more for each so many that it
has: to copy all costs as much as some steps' attention, and each slot to spare a little of every step's."""

Kept = tuple[Tensor, Tensor]
"""Keys and values of one row and layer, (kv_heads, slots, head_dim)."""


@dataclass(frozen=True)
class RowCopy:
    """What a row holds: its tokens' keys and values by layer."""

    layers: list[Kept]
    length: int


@dataclass
class Reading:
    """The pass that reads whole texts into rows, as a `Store`; see `CausalLM.forward` for `positions`."""

    layers: Sequence[LayerStore]
    positions: Tensor
    length: int = 0


@dataclass
class RowsStep:
    """The pass that adds a token to each row, as a `Store` and a `Step`; see `CausalLM.forward` for `positions` and
    `visible`, which is added to scores here: all layers add it as it is. `even`: whether the rows are of one length, so
    that they are written by one copy, in a tenth of the time.
    """

    positions: Tensor
    visible: Tensor
    keys: list[Tensor]
    values: list[Tensor]
    windows: list[int | None]
    even: bool
    length: int = 0

    @property
    def layers(self) -> Sequence[LayerStore]:
        layers = zip(self.keys, self.values, self.windows, strict=True)
        last = self.positions[:, 0]
        return [_Slots(keys, values, _slots(last, w), self.even) for keys, values, w in layers]

    @property
    def kind(self) -> Hashable:
        return self.keys[0].dtype, self.even, len(self.positions) == 1

    @property
    def tensors(self) -> StepTensors:
        return self.positions, self.visible, self.keys, self.values

    @property
    def of(self) -> "Callable[..., RowsStep]":
        return partial(RowsStep, windows=self.windows, even=self.even)


class BatchCache:
    """`rows` rows of keys and values; row i holds `lengths[i]` tokens.

    A pass is asked for just before it is run, and the lengths count its tokens from then on. `dtype` is that of the
    kept keys and values; None: `cache.kept_as` says it.
    """

    def __init__(self, config: ModelConfig, rows: int, dtype: torch.dtype | None = None) -> None:
        self.lengths = [0] * rows
        self._layers = [_LayerRows(config.window(i), rows, dtype) for i in range(config.num_layers)]

    def entering(self, rows: Sequence[int], lengths: Sequence[int], device: torch.device) -> Reading:
        """The pass that reads whole texts into rows, whatever these held: ids (texts, longest), each text from the
        first column on; what stands behind it is not kept."""
        for row, length in zip(rows, lengths, strict=True):
            self.lengths[row] = length
        ends = torch.tensor(lengths, device=device)[:, None]
        # What stands behind a text counts as its last token, so that no position lies outside the text.
        positions = torch.minimum(torch.arange(max(lengths), device=device)[None], ends - 1)
        return Reading([_Entering(layer, rows, lengths) for layer in self._layers], positions)

    def decoding(self, count: int, device: torch.device) -> RowsStep:
        """The pass that adds a token to each of the first `count` rows: ids (count, 1)."""
        lengths = self.lengths[:count]
        positions = torch.tensor(lengths, device=device)
        slots = max(layer.make_room(max(lengths) + 1) for layer in self._layers)
        seen = (torch.arange(slots, device=device) <= positions[:, None])[:, None, None]
        visible = added_mask(seen)
        self.lengths[:count] = [length + 1 for length in lengths]
        keys, values = zip(*(layer.buffers for layer in self._layers), strict=True)
        windows = [layer.window for layer in self._layers]
        even = len(set(lengths)) == 1
        return RowsStep(positions[:, None], visible, list(keys), list(values), windows, even)

    @torch.inference_mode()
    def copy(self, row: int) -> RowCopy:
        """What a row holds, to be put into others; it stays as it is when the row changes."""
        length = self.lengths[row]
        return RowCopy([layer.copy(row, length) for layer in self._layers], length)

    @torch.inference_mode()
    def put(self, row: int, kept: RowCopy) -> None:
        """Has a row hold what another one held."""
        self.lengths[row] = kept.length
        for layer, each in zip(self._layers, kept.layers, strict=True):
            layer.put(row, each)

    @torch.inference_mode()
    def reorder(self, rows: Sequence[int]) -> None:
        """Row i becomes what row `rows[i]` was."""
        lengths = [self.lengths[row] for row in rows]
        self.lengths[: len(rows)] = lengths
        for layer in self._layers:
            layer.reorder(rows, max(lengths))

    @property
    def allocated_bytes(self) -> int:
        return sum(layer.allocated_bytes for layer in self._layers)


class _LayerRows:
    """The rows of one layer: two buffers (rows, kv_heads, slots, head_dim).

    They begin as zeros, because attention multiplies also what it may not look at, by 0.
    """

    def __init__(self, window: int | None, rows: int, dtype: torch.dtype | None) -> None:
        self.window = window
        self._rows = rows
        self._dtype = dtype
        self.buffers: list[Tensor] = []

    def enter(self, new: Kept, rows: Sequence[int], lengths: Sequence[int]) -> Kept:
        """Takes in whole texts; new (texts, kv_heads, longest, head_dim), which it returns as they are kept."""
        self._reserve(max(lengths), new[0])
        kept: list[Tensor] = []
        for buffer, tensor in zip(self.buffers, new, strict=True):
            stored = tensor.to(buffer.dtype)
            for text, (row, length) in enumerate(zip(rows, lengths, strict=True)):
                start = 0 if self.window is None else max(0, length - self.window)
                if start == 0:
                    buffer[row, :, :length] = stored[text, :, :length]
                else:
                    buffer[row, :, _slots(torch.arange(start, length), self.window)] = stored[text, :, start:length]
            kept.append(stored)
        return kept[0], kept[1]

    def copy(self, row: int, length: int) -> Kept:
        keys, values = (buffer[row, :, :length].clone() for buffer in self.buffers)
        return keys, values

    def put(self, row: int, kept: Kept) -> None:
        for buffer, tensor in zip(self.buffers, kept, strict=True):
            buffer[row, :, : tensor.shape[1]] = tensor

    def reorder(self, rows: Sequence[int], longest: int) -> None:
        for buffer in self.buffers:
            buffer[: len(rows), :, :longest] = buffer[list(rows), :, :longest]

    @property
    def allocated_bytes(self) -> int:
        return sum(buffer.numel() * buffer.element_size() for buffer in self.buffers)

    def make_room(self, tokens: int) -> int:
        """Room for texts of `tokens` tokens, where texts were taken in before; how many slots there are then."""
        if self.buffers:
            self._reserve(tokens, self.buffers[0])
        return self.buffers[0].shape[2] if self.buffers else 0

    def _reserve(self, tokens: int, like: Tensor) -> None:
        old = self.buffers[0].shape[2] if self.buffers else 0
        needed = tokens if self.window is None else min(tokens, self.window)
        if needed <= old:
            return
        size = -(-(needed + _SPARE // 2 + needed // _SPARE) // _SPARE) * _SPARE
        size = size if self.window is None else min(size, self.window)
        _, heads, _, width = like.shape
        dtype = self.buffers[0].dtype if self.buffers else self._dtype or kept_as(like)
        grown = [torch.zeros(self._rows, heads, size, width, dtype=dtype, device=like.device) for _ in range(2)]
        for buffer, before in zip(grown, self.buffers, strict=False):
            buffer[:, :, :old] = before
        self.buffers = grown


@dataclass
class _Entering:
    layer: _LayerRows
    rows: Sequence[int]
    lengths: Sequence[int]

    def append(self, keys: Tensor, values: Tensor) -> Kept:
        return self.layer.enter((keys, values), self.rows, self.lengths)


@dataclass
class _Slots:
    """The rows of a layer, and the slot of each row's new token."""

    keys: Tensor
    values: Tensor
    slots: Tensor
    even: bool

    def append(self, keys: Tensor, values: Tensor) -> Kept:
        """Writes the new tokens (rows, kv_heads, 1, head_dim); all slots of the rows."""
        if self.even:
            return _put_alike(self.keys, self.values, keys, values, self.slots)
        return self._put(self.keys, keys), self._put(self.values, values)

    def _put(self, buffer: Tensor, new: Tensor) -> Tensor:
        rows = buffer[: new.shape[0]]
        rows[torch.arange(new.shape[0], device=new.device), :, self.slots] = new[:, :, 0].to(buffer.dtype)
        return rows


@scripted
def _put_alike(
    keys: Tensor, values: Tensor, new_keys: Tensor, new_values: Tensor, slots: Tensor
) -> tuple[Tensor, Tensor]:
    slot, count = int(slots[0]), new_keys.shape[0]
    keys, values = keys.narrow(0, 0, count), values.narrow(0, 0, count)
    keys.narrow(2, slot, 1).copy_(new_keys)
    values.narrow(2, slot, 1).copy_(new_values)
    return keys, values


def _slots(positions: Tensor, window: int | None) -> Tensor:
    """Where the tokens at these positions lie."""
    return positions if window is None else positions % window
