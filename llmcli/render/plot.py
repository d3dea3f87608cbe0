"""Curves and points: in a terminal drawn by plotext, in a file by matplotlib. Views know neither.

plotext draws on one figure for the whole process; here it is cleared before and after, and given its size, so that
what was drawn before and the terminal change nothing.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from llmcli.files import write_whole
from llmcli.render.export import picture_bytes
from llmcli.render.safe import visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MARKS = "•×+o*#@%"
_FIT = "·"
_LINE = "hd"
"""plotext's name for a line of quarters of cells, ▗▞▘: finer than characters, and as wide as they are in every font,
which braille is not."""
_LINE_SAMPLE = "▄▀"
_CROWDED = 4
"""Points a column of the screen from which on they are averaged."""
_AXIS = 2
"""Lines below the curves: the axis, and its numbers."""
_PLANE = (41, 21)


@dataclass(frozen=True)
class Series:
    """Points (x, y) in order of x; a fitted line has `dots`."""

    name: str
    points: Sequence[tuple[float, float]]
    dots: bool = False


@dataclass(frozen=True)
class Chart:
    """What is drawn; `x` and `y` say what the axes are, empty where the title says it."""

    title: str
    x: str
    y: str
    series: Sequence[Series]
    log: bool = False
    """Both axes logarithmic."""


def draw(chart: Chart, width: int = 80, height: int = 20) -> str:
    """The chart in lines of at most `width` characters, `height` of them for the curves, without any colour: each
    series has a mark of its own, named below where there are several. Of a series with many more points than columns
    those that share a column are averaged, and the title says so; points that are not finite, or not positive on
    logarithmic axes, are left out."""
    width, height = max(width, 10), max(height, 3)
    series = [replace(each, points=list(_drawable(each.points, chart.log))) for each in chart.series]
    if not any(each.points for each in series):
        return f"{visible(chart.title)}\n(no points to draw)\n"
    averaged = any(len(each.points) > _CROWDED * width for each in series)
    marks = _marks(series)
    lines = [visible(chart.title) + (", averaged in each column" if averaged else "")]
    lines += _plotted(replace(chart, series=series), marks, width, height)
    if len(series) > 1:
        lines += [f"  {_LINE_SAMPLE if mark == _LINE else mark} {visible(name)}" for name, mark in marks.items()]
    return "".join(f"{line.rstrip()}\n" for line in lines)


def _drawable(points: Sequence[tuple[float, float]], log: bool) -> Iterator[tuple[float, float]]:
    for point in points:
        if all(math.isfinite(value) and (value > 0 or not log) for value in point):
            yield point


def _thinned(points: Sequence[tuple[float, float]], columns: int) -> Sequence[tuple[float, float]]:
    """The mean of the points in each column, where they are crowded."""
    if len(points) <= _CROWDED * columns:
        return points
    low, high = points[0][0], points[-1][0]
    found: dict[int, list[tuple[float, float]]] = {}
    for x, y in points:
        found.setdefault(round((x - low) / ((high - low) or 1.0) * columns), []).append((x, y))
    return [(sum(x for x, _ in each) / len(each), sum(y for _, y in each) / len(each)) for each in found.values()]


def _marks(series: Sequence[Series]) -> dict[str, str]:
    """A mark for each name: a fine line for the first that was measured, characters for the others."""
    measured = [each for each in series if not each.dots]
    line = [_LINE] if measured and len(measured[0].points) > 1 else []
    marks = [*line, *_MARKS]
    given = {each.name: marks[i % len(marks)] for i, each in enumerate(measured)}
    return given | {each.name: _FIT for each in series if each.dots}


def _plotted(chart: Chart, marks: dict[str, str], width: int, height: int) -> list[str]:
    """The curves with their axes, as lines of text."""
    named = bool(chart.x or chart.y)
    plotext = _blank(width, height + _AXIS + named)
    plotext.xaxes(True, False)
    plotext.yaxes(True, False)
    scale = math.log10 if chart.log else float
    # Fitted lines first, so that what was measured stands over them.
    for series in sorted(chart.series, key=lambda each: not each.dots):
        points = _thinned([(scale(x), scale(y)) for x, y in series.points], width)
        plotext.plot([x for x, _ in points], [y for _, y in points], marker=marks[series.name])
    measured = [each for each in chart.series if not each.dots] or chart.series
    for axis, (limits, set_ticks, most) in enumerate(
        ((plotext.xlim, plotext.xticks, max(2, width // 16)), (plotext.ylim, plotext.yticks, (height + 1) // 2))
    ):
        limits(*_ends([scale(point[axis]) for each in chart.series for point in each.points]))
        places = ticks([point[axis] for each in measured for point in each.points], min(5, most), scale)
        set_ticks([scale(place) for place in places], tick_labels(places))
    if named:
        plotext.xlabel(chart.x)
        plotext.ylabel(chart.y)
    return _lines(plotext)


def draw_plane(points: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Points of a plane around the origin in the middle, each with its mark, later ones over earlier ones; one unit is
    as long to the right as it is upwards, where a character is twice as high as wide."""
    radius = max((math.hypot(x, y) for each in points.values() for x, y in each), default=0.0) or 1.0
    plotext = _blank(*_PLANE)
    plotext.frame(False)
    plotext.xticks([])
    plotext.yticks([])
    plotext.xlim(-radius, radius)
    plotext.ylim(-radius, radius)
    plotext.vline(0)
    plotext.hline(0)
    for mark, each in points.items():
        plotext.scatter([x for x, _ in each], [y for _, y in each], marker=mark)
    return "".join(f"{line.rstrip()}\n" for line in _lines(plotext))


