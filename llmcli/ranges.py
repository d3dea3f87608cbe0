"""Ranges of layers, heads, tokens and positions as they are typed: `0-3,5`, `-1`, `-4--1`, `all`."""

import re
from itertools import groupby

from llmcli.errors import UsageError

_PART = re.compile(r"\s*(-?\d+)\s*(?:-\s*(-?\d+)\s*)?")


def parse_ranges(text: str, size: int, what: str) -> list[int]:
    """The numbers that a range names, ascending, each once. They count from 0; negative ones count from the end.

    `what` is the singular of what is counted, such as `layer`. Raises `UsageError` for what is no range, or lies
    outside 0 to size - 1.
    """
    if text.strip() == "all":
        return list(range(size))
    found: set[int] = set()
    for part in text.split(","):
        match = _PART.fullmatch(part)
        if match is None:
            raise UsageError(f"{what} {text!r} is no range", "write for example 3, -1, 0-3,5 or all")
        first = _place(int(match[1]), size, what)
        last = first if match[2] is None else _place(int(match[2]), size, what)
        if last < first:
            raise UsageError(f"{what} range {part.strip()!r} runs backwards", f"write {match[2]}-{match[1]}")
        found.update(range(first, last + 1))
    return sorted(found)


def parse_one(text: str, size: int, what: str) -> int:
    """The one number that a text names. Raises `UsageError` as `parse_ranges` does, and for more than one."""
    numbers = parse_ranges(text, size, what)
    if len(numbers) != 1:
        raise UsageError(f"{what} {text!r} is more than one", f"give one {what}")
    return numbers[0]


def _place(number: int, size: int, what: str) -> int:
    if not -size <= number < size:
        have = f"there are {size}, counted from 0" if size else "there is none"
        raise UsageError(f"there is no {what} {number}", f"{have}; negative numbers count from the end")
    return number % size


def ranges_text(numbers: list[int]) -> str:
    """`parse_ranges` backwards: [0, 1, 2, 5] -> "0-2,5". Numbers ascend."""
    runs = (list(run) for _, run in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]))
    ends = ((run[0][1], run[-1][1]) for run in runs)
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ends)
