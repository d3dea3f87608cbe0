"""A view in all its forms, and the documents that leave the program: JSON, CSV, npz, pictures."""

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import RenderableType

from llmcli.errors import LlmcliError
from llmcli.render.screen import Screen

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Table = tuple[Sequence[str], Iterable[Sequence[Any]]]


@dataclass(frozen=True)
class View:
    """One view, ready to leave the program in whatever form is asked for. Only that form is computed.

    data      the JSON document: `schema_version`, `model`, `dtype`, ...; may hold numpy arrays, never NaN or infinity
    terminal  Screen -> a string, or something that rich can print
    table     header and rows of --csv, computed when called
    figure    a matplotlib figure for --png and --svg; None where the view has no picture
    html      one self-contained HTML document; None where the view has none
    """

    name: str
    data: Mapping[str, Any]
    terminal: Callable[[Screen], RenderableType]
    table: Callable[[], Table]
    figure: "Callable[[], Figure] | None" = None
    html: Callable[[], str] | None = None


def json_chunks(value: Any, *, ascii_only: bool = False) -> Iterator[str]:
    """One JSON document in pieces, so that a large array is never text as a whole.

    float32 numbers are written so that they read back to the very same. Raises `ValueError` for NaN and infinity.
    """
    if isinstance(value, Mapping):
        yield "{"
        for i, (key, item) in enumerate(value.items()):
            yield f"{', ' if i else ''}{json.dumps(str(key), ensure_ascii=ascii_only)}: "
            yield from json_chunks(item, ascii_only=ascii_only)
        yield "}"
    elif isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim > 1):
        yield "["
        for i, item in enumerate(value):
            yield ", " if i else ""
            yield from json_chunks(item, ascii_only=ascii_only)
        yield "]"
    else:
        plain = _plain(value)
        yield json.dumps(plain, ensure_ascii=ascii_only, allow_nan=False).replace("\x7f", "\\u007f")


def _plain(value: Any) -> Any:
    """Python's own numbers for those of numpy; float32 ones as the shortest decimals that read back to them."""
    if isinstance(value, np.ndarray | np.generic):
        if value.dtype != np.float32:
            return value.tolist()
        short = np.zeros(value.shape)
        rest = np.asarray(value != 0)  # half of a causal map is 0: no need to spell it
        short[rest] = np.asarray(value)[rest].astype(str).astype(np.float64)
        return short.tolist()
    return value


def csv_chunks(table: Table) -> Iterator[str]:
    """A table as RFC 4180 has it, but with plain newlines."""
    header, rows = table
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    for row in rows:
        writer.writerow(row)
        if buffer.tell() > 1 << 16:
            yield buffer.getvalue()
            buffer.seek(0)
            buffer.truncate()
    yield buffer.getvalue()


def npz_bytes(data: Mapping[str, Any]) -> bytes:
    """The JSON document as named arrays, without pickle.

    Names are those of the JSON fields, inner ones joined by dots: `maps.weights`. A list of objects becomes one array
    for each field, stacked where the shapes agree, else one an item (`maps.0.weights`). null is -1 among whole numbers,
    NaN among other numbers, and "" among text.
    """
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **_flat("", data))  # type: ignore[arg-type]
    return buffer.getvalue()


def _flat(name: str, value: Any) -> dict[str, "np.ndarray[Any, Any]"]:
    prefix = f"{name}." if name else ""
    if isinstance(value, Mapping):
        return {key: array for field, item in value.items() for key, array in _flat(f"{prefix}{field}", item).items()}
    if isinstance(value, list | tuple) and any(isinstance(each, Mapping) for each in value):
        if len({tuple(each) for each in value}) == 1:
            columns = {field: [each[field] for each in value] for field in value[0]}
            return _flat(name, columns)
        return {k: a for i, each in enumerate(value) for k, a in _flat(f"{prefix}{i}", each).items()}
    array = _array(value)
    if array is not None:
        return {name: array}
    return {key: each for i, item in enumerate(value) for key, each in _flat(f"{prefix}{i}", item).items()}


def _array(value: Any) -> "np.ndarray[Any, Any] | None":
    """Numbers, text or truth values as one array; None for a list whose items differ in shape or are objects."""
    if isinstance(value, list | tuple) and any(each is None for each in value):
        kinds = {type(each) for each in value} - {type(None)}
        null: Any = "" if kinds == {str} else -1 if kinds <= {int} else math.nan
        value = [null if each is None else each for each in value]
    if value is None:
        return np.array(math.nan)
    try:
        array = np.asarray(value)
    except ValueError:
        return None
    return array if array.dtype.kind in "biufU" else None


def picture_bytes(make: "Callable[[], Figure]", form: str) -> bytes:
    """A matplotlib figure as `png` or `svg`. Text in it is never read as mathematics. Raises `LlmcliError` where
    matplotlib is missing."""
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise LlmcliError("pictures need matplotlib, which is not installed", 'pip install "llmcli[plot]"') from error
    buffer = io.BytesIO()
    plain: Any = {"text.parse_math": False, "svg.hashsalt": "llmcli", "font.family": _fonts()}
    with mpl.rc_context(plain):
        figure = make()
        figure.savefig(buffer, format=form, dpi=150, metadata={"Date": None} if form == "svg" else None)
    return buffer.getvalue()


def _fonts() -> list[str]:
    """matplotlib's own font, then those of this machine that draw what it lacks."""
    from matplotlib import font_manager

    installed = {font.name for font in font_manager.fontManager.ttflist}
    wanted = ("Noto Sans CJK JP", "Noto Sans CJK SC", "Hiragino Sans", "PingFang SC", "WenQuanYi Zen Hei", "Noto Emoji")
    return ["DejaVu Sans", *(name for name in wanted if name in installed)]


def drawable(text: str) -> str:
    """A text in which characters that no font of this machine draws are spelled as U+4F60."""
    from matplotlib import font_manager

    covered: set[int] = set()
    for name in _fonts():
        font = font_manager.get_font(font_manager.findfont(name))
        covered |= set(font.get_charmap())
    return "".join(c if ord(c) in covered else f"U+{ord(c):04X}" for c in text)
