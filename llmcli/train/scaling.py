"""The power law between the final loss of several runs and what was spent on them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

_HIGHEST = 700
"""About the largest logarithm of a float."""


@dataclass(frozen=True)
class PowerLaw:
    """y = factor * x^exponent: a straight line on log axes (Kaplan et al. 2020, arXiv:2001.08361, section 1.2)."""

    factor: float
    exponent: float

    def __call__(self, x: float) -> float:
        return math.exp(math.log(self.factor) + self.exponent * math.log(x))


def fit_power_law(xs: Sequence[float], ys: Sequence[float]) -> PowerLaw | None:
    """Least squares on the logarithms. None where the xs are all equal, or so near that no float holds the factor, or
    where a number is not above 0 and finite."""
    if not all(0 < value < math.inf for value in (*xs, *ys)):
        return None
    points = [(math.log(x), math.log(y)) for x, y in zip(xs, ys, strict=True)]
    mean_x, mean_y = (sum(values) / len(points) for values in zip(*points, strict=True))
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    if spread < 1e-12:
        return None
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
    height = mean_y - slope * mean_x
    return PowerLaw(math.exp(height), slope) if abs(height) < _HIGHEST else None
