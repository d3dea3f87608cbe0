"""Tables without lines. One that is too wide for the screen loses its bars, then it is parted: never a number."""

from collections.abc import Iterable, Iterator, Sequence

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

Row = Sequence[str | Text]
_GAP = 2
_BAR = set("█▏▎▍▌▋▊▉ ")


def table(headers: Sequence[str], rows: Iterable[Row], *, left: Sequence[int] = ()) -> "FittingTable":
    """A table; columns stand at the right but those of `left`. A header may have two lines: one whose first line is
    empty belongs to the group of the header before it, and stays with it."""
    texts = [[Text(each) if isinstance(each, str) else each for each in row] for row in rows]
    return FittingTable(headers, texts, left)


class FittingTable:
    """A table that is drawn whole, or in parts below one another that all begin with the columns that name the rows.

    Those are the first ones, up to and with the first that stands at the left.
    """

    def __init__(self, headers: Sequence[str], rows: Sequence[Sequence[Text]], left: Sequence[int]) -> None:
        self._headers, self._rows, self._left = headers, rows, left
        self._widths = [
            max([*map(cell_len, header.split("\n")), *(row[i].cell_len for row in rows)])
            for i, header in enumerate(headers)
        ]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for i, part in enumerate(self._parts(options.max_width)):
            if i:
                yield Text("")
            yield self._drawn(part, fold=self._width(part) > options.max_width)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        width = max(map(self._width, self._parts(options.max_width)))
        return Measurement(min(width, options.max_width), min(width, options.max_width))

    def _width(self, columns: Sequence[int]) -> int:
        return sum(self._widths[i] for i in columns) + _GAP * (len(columns) - 1)

    def _parts(self, width: int) -> Iterator[list[int]]:
        """The columns of each part."""
        columns = list(range(len(self._headers)))
        if self._width(columns) > width:
            columns = [i for i in columns if not self._bars(i)]
        if self._width(columns) <= width:
            yield columns
            return
        names = self._names(width)
        part = list(names)
        for group in self._groups([i for i in columns if i not in names]):
            if len(part) > len(names) and self._width([*part, *group]) > width:
                yield part
                part = list(names)
            part += group
        yield part

    def _bars(self, column: int) -> bool:
        """Whether a column only draws what another one says."""
        return not self._headers[column] and all(set(row[column].plain) <= _BAR for row in self._rows)

    def _names(self, width: int) -> list[int]:
        """The columns that say which row it is; only the first where they would take more than half the width."""
        last = min(self._left, default=0)
        while last + 1 in self._left and not self._headers[last]:
            last += 1
        names = list(range(last + 1)) if last < len(self._headers) - 1 else [0]
        return names if self._width(names) <= width // 2 else [0]

    def _groups(self, columns: Sequence[int]) -> list[list[int]]:
        groups: list[list[int]] = []
        for i in columns:
            if groups and self._headers[i].startswith("\n"):
                groups[-1].append(i)
            else:
                groups.append([i])
        return groups

    def _drawn(self, columns: Sequence[int], *, fold: bool) -> Table:
        drawn = Table(box=None, pad_edge=False, header_style="bold")
        for i in columns:
            justify = "left" if i in self._left else "right"
            drawn.add_column(self._headers[i], justify=justify, no_wrap=not fold, overflow="fold")  # type: ignore[arg-type]
        for row in self._rows:
            drawn.add_row(*(row[i] for i in columns))
        return drawn


class Lines:
    """Rows of texts without a header, in columns; where those do not fit, each row goes on below its second text."""

    def __init__(self, rows: Iterable[Sequence[str]]) -> None:
        self._rows = list(rows)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        count = max(map(len, self._rows), default=0)
        widths = [max(cell_len(row[i]) for row in self._rows if i < len(row)) for i in range(count)]
        for gap in range(_GAP, 0, -1):
            if sum(widths) + gap * (count - 1) <= options.max_width:
                grid = Table.grid(padding=(0, gap))
                for row in self._rows:
                    grid.add_row(*map(Text, row))
                for column in grid.columns:
                    column.no_wrap = True
                yield grid
                return
        grid = Table.grid(padding=(0, _GAP))
        for row in self._rows:
            grid.add_row(Text(row[0]), Text("  ".join(row[1:])))
        yield grid
