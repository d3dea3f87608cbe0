"""Which part of a map that is larger than the screen is drawn, and the words that say what is not."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmcli.errors import UsageError
from llmcli.ranges import parse_ranges, ranges_text

MAX_ROWS = 40
"""Rows drawn of a map whose rows nobody chose."""


@dataclass(frozen=True)
class Window:
    """What was asked for: ranges of rows and columns as typed (None: as many as fit), or blocks of `pool` x `pool`."""

    rows: str | None = None
    columns: str | None = None
    pool: int = 1


@dataclass(frozen=True)
class Part:
    """Rows and columns that are drawn, ascending, and notices on the others."""

    rows: list[int]
    columns: list[int]
    notices: list[str]


def choose_part(
    shape: tuple[int, int], names: tuple[str, str], window: Window, room: int, *, causal: bool = False
) -> Part:
    """The part of a map of `shape` that is drawn where `room` cells fit side by side.

    `names` are the singulars of what rows and columns are. With `causal`, columns that nobody chose end where the last
    chosen row ends: later ones are masked there. Raises `UsageError` for ranges outside the map, and a pool below 1.
    """
    if window.pool < 1:
        raise UsageError(f"--pool is {window.pool}", "give 1 or more")
    height, width = shape
    most_rows, most_columns = MAX_ROWS * window.pool, room * window.pool
    rows = list(range(min(height, most_rows))) if window.rows is None else parse_ranges(window.rows, height, names[0])
    columns = list(range(width)) if window.columns is None else parse_ranges(window.columns, width, names[1])
    if causal and window.columns is None and window.rows is not None:
        columns = columns[: rows[-1] + 1][-most_columns:]
    columns = columns[:most_columns]
    notices = [_notice(names[0], rows, height, "--rows"), _notice(names[1], columns, width, "--cols")]
    shown = [each for each in notices if each]
    if shown and window.rows is None and window.columns is None:
        shown.append(f"all of it in blocks: --pool {max(-(-height // MAX_ROWS), -(-width // room))}")
    return Part(rows, columns, shown)


def _notice(name: str, drawn: list[int], size: int, option: str) -> str | None:
    missing = sorted(set(range(size)) - set(drawn))
    if not missing:
        return None
    return f"{plural(name)} {ranges_text(drawn)} of {size} are shown; the others: {option} {ranges_text(missing)}"


def plural(name: str) -> str:
    return name[:-1] + "ies" if name.endswith("y") and name[-2] not in "aeiou" else f"{name}s"


def pooled(
    values: NDArray[np.floating], masked: NDArray[np.bool_], pool: int, *, add_columns: bool
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """A map in blocks of `pool` x `pool`, the last ones smaller. A block is masked where all of it is.

    A block is the mean of its unmasked cells. With `add_columns`, for maps whose rows are distributions, columns are
    added up and rows averaged instead, so that each row still has its sum.
    """
    rows, columns = (np.arange(0, size, pool) for size in values.shape)

    def add(array: NDArray[np.float64]) -> NDArray[np.float64]:
        over_rows = np.add.reduceat(array, rows, axis=0)
        blocks: NDArray[np.float64] = np.add.reduceat(over_rows, columns, axis=1)
        return blocks

    total = add(np.where(masked, 0.0, values).astype(np.float64))
    seen = add((~masked).astype(np.float64))
    heights = np.diff([*rows, values.shape[0]])[:, None]
    shared = heights if add_columns else np.maximum(seen, 1)
    return total / shared, seen == 0
