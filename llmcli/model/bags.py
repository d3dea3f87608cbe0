"""Attention of few queries as embedding bags: weighted sums of a table's rows, for which there is a kernel that reads
the table as fast as memory gives it.

A score is a sum of a key's channels, weighted by the query's; so the table's rows are channels of keys, and keys are
kept with their slots side by side, a block of them in a row. What attention gives is a sum of values, weighted by the
softmax of the scores; so values are rows as they are.

One query after 900 tokens, a layer of many in turn, 2 cores of an AMD EPYC (Zen 4), microseconds: 12 heads of 64
channels 209 by PyTorch's own kernel, 156 so, 94 with keys and values in float16; 9 heads on 3 112, 65 and 49. After 50
tokens 38, 36 and 34; 28, 23 and 25. Nine queries after 900: 413, 355 and 252; 241, 225 and 170.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from llmcli.model.scripted import scripted

BLOCK = 128
"""Slots of a block: a row of the table of keys."""
FEW = 17
"""Queries that are faster so, at most."""


class Bags(NamedTuple):
    """Which rows are added up. A bag of keys for each head, query and block, in that order; its rows are the channels
    of the block. A bag of values for each head and query; its rows are the tokens.

    keys, values            rows, int32
    key_bags, value_bags    where each bag begins, int32
    hidden                  (queries, tokens) float32, added to the scores: what a query may not see; None for one query
    """

    keys: Tensor
    key_bags: Tensor
    values: Tensor
    value_bags: Tensor
    hidden: Tensor | None = None


class Index:
    """Makes `Bags` for texts of all lengths: `heads` on `kv_heads` of `width` channels."""

    def __init__(self, heads: int, kv_heads: int, width: int) -> None:
        self._kv_head_of = torch.arange(kv_heads, dtype=torch.int32).repeat_interleave(heads // kv_heads)
        self._width = width
        self._of: tuple[int, ...] = ()
        self._keys = self._key_bags = self._first = self._tokens = self._bags = torch.empty(0)
        self._asked: tuple[int, ...] = ()
        self._made: Bags | None = None

    def __call__(self, tokens: int, capacity: int, queries: int) -> Bags:
        """For the last `queries` of so many tokens, in buffers of `capacity` slots, a multiple of `BLOCK`."""
        if self._made is None or self._asked != (tokens, capacity, queries):
            self._asked = tokens, capacity, queries
            self._made = self._make(tokens, capacity, queries)
        return self._made

    def _make(self, tokens: int, capacity: int, queries: int) -> Bags:
        of = -(-tokens // BLOCK), capacity, queries
        if of != self._of:
            self._prepare(*of)
            self._of = of
        values = (self._first + self._tokens[:tokens]).view(-1)
        hidden = None
        if queries > 1:
            hidden = torch.full((queries, tokens), float("-inf")).triu_(tokens - queries + 1)
        return Bags(self._keys, self._key_bags, values, self._bags * tokens, hidden)

    def _prepare(self, blocks: int, capacity: int, queries: int) -> None:
        """What stays as it is until a text needs another block."""
        kv_heads = self._kv_head_of.repeat_interleave(queries)[:, None]
        rows = blocks * self._width
        self._keys = (kv_heads * (capacity // BLOCK * self._width) + _counted(rows)).view(-1)
        self._key_bags = _counted(len(self._keys))[:: self._width].contiguous()
        self._first, self._tokens = kv_heads * capacity, _counted(capacity)
        self._bags = _counted(len(kv_heads))


def _counted(count: int) -> Tensor:
    return torch.arange(count, dtype=torch.int32)


def attend_in_bags(q: Tensor, keys: Tensor, values: Tensor, bags: Bags, scale: float) -> Tensor:
    """softmax(QK^T * scale) V for a text's last queries.

    q (1, heads, queries, d); keys (1, kv_heads, blocks, d, BLOCK); values (1, kv_heads, slots, d) -> (1, heads,
    queries, d) in the dtype of keys and values.
    """
    return _attend(q, keys, values, *bags, scale)


@scripted
def _attend(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    key_rows: Tensor,
    key_bags: Tensor,
    value_rows: Tensor,
    value_bags: Tensor,
    hidden: Tensor | None,
    scale: float,
) -> Tensor:
    heads, queries, width = q.shape[1], q.shape[2], q.shape[3]
    blocks = key_bags.shape[0] // (heads * queries)
    channels = (q.to(torch.float32) * scale).to(keys.dtype).reshape(-1, 1, width).expand(-1, blocks, -1).reshape(-1)
    table = keys.view(-1, keys.shape[-1])
    scores = torch.embedding_bag(table, key_rows, key_bags, False, 0, False, channels)[0].view(heads, queries, -1)
    scores = scores.narrow(2, 0, value_rows.shape[0] // (heads * queries))
    if hidden is not None:
        scores = scores + hidden
    weights = scores.softmax(-1, dtype=torch.float32).to(values.dtype).reshape(-1)
    table = values.view(-1, width)
    found = torch.embedding_bag(table, value_rows, value_bags, False, 0, False, weights)[0]
    return found.view(q.shape)


@scripted
def put_in_blocks(keys: Tensor, new: Tensor, start: int) -> Tensor:
    """Writes new keys (batch, kv_heads, new, d) into the slots from `start` on of keys (batch, kv_heads, blocks, d,
    BLOCK), which it returns."""
    width, count, done = keys.shape[-1], new.shape[2], 0
    while done < count:
        block, offset = (start + done) // width, (start + done) % width
        some = min(count - done, width - offset)
        slots = keys.select(2, block).narrow(-1, offset, some)
        slots.copy_(new.narrow(2, done, some).transpose(-1, -2))
        done += some
    return keys


@scripted
def out_of_blocks(keys: Tensor, tokens: int) -> Tensor:
    """A copy of the first keys, (batch, kv_heads, tokens, d)."""
    return keys.transpose(-1, -2).flatten(2, 3)[:, :, :tokens]