def _blank(width: int, height: int) -> Any:
    """The library with nothing drawn yet, on a canvas of this size without colours."""
    import plotext

    plotext.clear_figure()
    plotext.limit_size(False, False)  # else by the terminal's size
    plotext.theme("clear")
    plotext.plot_size(width, height)
    return plotext


def _lines(plotext: Any) -> list[str]:
    """What is drawn, which is forgotten."""
    drawn = str(plotext.uncolorize(plotext.build()))
    plotext.clear_figure()
    return drawn.rstrip("\n").split("\n")


def _ends(places: Sequence[float]) -> tuple[float, float]:
    """The least and the largest; with room around where they are one."""
    low, high = min(places), max(places)
    return (low, high) if high - low > 1e-9 * max(1.0, abs(high)) else (low - 0.5, high + 0.5)


def ticks(values: Sequence[float], count: int, scale: Callable[[float], float] = float) -> list[float]:
    """At most `count` of the values themselves, the least and the largest among them, those between as even on the
    scale as there are: so an axis names no number that is not one of the curve's."""
    ordered = sorted(set(values))
    if len(ordered) <= count:
        return ordered
    places = [scale(value) for value in ordered]
    low, high = places[0], places[-1]
    levels = [low + (high - low) * i / (count - 1) for i in range(count)]
    nearest = {min(range(len(places)), key=lambda i: abs(places[i] - level)) for level in levels}
    return [ordered[i] for i in sorted(nearest)]


def tick_labels(places: Sequence[float]) -> list[str]:
    """The numbers, rounded where that moves none by more than a twentieth of the way to the next."""
    gaps = [high - low for low, high in itertools.pairwise(places)]
    finest = min((gap for gap in gaps if gap > 0), default=0.0)
    digits = math.ceil(-math.log10(finest / 10)) if finest > 0 else 4
    return [_short(place, digits) for place in places]


def _short(value: float, digits: int) -> str:
    if value and not 1e-4 <= abs(value) < 1e6:
        return f"{value:.3g}"
    text = f"{value:.{max(0, digits)}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if float(text) == 0 else text


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
            style = "--" if series.dots else "o" if chart.log or len(xs) == 1 else "-"
            axes.plot(xs, ys, style, label=visible(series.name))
        if chart.log:
            drawn = (_drawable(series.points, chart.log) for series in chart.series if not series.dots)
            _mark_values(axes, list(itertools.chain.from_iterable(drawn)))
        axes.legend()
        axes.grid(alpha=0.3, which="both")
    return cast("Figure", figure)


def _mark_values(axes: Any, points: Sequence[tuple[float, float]]) -> None:
    """Ticks at the points' own numbers: what matplotlib gives a log axis is written in TeX, which is off here."""
    axes.minorticks_off()
    for axis, values in zip((axes.xaxis, axes.yaxis), zip(*points, strict=True), strict=False):
        places = ticks(values, 6, math.log)
        axis.set_ticks(places, tick_labels(places))
