"""Which tokens each step reads: fixed by seed and step alone, so that a resumed run reads what it would have read."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from llmcli.train.tokens import TokenFile


@dataclass(frozen=True)
class Batch:
    ids: Tensor
    """(rows, length) int64."""
    targets: Tensor
    """(rows, length) int64: the token after each."""
    positions: Tensor | None
    """(rows, length), counted from each document's start; None where no document begins inside a row."""
    visible: Tensor | None
    """(rows, 1, length, length) bool: causal and within one document; None as above."""

    def to(self, device: str) -> "Batch":
        positions = None if self.positions is None else self.positions.to(device)
        visible = None if self.visible is None else self.visible.to(device)
        return Batch(self.ids.to(device), self.targets.to(device), positions, visible)


class Batches:
    """Cuts the corpus into stretches of `unit` tokens and deals them out in a new random order every epoch."""

    def __init__(self, tokens: TokenFile, unit: int, batch_tokens: int, seed: int) -> None:
        self.tokens, self.unit, self.seed = tokens, unit, seed
        self.per_step = batch_tokens // unit
        self.units = (len(tokens.ids) - 1) // unit
        self._epoch = -1
        self._order: npt.NDArray[np.int64] = np.empty(0, dtype=np.int64)

    def step(self, step: int, length: int, rank: int = 0, world: int = 1) -> Batch:
        """The rows of this process for one optimizer step, each `length` tokens (a divisor of the unit)."""
        first = step * self.per_step
        stretches = [self._unit(first + i) for i in range(rank, self.per_step, world)]
        rows = np.stack([s[i : i + length + 1] for s in stretches for i in range(0, self.unit, length)])
        return make_batch(rows, self.tokens.start_id)

    def _unit(self, index: int) -> npt.NDArray[np.int64]:
        epoch, at = divmod(index, self.units)
        if epoch != self._epoch:
            self._order = np.random.default_rng((self.seed, epoch)).permutation(self.units)
            self._epoch = epoch
        start = int(self._order[at]) * self.unit
        return self.tokens.ids[start : start + self.unit + 1].astype(np.int64)


def make_batch(rows: npt.NDArray[np.int64], start_id: int) -> Batch:
    """rows (rows, length + 1) -> inputs, targets, and the borders of documents where there are any."""
    ids, targets = torch.from_numpy(rows[:, :-1].copy()), torch.from_numpy(rows[:, 1:].copy())
    begins = ids == start_id
    if not bool(begins[:, 1:].any()):
        return Batch(ids, targets, None, None)
    index = torch.arange(ids.shape[1]).expand_as(ids)
    document_start = torch.where(begins, index, 0).cummax(dim=1).values
    same = document_start[:, :, None] == document_start[:, None, :]
    causal = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).tril()
    return Batch(ids, targets, index - document_start, (same & causal)[:, None])


def split_batch(batch: Batch, micro_tokens: int) -> Iterator[Batch]:
    """Rows of a batch in parts of at most `micro_tokens` tokens, at least one row each."""
    rows = max(1, micro_tokens // batch.ids.shape[1])
    for start in range(0, batch.ids.shape[0], rows):
        part = slice(start, start + rows)
        positions = batch.positions[part] if batch.positions is not None else None
        visible = batch.visible[part] if batch.visible is not None else None
        yield Batch(batch.ids[part], batch.targets[part], positions, visible)
