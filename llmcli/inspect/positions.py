"""A learned table of positions, looked at: its waves, its likeness from place to place, its redundancy."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from llmcli.errors import UsageError
from llmcli.inspect.running import Doubles, Floats

if TYPE_CHECKING:
    from llmcli.pipeline import Pipeline

_FINER = 4  # frequencies looked at between two of the discrete Fourier transform
_SHARES = (0.9, 0.99)


@dataclass(frozen=True)
class Wave:
    """The one sinusoid a * cos(2 pi f m) + b * sin(2 pi f m) + c that explains most of a channel's variance.

    frequency   f, cycles a position; None for a channel that is the same everywhere
    wavelength  1 / f, positions
    explained   share of the variance, 0 to 1
    spread      the channel's standard deviation over the positions
    """

    channel: int
    frequency: float | None
    wavelength: float | None
    explained: float
    spread: float


@dataclass(frozen=True)
class Redundancy:
    """How many principal components carry this share of the variance."""

    share: float
    components: int


@dataclass(frozen=True)
class LearnedTable:
    """table       (positions, channels) float32
    waves       one for each channel
    similarity  (positions, positions) float32, cosine of two positions' vectors
    variance    share of the variance that each principal component carries, largest first
    redundancy  how many components carry 90 and 99 %
    """

    table: Floats
    waves: list[Wave]
    similarity: Floats
    variance: Doubles
    redundancy: list[Redundancy]

    @property
    def cumulative(self) -> Doubles:
        """Share of the variance that so many of the first principal components carry."""
        return np.cumsum(self.variance)

    @property
    def median_explained(self) -> float:
        """What one sinusoid explains of a channel, in the median of all channels."""
        return sorted(wave.explained for wave in self.waves)[len(self.waves) // 2]


def learned_table(pipeline: "Pipeline") -> LearnedTable:
    """Raises `UsageError` for a model without such a table."""
    if not pipeline.model.config.learned_positions:
        raise UsageError(f"{pipeline.name} has no learned table of positions", "it has RoPE, which this view shows too")
    weight = pipeline.model.positions.weight
    table: Floats = weight.detach().float().cpu().numpy()
    variance = principal_variance(table)
    return LearnedTable(
        table=table,
        waves=waves(table),
        similarity=cosine_similarity(table),
        variance=variance,
        redundancy=[Redundancy(share, components_for(variance, share)) for share in _SHARES],
    )


def waves(table: Floats) -> list[Wave]:
    """The best sinusoid of each channel by least squares, between half a cycle on the whole table and just below half
    a cycle a position: the best of four frequencies to each cycle on the table, then the top of the parabola through
    it and its neighbours. table (positions, channels)."""
    n, channels = table.shape
    x = table.astype(np.float64)
    spread = x.std(axis=0)
    x = x - x.mean(axis=0)
    flat = spread <= 1e-6 * np.maximum(1.0, np.abs(table).max(axis=0))
    if n < 8:
        flat[:] = True
    frequency = np.zeros(channels) if flat.all() else _best_frequencies(x)
    explained = _explained(x, frequency)
    return [
        Wave(c, None, None, 0.0, float(spread[c]))
        if flat[c]
        else Wave(c, float(frequency[c]), float(1 / frequency[c]), float(explained[c]), float(spread[c]))
        for c in range(channels)
    ]


def _best_frequencies(x: Doubles) -> Doubles:
    """(channels), cycles a position. x (positions, channels), each channel's mean taken off."""
    n = x.shape[0]
    grid = _FINER * n
    bins = np.arange(_FINER // 2, grid // 2)  # frequency bins / grid
    # Sums of x cos and x sin over the positions, at all frequencies: one transform, padded with zeros.
    transform = np.fft.rfft(x, n=grid, axis=0)[bins]
    xc, xs = transform.real, -transform.imag  # (frequencies, channels)
    cc, cs, ss = (each[:, None] for each in _gram(n, grid, bins))
    power = (ss * xc**2 - 2 * cs * xc * xs + cc * xs**2) / (cc * ss - cs**2)
    best = power.argmax(axis=0)
    inner = np.clip(best, 1, len(bins) - 2)
    low, middle, high = (np.take_along_axis(power, (inner + i)[None], 0)[0] for i in (-1, 0, 1))
    bend = low - 2 * middle + high
    shift = np.where(bend < 0, 0.5 * (low - high) / np.where(bend < 0, bend, -1.0), 0.0)
    refined = (bins[inner] + np.clip(shift, -1, 1)) / grid
    coarse = bins[best] / grid
    better: Doubles = np.where(_explained(x, refined) >= _explained(x, coarse), refined, coarse)
    return better


def _explained(x: Doubles, frequency: Doubles) -> Doubles:
    """Share of each channel's variance that a * cos + b * sin + c explains at its frequency. x (positions, channels)"""
    angles = 2 * np.pi * np.arange(x.shape[0])[:, None] * frequency
    cos, sin = np.cos(angles), np.sin(angles)
    cos, sin = cos - cos.mean(axis=0), sin - sin.mean(axis=0)
    cc, ss, cs = (cos**2).sum(0), (sin**2).sum(0), (cos * sin).sum(0)
    xc, xs, total = (x * cos).sum(0), (x * sin).sum(0), (x**2).sum(0)
    determinant = cc * ss - cs**2
    safe = (determinant > 0) & (total > 0)
    fitted = (ss * xc**2 - 2 * cs * xc * xs + cc * xs**2) / np.where(safe, determinant * total, 1.0)
    share: Doubles = np.where(safe, np.clip(fitted, 0.0, 1.0), 0.0)
    return share


def _gram(n: int, grid: int, bins: "np.ndarray[tuple[int], np.dtype[np.int64]]") -> tuple[Doubles, Doubles, Doubles]:
    """Sums of cos^2, cos sin and sin^2 over the positions, each less its mean, at the frequencies bins / grid."""
    ones = np.fft.fft(np.ones(n), n=grid)
    once, twice = np.conj(ones[bins]), np.conj(ones[(2 * bins) % grid])  # sums of exp(i w m) and exp(2 i w m)
    cc = (n + twice.real) / 2 - once.real**2 / n
    ss = (n - twice.real) / 2 - once.imag**2 / n
    cs = twice.imag / 2 - once.real * once.imag / n
    return cc, cs, ss


def cosine_similarity(table: Floats) -> Floats:
    """(positions, positions): the cosine of the angle between two positions' vectors; 0 for a vector of zeros."""
    norms = np.linalg.norm(table.astype(np.float64), axis=1, keepdims=True)
    unit = table / np.where(norms > 0, norms, 1.0)
    return np.clip(unit @ unit.T, -1.0, 1.0).astype(np.float32)


def principal_variance(table: Floats) -> Doubles:
    """Share of the variance of each principal component, largest first; zeros where nothing varies."""
    x = table.astype(np.float64)
    x = x - x.mean(axis=0)
    energy: Doubles = np.linalg.svd(x, compute_uv=False) ** 2
    total = float(energy.sum())
    return energy / total if total > 0 else energy


def components_for(variance: Doubles, share: float) -> int:
    """The fewest first components whose shares reach `share`; 0 where nothing varies."""
    if variance.sum() == 0:
        return 0
    return min(int(np.searchsorted(np.cumsum(variance), share - 1e-12)) + 1, len(variance))
