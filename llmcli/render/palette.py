"""From a number to a colour, or to a shade where there are no colours."""

import math
from dataclasses import dataclass
from typing import Literal

from rich.color import Color, ColorSystem

from llmcli.render.screen import Depth

# Ten points of the viridis scale (Smith and van der Walt, public domain): even in lightness, safe for the colour-blind.
SEQUENTIAL = (
    (68, 1, 84),
    (72, 40, 120),
    (62, 73, 137),
    (49, 104, 142),
    (38, 130, 142),
    (31, 158, 137),
    (53, 183, 121),
    (110, 206, 88),
    (181, 222, 43),
    (253, 231, 37),
)
# Negative, none, positive.
_DIVERGING = ((64, 156, 255), (44, 92, 150), (48, 48, 52), (160, 84, 30), (255, 148, 54))

SHADES = "·░▒▓█"
"""From nothing to all, in equal steps of `Scale.place`."""

Rgb = tuple[int, int, int]


@dataclass(frozen=True)
class Scale:
    """Where a number stands between nothing and all.

    sequential  0 to `high`
    diverging   -`high` to `high`
    root        colours follow the square root of the number, so that small ones are told apart
    """

    high: float = 1.0
    kind: Literal["sequential", "diverging"] = "sequential"
    root: bool = True

    def place(self, value: float) -> float:
        """0 to 1, or -1 to 1 for a diverging scale; what lies outside the scale is drawn as its end."""
        share = value / self.high if self.high else 0.0
        size = min(1.0, abs(share))
        size = math.sqrt(size) if self.root else size
        return math.copysign(size, share) if self.kind == "diverging" else (size if share > 0 else 0.0)

    def value(self, place: float) -> float:
        """The number that stands at a place: `place` backwards."""
        size = abs(place) ** 2 if self.root else abs(place)
        return math.copysign(size * self.high, place)

    def rgb(self, value: float) -> Rgb:
        place = self.place(value)
        if self.kind == "diverging":
            return _between(_DIVERGING, (place + 1) / 2)
        return _between(SEQUENTIAL, place)

    def shade(self, value: float) -> str:
        """One character of `SHADES` by size; the sign is not in it."""
        return SHADES[round(abs(self.place(value)) * (len(SHADES) - 1))]

    def bounds(self) -> list[float]:
        """The numbers at which the shade changes: below the first it is `SHADES[0]`, and so on."""
        steps = len(SHADES) - 1
        return [self.value((i + 0.5) / steps) for i in range(steps)]

    def samples(self) -> list[float]:
        """The numbers whose colours a legend shows: five, even on the scale."""
        start = -1.0 if self.kind == "diverging" else 0.0
        return [self.value(start + (1.0 - start) * i / 4) for i in range(5)]

    def legend(self) -> dict[str, list[float]]:
        """The numbers of a legend: where the shade changes, with the last one's end; those whose colours are shown."""
        return {"shades": [*self.bounds(), self.high], "colors": self.samples()}


def _between(points: tuple[Rgb, ...], share: float) -> Rgb:
    at = share * (len(points) - 1)
    low = min(int(at), len(points) - 2)
    part = at - low
    red, green, blue = (round(a + (b - a) * part) for a, b in zip(points[low], points[low + 1], strict=True))
    return red, green, blue


def foreground(color: Rgb, depth: Depth) -> str:
    """rich's name of a colour, as near as a terminal of this depth has it; nothing where it has none.

    Depths are told apart here: rich remembers the codes of a style by its name alone.
    """
    if depth == "none":
        return ""
    if depth == "truecolor":
        return f"#{color[0]:02x}{color[1]:02x}{color[2]:02x}"
    return f"color({Color.from_rgb(*color).downgrade(ColorSystem.EIGHT_BIT).number})"


def ground(color: Rgb, depth: Depth) -> str:
    """rich's style of text on a ground of this colour: black or white, whichever is read better on it."""
    if depth == "none":
        return ""
    red, green, blue = color
    ink = (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else (255, 255, 255)
    return f"{foreground(ink, depth)} on {foreground(color, depth)}"
