"""The KV cache of several texts that are decoded together: a row each, of its own length.

The token at position p of a text lies in slot p of its row. A sliding layer has as many slots as its window, and p lies
in slot p mod window: what it is written over no later query can see. The order of the slots does not matter to
attention, since keys are rotated before they come here. So for every layer alike a query at position p may look at the
slots up to p.

A decode step gets a layer's slots all, filled or not: rows that follow one another in memory without a gap are read
from it twice as fast. So there are few more slots than tokens, and a buffer grows often, by little.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from llmcli.model.cache import LayerStore, read_as
from llmcli.model.config import ModelConfig

_SPARE = 16
"""Slots that a buffer grows by at least, and one more for so many that it has: to copy all costs as much as some steps'
attention, and each slot to spare a little of every step's."""

_Positions = TypeVar("_Positions", int, Tensor)

Kept = tuple[Tensor, Tensor]
"""Keys and values of one row and layer, (kv_heads, slots, head_dim)."""


@dataclass(frozen=True)
class RowCopy:
    """What a row holds: its tokens' keys and values by layer."""

    layers: list[Kept]
    length: int


@dataclass
class Pass:
    """What one forward pass sees of a `BatchCache`; see `CausalLM.forward` for `positions` and `visible`."""

    layers: Sequence[LayerStore]
    positions: Tensor
    visible: Tensor | None
    length: int = 0


class BatchCache:
    """`rows` rows of keys and values; row i holds `lengths[i]` tokens.

    A pass is asked for just before it is run, and the lengths count its tokens from then on. `dtype` is that of the
    stored keys and values; None: the one that attention reads them in.
    """

    def __init__(self, config: ModelConfig, rows: int, dtype: torch.dtype | None = None) -> None:
        self.lengths = [0] * rows
        self._layers = [_LayerRows(config.window(i), rows, dtype) for i in range(config.num_layers)]

    def entering(self, rows: Sequence[int], lengths: Sequence[int], device: torch.device) -> Pass:
        """The pass that reads whole texts into rows, whatever these held: ids (texts, longest), each text from the
        first column on; what stands behind it is not kept."""
        for row, length in zip(rows, lengths, strict=True):
            self.lengths[row] = length
        ends = torch.tensor(lengths, device=device)[:, None]
        # What stands behind a text counts as its last token, so that no position lies outside the text.
        positions = torch.minimum(torch.arange(max(lengths), device=device)[None], ends - 1)
        return Pass([_Entering(layer, rows, lengths) for layer in self._layers], positions, None)

    def decoding(self, count: int, device: torch.device) -> Pass:
        """The pass that adds a token to each of the first `count` rows: ids (count, 1)."""
        lengths = self.lengths[:count]
        positions = torch.tensor(lengths, device=device)
        slots = max(layer.make_room(max(lengths) + 1) for layer in self._layers)
        visible = (torch.arange(slots, device=device) <= positions[:, None])[:, None, None]
        self.lengths[:count] = [length + 1 for length in lengths]
        even = lengths[0] if len(set(lengths)) == 1 else None
        return Pass([_Decoding(layer, positions, even) for layer in self._layers], positions[:, None], visible)

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
        self._buffers: list[Tensor] = []

    def enter(self, new: Kept, rows: Sequence[int], lengths: Sequence[int]) -> Kept:
        """Takes in whole texts; new (texts, kv_heads, longest, head_dim), which it returns as they will be read."""
        self._reserve(max(lengths), new[0])
        read: list[Tensor] = []
        for buffer, tensor in zip(self._buffers, new, strict=True):
            stored = tensor.to(buffer.dtype)
            for text, (row, length) in enumerate(zip(rows, lengths, strict=True)):
                start = 0 if self.window is None else max(0, length - self.window)
                if start == 0:
                    buffer[row, :, :length] = stored[text, :, :length]
                else:
                    buffer[row, :, self._slots(torch.arange(start, length))] = stored[text, :, start:length]
            read.append(stored.to(read_as(tensor)))
        return read[0], read[1]

    def step(self, new: Kept, positions: Tensor, even: int | None) -> Kept:
        """Adds a token to each row, for which there is room; new (rows, kv_heads, 1, head_dim). Returns all slots.
        `even`: the position of all rows where it is one, which is written in a tenth of the time."""
        count = new[0].shape[0]
        if even is not None:
            for buffer, tensor in zip(self._buffers, new, strict=True):
                buffer[:count].narrow(2, self._slots(even), 1).copy_(tensor)
        else:
            rows, slots = torch.arange(count, device=positions.device), self._slots(positions)
            for buffer, tensor in zip(self._buffers, new, strict=True):
                buffer[rows, :, slots] = tensor[:, :, 0].to(buffer.dtype)
        keys, values = (buffer[:count].to(read_as(new[0])) for buffer in self._buffers)
        return keys, values

    def copy(self, row: int, length: int) -> Kept:
        keys, values = (buffer[row, :, :length].clone() for buffer in self._buffers)
        return keys, values

    def put(self, row: int, kept: Kept) -> None:
        for buffer, tensor in zip(self._buffers, kept, strict=True):
            buffer[row, :, : tensor.shape[1]] = tensor

    def reorder(self, rows: Sequence[int], longest: int) -> None:
        for buffer in self._buffers:
            buffer[: len(rows), :, :longest] = buffer[list(rows), :, :longest]

    @property
    def allocated_bytes(self) -> int:
        return sum(buffer.numel() * buffer.element_size() for buffer in self._buffers)

    def _slots(self, positions: _Positions) -> _Positions:
        return positions if self.window is None else positions % self.window

    def make_room(self, tokens: int) -> int:
        """Room for texts of `tokens` tokens, where texts were taken in before; how many slots there are then."""
        if self._buffers:
            self._reserve(tokens, self._buffers[0])
        return self._buffers[0].shape[2] if self._buffers else 0

    def _reserve(self, tokens: int, like: Tensor) -> None:
        old = self._buffers[0].shape[2] if self._buffers else 0
        needed = tokens if self.window is None else min(tokens, self.window)
        if needed <= old:
            return
        size = needed + _SPARE + needed // _SPARE
        size = size if self.window is None else min(size, self.window)
        _, heads, _, width = like.shape
        dtype = self._buffers[0].dtype if self._buffers else self._dtype or read_as(like)
        grown = [torch.zeros(self._rows, heads, size, width, dtype=dtype, device=like.device) for _ in range(2)]
        for buffer, before in zip(grown, self._buffers, strict=False):
            buffer[:, :, :old] = before
        self._buffers = grown


@dataclass
class _Entering:
    layer: _LayerRows
    rows: Sequence[int]
    lengths: Sequence[int]

    def append(self, keys: Tensor, values: Tensor) -> Kept:
        return self.layer.enter((keys, values), self.rows, self.lengths)


@dataclass
class _Decoding:
    layer: _LayerRows
    positions: Tensor
    even: int | None

    def append(self, keys: Tensor, values: Tensor) -> Kept:
        return self.layer.step((keys, values), self.positions, self.even)
