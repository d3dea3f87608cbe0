"""Curves and points: as characters for a terminal, or as a PNG. Readable without colour: each series has its mark."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from llmcli.files import write_whole
from llmcli.render.export import picture_bytes
from llmcli.render.safe import visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARKS = "●○▲△■□◆◇"


@dataclass(frozen=True)
class Series:
    """Points (x, y) in order of x; a fitted line has `dots`."""

    name: str
    points: Sequence[tuple[float, float]]
    dots: bool = False


@dataclass(frozen=True)
class Chart:
    title: str
    x: str
    y: str
    series: Sequence[Series]
    log: bool = False
    """Both axes logarithmic."""


def draw(chart: Chart, width: int = 80, height: int = 20) -> str:
    """The chart in lines of at most `width` characters."""
    to_x, to_y = (_axis([p[i] for s in chart.series for p in s.points], chart.log) for i in (0, 1))
    label = 9
    columns, rows = max(10, width - label - 2), max(4, height)
    cells = [[" "] * columns for _ in range(rows)]
    marks = _marks(chart.series)
    # Fitted lines first, so that what was measured stands over them.
    for series in sorted(chart.series, key=lambda s: not s.dots):
        for column, value in _by_column(series.points, to_x, columns):
            row = round((1 - to_y.place(value)) * (rows - 1))
            cells[row][column] = marks[series.name]
    lines = [visible(chart.title)]
    for index, row_cells in enumerate(cells):
        shown = index % max(1, (rows - 1) // 4) == 0
        tick = f"{to_y.at(1 - index / (rows - 1)):.4g}" if shown else ""
        lines.append(f"{tick:>{label}} {'┤' if shown else '│'}{''.join(row_cells).rstrip()}")
    lines.append(" " * (label + 1) + "└" + "─" * columns)
    left, right = f"{to_x.at(0):.4g}", f"{to_x.at(1):.4g}"
    middle = f"{chart.x}  (up: {chart.y})"
    lines.append(" " * (label + 2) + left + middle.center(columns - len(left) - len(right)) + right)
    lines += [f"{' ' * (label + 2)}{marks[series.name]} {visible(series.name)}" for series in chart.series]
    return "".join(f"{line.rstrip()}\n" for line in lines)


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float
    log: bool

    def place(self, value: float) -> float:
        """0 to 1 along the axis."""
        value = math.log(value) if self.log else value
        return (value - self.low) / (self.high - self.low)

    def at(self, place: float) -> float:
        value = self.low + place * (self.high - self.low)
        return math.exp(value) if self.log else value


def _axis(values: Sequence[float], log: bool) -> _Axis:
    values = [math.log(v) for v in values] if log else values
    low, high = min(values), max(values)
    if high - low < 1e-9 * max(1.0, abs(high)):
        low, high = low - 0.5, high + 0.5
    return _Axis(low, high, log)


def _by_column(points: Sequence[tuple[float, float]], axis: _Axis, columns: int) -> list[tuple[int, float]]:
    """The mean of the points that fall into each column."""
    found: dict[int, list[float]] = {}
    for x, y in points:
        found.setdefault(round(axis.place(x) * (columns - 1)), []).append(y)
    return [(column, sum(ys) / len(ys)) for column, ys in sorted(found.items())]


def _marks(series: Sequence[Series]) -> dict[str, str]:
    measured = [each.name for each in series if not each.dots]
    marks = {name: MARKS[i % len(MARKS)] for i, name in enumerate(measured)}
    return marks | {each.name: "·" for each in series if each.dots}


def save_png(charts: Sequence[Chart], path: Path) -> None:
    """The charts below one another as a PNG. Raises `LlmcliError` where matplotlib is missing, or the file cannot be
    written."""
    write_whole(path, picture_bytes(lambda: _figure(charts), "png"))


def _figure(charts: Sequence[Chart]) -> "Figure":
    from matplotlib.figure import Figure

    figure: Any = Figure(figsize=(8, 4.5 * len(charts)), layout="constrained")
    for index, chart in enumerate(charts):
        axes = figure.add_subplot(len(charts), 1, index + 1)
        axes.set(title=visible(chart.title), xlabel=chart.x, ylabel=chart.y)
        if chart.log:
            axes.set(xscale="log", yscale="log")
        for series in chart.series:
            xs, ys = zip(*series.points, strict=True)
            style = "--" if series.dots else "o" if chart.log else "-"
            axes.plot(xs, ys, style, label=visible(series.name))
        axes.legend()
        axes.grid(alpha=0.3, which="both")
    return cast("Figure", figure)
