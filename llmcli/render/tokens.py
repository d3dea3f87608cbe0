"""Tokens drawn for people: labels in which spaces and bytes are seen, a table, a strip, two tokenizers side by side.

Every view reads without colour: tokens are parted by bars, special tokens and parts of characters are named in words.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.table import Table
from rich.text import Text

from llmcli.render.safe import visible

_STYLES = ("black on cyan", "black on yellow", "black on green", "white on magenta", "white on blue")
NARROW, TINY = 60, 32  # cells
_SIGNS = str.maketrans({" ": "␣", "\n": "↵", "\t": "⇥", "\ufe0e": "⟨U+FE0E⟩", "\ufe0f": "⟨U+FE0F⟩"})
_LONE_BYTES = re.compile("[\udc80-\udcff]+")


@dataclass(frozen=True)
class Row:
    """One token of a view: its id, the bytes it stands for, the bytes of the text that it covers, and what it is."""

    id: int
    raw: bytes
    start: int
    end: int
    special: bool = False


def label(raw: bytes) -> str:
    """A token's bytes as something to look at, never empty of signs: `␣world`, `↵`, `⟨F0·9F⟩` for half a character."""
    text = raw.decode("utf-8", "surrogateescape").translate(_SIGNS)
    parts: list[str] = []
    place = 0
    for match in _LONE_BYTES.finditer(text):
        numbers = "·".join(f"{ord(each) - 0xDC00:02X}" for each in match[0])
        parts += [_mark_base(visible(text[place : match.start()])), f"⟨{numbers}⟩"]
        place = match.end()
    return "".join(parts) + _mark_base(visible(text[place:]))


def _mark_base(text: str) -> str:
    """A combining mark that begins a label gets a circle to stand on, so that it leaves the neighbour alone."""
    return "◌" + text if text and cell_len(text[0]) == 0 else text


def token_table(rows: Iterable[Row], width: int = NARROW) -> Table:
    """One line a token: its place, id, label, bytes in hexadecimal, the bytes of the text that it covers, and notes.

    In less than `NARROW` cells the hexadecimal column is left out, and notes are one word. In less than `TINY` only
    place, id and label are left, and a special token is noted behind its label.
    """
    wide, tiny = width >= NARROW, width < TINY
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("#", justify="right", no_wrap=True)
    table.add_column("id", justify="right", no_wrap=True)
    table.add_column("token", overflow="fold")
    if wide:
        table.add_column("bytes", overflow="fold")
    if not tiny:
        table.add_column("at", justify="right", no_wrap=True)
        table.add_column("", overflow="fold")
    for place, row in enumerate(rows):
        covered = f"{row.start}-{row.end}" if row.end > row.start else "-"
        hexadecimal = [Text(row.raw.hex(" "), "dim")] if wide else []
        shown, note = Text(label(row.raw), _STYLES[place % len(_STYLES)]), Text(_note(row, wide), "italic")
        if tiny:
            table.add_row(str(place), str(row.id), Text.assemble(shown, " ", note) if row.special else shown)
        else:
            table.add_row(str(place), str(row.id), shown, *hexadecimal, covered, note)
    return table


def _note(row: Row, wide: bool) -> str:
    if row.special:
        return "special"
    try:
        row.raw.decode()
    except UnicodeDecodeError:
        return "part of a character" if wide else "part"
    return ""


def token_strip(rows: Sequence[Row], width: int) -> Text:
    """The text as its tokens in a row, ids beneath, wrapped to `width` cells. A token wider than that is cut short."""
    strip = Text(no_wrap=True, overflow="crop")
    line: list[tuple[str, str, str, int]] = []
    used = 0
    for place, row in enumerate(rows):
        shown, number = label(row.raw), str(row.id)
        size = min(max(cell_len(shown), len(number)), max(1, width - 1))
        if line and used + size + 1 > width:
            _add_line(strip, line)
            line, used = [], 0
        line.append((_fit(shown, size), _fit(number, size), _STYLES[place % len(_STYLES)], size))
        used += size + 1
    if line:
        _add_line(strip, line)
    return strip


def _add_line(strip: Text, line: list[tuple[str, str, str, int]]) -> None:
    for shown, _, style, _ in line:
        strip.append(shown, style)
        strip.append("│", "dim")
    strip.append("\n")
    for _, number, _, _ in line:
        strip.append(number, "dim")
        strip.append("│", "dim")
    strip.append("\n")


def _fit(text: str, size: int) -> str:
    """A text in exactly `size` cells, with an ellipsis where it had to be cut."""
    if cell_len(text) <= size:
        return text + " " * (size - cell_len(text))
    return set_cell_size(text, size - 1) + "…"


def comparison_table(names: tuple[str, str], spans: Iterable[tuple[bytes, list[bytes], list[bytes]]]) -> Table:
    """Stretches of a text, and the tokens that two tokenizers make of each; those that differ are marked."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("", no_wrap=True)
    for name in ("text", *names):
        table.add_column(Text(visible(name)), overflow="fold")
    for data, ours, theirs in spans:
        same = ours == theirs
        table.add_row(
            "" if same else "≠",
            Text(label(data)),
            _joined(ours, same),
            _joined(theirs, same),
            style="dim" if same else "",
        )
    return table


def _joined(tokens: list[bytes], same: bool) -> Text:
    text = Text()
    for place, raw in enumerate(tokens):
        if place:
            text.append("│", "dim")
        text.append(label(raw), "" if same else _STYLES[place % len(_STYLES)])
    return text


def drawn(*renderables: Any, color: bool, width: int) -> str:
    """What rich draws of views one below the other, as text; escape sequences are in it only with `color`."""
    import io

    from rich.console import Console

    out = io.StringIO()
    console = Console(
        file=out,
        width=width,
        force_terminal=color,
        color_system="auto" if color else None,
        no_color=not color,
        legacy_windows=False,
        markup=False,
        emoji=False,
        highlight=False,
    )
    for each in renderables:
        console.print(each, soft_wrap=isinstance(each, str))
    return out.getvalue()
