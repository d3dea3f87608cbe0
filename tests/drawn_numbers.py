"""The numbers of a drawing, looked up in the document that it was drawn from."""

import re
from collections.abc import Iterable
from typing import Any

import numpy as np

_NUMBER = re.compile(r"(?<![\w.,])([-+]?\d[\d,]*\.?\d*(?:e[-+]?\d+)?)(?![\w.]*\d)(?:\s(%|[kMGT]?B\b))?")
_AXIS = re.compile(r"^[^│┤]*┤|└|\(up: ")
_SHADES = re.compile(r"·+ under.*?up\s+to\s+\S+|· 0\s+░.*?█ 1", re.DOTALL)
_UNITS = {"": 1.0, "%": 100.0, "B": 1.0, "kB": 1e-3, "MB": 1e-6, "GB": 1e-9, "TB": 1e-12}


def held(value: Any) -> set[float]:
    """All numbers of a document, those within its texts too; not the logits of a whole vocabulary, among which there is
    a number for everything."""
    if isinstance(value, dict):
        return set().union(*(held(each) for key, each in value.items() if key != "logits"))
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return set(np.unique(value).astype(float).tolist())
    if isinstance(value, list | tuple | np.ndarray):
        return set().union(*map(held, value))
    if isinstance(value, str):
        return {float(each[0].replace(",", "")) for each in re.finditer(r"\d+(?:\.\d+)?(?:e[-+]?\d+)?", value)}
    return {float(value)} if isinstance(value, int | float) and not isinstance(value, bool) else set()


def fractions(text: str) -> list[tuple[str, str]]:
    """The numbers of a drawing that are not whole, each with its unit, but for those on axes and in legends."""
    lines = [line for line in text.splitlines() if not _AXIS.search(line)]
    found = _NUMBER.findall(_SHADES.sub("", "\n".join(lines)))
    return [(number, unit) for number, unit in found if "." in number or "e" in number]


def invented(text: str, data: Any, *, besides: Iterable[float] = ()) -> list[str]:
    """The numbers of a drawing that are no rounding of a number that the document holds, in percent or in megabytes
    where that is their unit."""
    known = np.abs(np.array(sorted(held(data) | set(besides))))
    return [number for number, unit in fractions(text) if not _rounds(number, known * _UNITS[unit])]


def _rounds(text: str, known: Any) -> bool:
    mantissa, _, exponent = text.replace(",", "").lstrip("+-").partition("e")
    scale = 10.0 ** int(exponent or 0)
    half = 0.5 * scale * 10.0 ** -len(mantissa.partition(".")[2])
    return bool((np.abs(known - float(mantissa) * scale) <= half * 1.0001).any())
