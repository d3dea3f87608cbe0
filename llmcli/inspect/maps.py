"""Attention weights as they are computed: kept for the maps asked for, added up for every head's summary.

No more than a few megabytes beside the maps themselves are held at any time, however many heads a layer has.
"""

from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from llmcli.inspect.patterns import PatternSums
from llmcli.model.attend import attention_scores, attention_weights, causal_mask, full_mask
from llmcli.model.cache import KVCache
from llmcli.model.config import ModelConfig

Floats = NDArray[np.float32]

_CELLS = 1 << 21  # of attention weights that are worked on at once: 8 MB


@dataclass(frozen=True)
class Wanted:
    """A map to keep: of one head, or the mean over `members`, pairs of layer and head."""

    layer: int | None
    head: int | None
    members: tuple[tuple[int, int], ...]


@dataclass
class Kept:
    """A map in the making: weights, and where asked for scores, (queries, keys) of as many tokens as may come."""

    wanted: Wanted
    weights: Floats
    scores: Floats | None


@dataclass
class AttentionTap:
    """A tap that reads attention weights of every head, in the first pass from queries and keys, block by block, and
    in cached steps from the model's own record of the one new row.

    config    of the model
    ids       of the tokens; may grow while a generation runs
    wanted    the maps to keep
    size      the most tokens that will be fed
    cache     of the generation; None for a single pass
    """

    config: ModelConfig
    ids: list[int]
    wanted: Collection[Wanted]
    size: int
    cache: KVCache | None = None
    keep_scores: bool = False
    sums: PatternSums = field(init=False)
    kept: list[Kept] = field(init=False)

    def __post_init__(self) -> None:
        self.sums = PatternSums(self.ids, self.config.num_layers, self.config.num_heads)
        self.kept = [Kept(each, self._empty(), self._empty() if self.keep_scores else None) for each in self.wanted]
        self._query: Tensor | None = None
        self._scores: Tensor | None = None
        self._start = 0
        self._summed = True
        self._members = [
            {layer: [h for at, h in each.members if at == layer] for layer, _ in each.members} for each in self.wanted
        ]

    def _empty(self) -> Floats:
        return np.zeros((self.size, self.size), dtype=np.float32)

    # --- the tap ---

    def __call__(self, point: str, layer: int, value: Tensor) -> Tensor:
        if point == "embedding":
            self._begin()
        elif point == "rotated_query":
            self._query = value
        elif point == "rotated_key" and self._start == 0:
            assert self._query is not None
            self._read_pass(layer, self._query, value)
        elif point == "scores":
            self._scores = value
        elif point == "weights":
            assert self._scores is not None
            self._read_step(layer, value, self._scores)
        return value

    def heads(self, layer: int) -> Collection[int] | None:  # noqa: ARG002
        return range(self.config.num_heads) if self._start else None

    def _begin(self) -> None:
        """A forward pass begins; one from the first token on, be it the first or another one, replaces all rows."""
        self._start = 0 if self.cache is None else self.cache.length
        if self._start == 0:
            self.sums.clear()
            for each in self.kept:
                each.weights[:] = 0
                if each.scores is not None:
                    each.scores[:] = 0

    # --- what it reads ---

    def _read_pass(self, layer: int, query: Tensor, key: Tensor) -> None:
        """All rows of a pass: query (1, heads, n, d), key (1, kv_heads, n, d), both rotated."""
        heads, length = query.shape[1], query.shape[2]
        rows = min(length, max(1, _CELLS // length))
        group = heads // key.shape[1]
        for head in range(heads):
            for first in range(0, length, rows):
                part = query[:, head : head + 1, first : first + rows]
                seen = key[:, head // group : head // group + 1, : first + part.shape[2]]
                self._read_block(layer, head, part, seen, first)
                if self.keep_scores:
                    self._keep_scores(layer, head, part, key[:, head // group : head // group + 1], first)

    def _read_block(self, layer: int, head: int, query: Tensor, key: Tensor, first: int) -> None:
        attention = self._scores_of(layer, query, key)
        window = self.config.window(layer)
        mask = full_mask(causal_mask(query.shape[2], key.shape[2], window, query.device), query, key)
        weights = attention_weights(attention, mask)[0].float().cpu().numpy()
        self.sums.add(layer, slice(head, head + 1), weights, first, window)
        self._keep(layer, head, weights[0], first)

    def _scores_of(self, layer: int, query: Tensor, key: Tensor) -> Tensor:
        return attention_scores(query, key, self.config.scale(layer), self.config.attention_softcap)

    def _keep_scores(self, layer: int, head: int, query: Tensor, key: Tensor, first: int) -> None:
        """Scores of all pairs, those that the mask will hide included."""
        scores: Tensor | None = None
        for kept, share in self._shares(layer, head):
            if kept.scores is not None:
                scores = self._scores_of(layer, query, key)[0, 0].float().cpu() if scores is None else scores
                kept.scores[first : first + scores.shape[0], : scores.shape[1]] += scores.numpy() * share

    def _read_step(self, layer: int, weights: Tensor, scores: Tensor) -> None:
        """The new rows of a cached step: (1, heads, queries, keys), the keys the last ones where a window slides."""
        rows, keys = weights.shape[2], weights.shape[3]
        total = self._start + rows
        full = np.zeros((weights.shape[1], rows, total), dtype=np.float32)
        full[:, :, total - keys :] = weights[0].float().cpu().numpy()
        self.sums.add(layer, slice(0, weights.shape[1]), full, self._start, self.config.window(layer))
        for head in range(weights.shape[1]):
            self._keep(layer, head, full[head], self._start)
            for kept, share in self._shares(layer, head):
                if kept.scores is not None:
                    part = scores[0, head].float().cpu().numpy()
                    kept.scores[self._start : total, total - keys : total] += part * share

    def _keep(self, layer: int, head: int, weights: Floats, first: int) -> None:
        for kept, share in self._shares(layer, head):
            rows = kept.weights[first : first + weights.shape[0], : weights.shape[1]]
            rows += weights * share if share != 1 else weights

    def _shares(self, layer: int, head: int) -> list[tuple[Kept, np.float32]]:
        """The maps that this head is a part of, each with its share in the mean."""
        return [
            (kept, np.float32(1 / len(kept.wanted.members)))
            for kept, members in zip(self.kept, self._members, strict=True)
            if head in members.get(layer, ())
        ]
