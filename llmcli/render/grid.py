"""Many small maps side by side: no labels, one character a cell, two cells above each other where there are colours."""

from dataclasses import dataclass

from rich.text import Text

from llmcli.ranges import parse_ranges
from llmcli.render.heatmap import Heatmap, draw_legend
from llmcli.render.labels import fit
from llmcli.render.palette import foreground
from llmcli.render.screen import Depth, Screen
from llmcli.render.window import Window, plural

GAP = 2
_NARROWEST, _WIDEST = 13, 20


@dataclass(frozen=True)
class Tile:
    """A small map with a name, and a line on it beneath."""

    name: str
    note: str
    heatmap: Heatmap


def draw_grid(tiles: list[Tile], screen: Screen, window: Window) -> Text:
    """All tiles, as many in a row as fit, all with the same rows and columns; a legend and what is not drawn singly."""
    shape = tiles[0].heatmap.values.shape
    names = tiles[0].heatmap.names
    rows = parse_ranges(window.rows or "all", shape[0], names[0])
    columns = parse_ranges(window.columns or "all", shape[1], names[1])
    pool = window.pool if window.pool > 1 else -(-max(len(rows), len(columns)) // _WIDEST)
    small = [_small(tile.heatmap.cut(rows, columns), pool) for tile in tiles]
    width = max(_NARROWEST, small[0].values.shape[1])
    across = max(1, (screen.width + GAP) // (width + GAP))
    text = Text(no_wrap=True, overflow="crop")
    for first in range(0, len(tiles), across):
        pictures = [_picture(each, screen) for each in small[first : first + across]]
        named = tiles[first : first + across]
        _add_line(text, [Text(tile.name, "bold") for tile in named], width)
        for line in range(len(pictures[0])):
            _add_line(text, [picture[line] for picture in pictures], width)
        _add_line(text, [Text(tile.note, "dim") for tile in named], width)
        text.append("\n")
    text.append_text(draw_legend(small[0], screen))
    if pool > 1:
        text.append(f"note: each cell is a block of {pool} {plural(names[0])} x {pool} {plural(names[1])}; ")
        text.append("--layer L --head H draws one map in full\n")
    if len(rows) < shape[0] or len(columns) < shape[1]:
        text.append(f"note: {len(rows)} of {shape[0]} {plural(names[0])} and {len(columns)} of {shape[1]} ")
        text.append(f"{plural(names[1])} are drawn\n")
    text.rstrip()
    return text


def _small(heatmap: Heatmap, pool: int) -> Heatmap:
    return heatmap.in_blocks(pool) if pool > 1 else heatmap


def _add_line(text: Text, parts: list[Text], width: int) -> None:
    for i, part in enumerate(parts):
        if i:
            text.append(" " * GAP)
        part.plain = fit(part.plain, width) if len(part.spans) == 0 else part.plain
        text.append_text(part)
        text.append(" " * (width - part.cell_len))
    text.append("\n")


def _picture(heatmap: Heatmap, screen: Screen) -> list[Text]:
    """The lines of one small map."""
    height, width = heatmap.values.shape
    if screen.color:
        return [
            Text.assemble(*(_half_blocks(heatmap, row, column, screen.depth) for column in range(width)))
            for row in range(0, height, 2)
        ]
    masked = heatmap.masked
    return [
        Text(
            "".join(
                " " if masked is not None and masked[row, column] else heatmap.scale.shade(heatmap.values[row, column])
                for column in range(width)
            )
        )
        for row in range(height)
    ]


def _half_blocks(heatmap: Heatmap, row: int, column: int, depth: Depth) -> tuple[str, str]:
    """Two cells in one character: the upper one its foreground, the lower one its background."""
    upper, lower = _color(heatmap, row, column, depth), _color(heatmap, row + 1, column, depth)
    if upper is None and lower is None:
        return " ", ""
    if upper is None:
        return "▄", str(lower)
    return "▀", upper if lower is None else f"{upper} on {lower}"


def _color(heatmap: Heatmap, row: int, column: int, depth: Depth) -> str | None:
    if row >= heatmap.values.shape[0] or (heatmap.masked is not None and heatmap.masked[row, column]):
        return None
    return foreground(heatmap.scale.rgb(float(heatmap.values[row, column])), depth)
