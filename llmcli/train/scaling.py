"""The power law between the final loss of several runs and what was spent on them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class PowerLaw:
    """y = factor * x^exponent: a straight line on log axes (Kaplan et al. 2020, arXiv:2001.08361, section 1.2)."""

    factor: float
    exponent: float

    def __call__(self, x: float) -> float:
        return float(self.factor * x**self.exponent)


def fit_power_law(xs: Sequence[float], ys: Sequence[float]) -> PowerLaw | None:
    """Least squares on the logarithms. None where the xs are all equal, or a number is not above 0 and finite."""
    if not all(0 < value < math.inf for value in (*xs, *ys)):
        return None
    points = [(math.log(x), math.log(y)) for x, y in zip(xs, ys, strict=True)]
    mean_x, mean_y = (sum(values) / len(points) for values in zip(*points, strict=True))
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    if spread < 1e-12:
        return None
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
    return PowerLaw(math.exp(mean_y - slope * mean_x), slope)
