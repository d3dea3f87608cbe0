"""A map of numbers in the terminal: cells by colour, or by shades of characters, with labels, a legend and notices."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.cells import cell_len
from rich.text import Text

from llmcli.errors import UsageError
from llmcli.render.labels import downwards, fit
from llmcli.render.palette import SHADES, Scale, ground
from llmcli.render.screen import Screen
from llmcli.render.window import Window, choose_part, plural, pooled

LABEL_WIDTH = 14
LABEL_HEIGHT = 8
STRUCK = "×"


@dataclass(frozen=True)
class Heatmap:
    """A map of numbers.

    values   (rows, columns)
    rows, columns  labels, fit to be shown (`tokens.label`); `names` the singulars of what they are
    scale    how a number becomes a colour
    masked   (rows, columns): cells that hold no number and stay blank; None for none. `masked_means` says why
    struck   (rows, columns): cells whose number is marked with ×; None for none. `struck_means` says why
    notes    heading and one text a row, drawn at the right
    format   of a number where numbers are printed
    causal   row i looks at columns 0 to i
    summed   rows are distributions: in blocks, columns are added up
    """

    values: NDArray[np.floating]
    rows: Sequence[str]
    columns: Sequence[str]
    names: tuple[str, str] = ("query", "key")
    scale: Scale = field(default_factory=Scale)
    masked: NDArray[np.bool_] | None = None
    masked_means: str = "masked"
    struck: NDArray[np.bool_] | None = None
    struck_means: str = "masked"
    notes: tuple[str, Sequence[str]] | None = None
    format: str = ".2f"
    causal: bool = False
    summed: bool = False

    def cut(self, rows: list[int], columns: list[int]) -> "Heatmap":
        """The rows and columns of these numbers alone."""
        cells = np.ix_(rows, columns)
        return replace(
            self,
            values=self.values[cells],
            rows=[self.rows[i] for i in rows],
            columns=[self.columns[i] for i in columns],
            masked=None if self.masked is None else self.masked[cells],
            struck=None if self.struck is None else self.struck[cells],
            notes=None if self.notes is None else (self.notes[0], [self.notes[1][i] for i in rows]),
        )

    def in_blocks(self, pool: int) -> "Heatmap":
        """The map in blocks of `pool` x `pool`, named by their first labels, without what belongs to single cells."""
        masked = np.zeros(self.values.shape, dtype=np.bool_) if self.masked is None else self.masked
        values, all_masked = pooled(self.values, masked, pool, add_columns=self.summed)
        return replace(
            self,
            values=values,
            rows=self.rows[::pool],
            columns=self.columns[::pool],
            masked=all_masked,
            struck=None,
            notes=None,
        )


class _Layout(NamedTuple):
    """Widths in terminal cells: of row numbers, row labels, all that stands left of the map, and one cell of it."""

    number: int
    label: int
    left: int
    cell: int


def draw_heatmap(
    heatmap: Heatmap, screen: Screen, window: Window | None = None, *, numbers: bool = False, legend: bool = True
) -> Text:
    """The map, as much of it as `window` asks for or as fits; with `legend` what its cells mean and what is not shown.

    With `numbers` each cell prints its number. Raises `UsageError` for a window outside the map.
    """
    window = window or Window()
    if numbers and window.pool > 1:
        raise UsageError("--values prints single numbers, --pool draws blocks of them", "give one of the two")
    layout = _layout(heatmap, numbers)
    room = columns_that_fit(heatmap, screen, numbers=numbers)
    part = choose_part(heatmap.values.shape, heatmap.names, window, room, causal=heatmap.causal)
    shown = heatmap.cut(part.rows, part.columns)
    shown = shown.in_blocks(window.pool) if window.pool > 1 else shown
    text = Text()
    _add_head(text, shown, part.columns[:: window.pool], layout, window.pool)
    for row, number in enumerate(part.rows[:: window.pool]):
        text.append(fit(f"{number:>{layout.number}} {fit(shown.rows[row], layout.label)}", layout.left))
        for column in range(len(shown.columns)):
            text.append(*_cell(shown, row, column, layout.cell, screen, numbers))
        text.append("" if shown.notes is None else f" {shown.notes[1][row]}", "dim")
        text.append("\n")
    if legend:
        text.append_text(draw_legend(shown, screen, shades=not numbers))
        for notice in [*_pool_notice(heatmap, window.pool), *part.notices]:
            text.append(f"note: {notice}\n")
    text.rstrip()
    return text


def columns_that_fit(heatmap: Heatmap, screen: Screen, *, numbers: bool) -> int:
    """How many cells fit side by side between the labels and the notes; at least one."""
    layout = _layout(heatmap, numbers)
    right = 0 if heatmap.notes is None else 1 + max(map(len, [heatmap.notes[0], *heatmap.notes[1]]))
    return max(1, (screen.width - layout.left - right) // layout.cell)


def _layout(heatmap: Heatmap, numbers: bool) -> _Layout:
    number = len(str(max(0, len(heatmap.rows) - 1)))
    label = min(LABEL_WIDTH, max(map(cell_len, heatmap.rows), default=0))
    left = max(number + 1 + label, len(heatmap.names[0])) + 1
    mark = 0 if heatmap.struck is None else 1
    if not numbers:
        return _Layout(number, label, left, 2 + mark)
    ends = (float(heatmap.values.min()), float(heatmap.values.max())) if heatmap.values.size else (0.0,)
    return _Layout(number, label, left, 1 + max(len(_number(heatmap, each)) for each in ends) + mark)


def _number(heatmap: Heatmap, value: float) -> str:
    text = format(value, heatmap.format)
    return text.removeprefix("-") if float(text) == 0 else text


def _add_head(text: Text, heatmap: Heatmap, numbers: list[int], layout: _Layout, pool: int) -> None:
    """The name of the columns, their labels written downwards, and their numbers: all of them where cells are wide
    enough, else every fifth and what follows a gap."""
    margin = " " * layout.left
    text.append(margin + heatmap.names[1] + "\n", "bold")
    for line in downwards(list(heatmap.columns), layout.cell, LABEL_HEIGHT):
        text.append(margin + line.rstrip(" ") + "\n")
    ruler = ""
    for place, number in enumerate(numbers):
        begins = place == 0 or number // pool % 5 == 0 or number - numbers[place - 1] > pool
        if (begins or layout.cell > len(str(numbers[-1])) + 1) and len(ruler) <= place * layout.cell:
            ruler = ruler.ljust(place * layout.cell) + f"{number} "
    text.append(fit(heatmap.names[0], layout.left), "bold")
    text.append(ruler, "dim")
    if heatmap.notes is not None:
        text.append(" " * max(0, len(numbers) * layout.cell + 1 - len(ruler)) + heatmap.notes[0], "dim")
    text.append("\n")


def _cell(heatmap: Heatmap, row: int, column: int, width: int, screen: Screen, numbers: bool) -> tuple[str, str]:
    """What one cell prints, `width` terminal cells, and its style."""
    if heatmap.masked is not None and heatmap.masked[row, column]:
        return " " * width, ""
    value = float(heatmap.values[row, column])
    mark = "" if heatmap.struck is None else STRUCK if heatmap.struck[row, column] else " "
    style = ground(heatmap.scale.rgb(value), screen.depth)
    if numbers:
        return f"{_number(heatmap, value):>{width - len(mark)}}{mark}", style
    if screen.color:
        return " " * (width - len(mark)) + mark, style
    return shade_pair(heatmap.scale, value) + mark, style


def shade_pair(scale: Scale, value: float) -> str:
    """Two characters that stand for a number: its shade twice, or on a diverging scale its sign and its shade."""
    shade = scale.shade(value)
    if scale.kind == "sequential" or shade == SHADES[0]:
        return shade * 2
    return ("-" if value < 0 else "+") + shade


def draw_legend(heatmap: Heatmap, screen: Screen, *, shades: bool = True) -> Text:
    """What the colours or shades stand for, and what a blank and a mark mean; one or two lines."""
    scale = heatmap.scale
    text = Text()
    if screen.color:
        for value in scale.samples():
            text.append(f" {value:.2g} ", ground(scale.rgb(value), screen.depth))
    elif shades:
        bounds = [f"under {bound:.2g}" for bound in scale.bounds()] + ["up to " + format(scale.high, ".2g")]
        text.append("  ".join(f"{shade * 2} {bound}" for shade, bound in zip(SHADES, bounds, strict=True)))
    text.append("\n" if text else "")
    meanings = ["- and +: the sign"] if scale.kind == "diverging" and shades and not screen.color else []
    if heatmap.masked is not None and heatmap.masked.any():
        meanings.append(f"blank: {heatmap.masked_means}")
    if heatmap.struck is not None and heatmap.struck.any():
        meanings.append(f"{STRUCK}: {heatmap.struck_means}")
    if meanings:
        text.append("; ".join(meanings) + "\n")
    return text


def _pool_notice(heatmap: Heatmap, pool: int) -> list[str]:
    if pool == 1:
        return []
    rows, columns = (plural(name) for name in heatmap.names)
    how = f"{columns} added up, {rows} averaged" if heatmap.summed else "averaged"
    return [f"each cell is a block of {pool} {rows} x {pool} {columns}, {how}"]
