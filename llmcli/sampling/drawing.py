"""The random numbers of a sequence, and the draw from what the filters left."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# The streams of random numbers of one seed: that of the draws, and that of filters which act by chance.
DRAWS, CHANCES = 0, 1


class Uniforms:
    """One random number in [0, 1) for each position of one sequence, by a seeded `torch.Generator` of its own.

    Number i depends on the seed, the stream and i alone, so a position can be drawn again, or out of turn.
    """

    _BLOCK = 64

    def __init__(self, seed: int, stream: int = DRAWS) -> None:
        self._generator = torch.Generator().manual_seed(seed if stream == DRAWS else _mixed(seed, stream))
        self._drawn: list[float] = []

    def __getitem__(self, position: int) -> float:
        while position >= len(self._drawn):
            block = torch.rand(self._BLOCK, generator=self._generator, dtype=torch.float64)
            self._drawn.extend(block.tolist())
        return self._drawn[position]


def _mixed(seed: int, stream: int) -> int:
    """A seed of its own for another stream (splitmix64: Steele et al. 2014), below 2**63."""
    mask = (1 << 64) - 1
    z = (seed + stream * 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return (z ^ (z >> 31)) >> 1


_ROW = 256


def draw(logits: Tensor, uniform: float) -> tuple[int, float]:
    """The candidate in whose share of softmax(logits) `uniform` falls, laid end to end, and that share.

    logits (candidates), some finite; uniform in [0, 1). Never a candidate of probability 0. The sums are taken row by
    row in double precision, so that only one row has to be walked.
    """
    array = logits.numpy()
    n = len(array)
    shares = np.zeros(-(-n // _ROW) * _ROW, dtype=np.float32)
    np.exp(array - array.max(), out=shares[:n])
    rows = shares.reshape(-1, _ROW)
    ends = np.cumsum(rows.sum(axis=1, dtype=np.float64))
    total = float(ends[-1])
    row, target = _walk(ends, uniform * total)
    inside = np.cumsum(rows[row], dtype=np.float64)
    index, _ = _walk(inside, target)
    return row * _ROW + index, float(rows[row, index]) / total


def _walk(ends: NDArray[np.float64], target: float) -> tuple[int, float]:
    """Which of the stretches that end at `ends` holds `target`, and how far into it. Never an empty stretch, also
    where rounding has brought the target to the very end."""
    target = min(target, math.nextafter(float(ends[-1]), 0.0))
    index = int(np.searchsorted(ends, target, side="right"))
    return index, target - (float(ends[index - 1]) if index else 0.0)
