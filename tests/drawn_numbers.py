"""The numbers of a drawing, looked up in the document that it was drawn from.

Every number counts: of tables, axes, legends, notices, whole ones and shares. What need not stand in the document as
such is the index of a list's item, and how many items there are: a list says both itself.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

_NUMBER = re.compile(
    r"(?:(?<![\w.,])|(?<=\bL)|(?<=\.H)|(?<=\bH)|(?<=kv))"  # not within a word, but the layer and head of `L3.H5→kv1`
    r"(?<!U\+)"  # a character's name
    r"([-+]?\d(?:[\d,]*\d)?(?:\.\d+)?(?:e[-+]?\d+)?)(?![.\d]*\d)(?!\w)(?:\s*(%|[kMGT]?B\b))?"
)
_COLOR = re.compile(r"\x1b\[[0-9;]*m")
_UNITS = {"": 1.0, "%": 100.0, "B": 1.0, "kB": 1e-3, "MB": 1e-6, "GB": 1e-9, "TB": 1e-12}
_UNLISTED = ("logits",)
"""The logits of a whole vocabulary: among so many there is a number for everything."""


def held(value: Any) -> set[float]:
    """All numbers of a document, those within its texts too, and what its lists say by themselves."""
    if isinstance(value, dict):
        return set().union(*({float(len(each))} if key in _UNLISTED else held(each) for key, each in value.items()))
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return set(np.unique(value).astype(float).tolist()).union(*(_counted(size) for size in value.shape))
    if isinstance(value, list | tuple | np.ndarray):
        return _counted(len(value)).union(*map(held, value))
    if isinstance(value, str):
        return {float(each[0].replace(",", "")) for each in re.finditer(r"\d+(?:\.\d+)?(?:e[-+]?\d+)?", value)}
    return {float(value)} if isinstance(value, int | float) and not isinstance(value, bool) else set()


def _counted(size: int) -> set[float]:
    return set(map(float, range(size + 1)))


def numbers(text: str) -> Iterator[tuple[str, str]]:
    """The numbers of a drawing, each with its unit."""
    return ((found[1], found[2] or "") for found in _NUMBER.finditer(_COLOR.sub("", text)))


def fractions(text: str) -> list[str]:
    """Those that are not whole."""
    return [number for number, _ in numbers(text) if "." in number or "e" in number]


def invented(text: str, data: Any, *, besides: Iterable[float] = ()) -> list[str]:
    """The numbers of a drawing that are no rounding of a number that the document holds, in percent or in megabytes
    where that is their unit."""
    known = np.abs(np.array(sorted(held(data) | set(besides))))
    return [number for number, unit in numbers(text) if not _rounds(number, known * _UNITS[unit], whole=not unit)]


def _rounds(text: str, known: Any, *, whole: bool) -> bool:
    """Whether the text is one of the numbers, rounded; a `whole` one without decimals is exactly one of them."""
    mantissa, _, exponent = text.replace(",", "").lstrip("+-").partition("e")
    scale = 10.0 ** int(exponent or 0)
    half = 0.5 * scale * 10.0 ** -len(mantissa.partition(".")[2])
    if whole and "." not in mantissa and not exponent:
        half = 1e-9
    return bool((np.abs(known - float(mantissa) * scale) <= half * 1.0001).any())
