"""What the stages of the guided walk share: their heading, tables with a line a token, the words around them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len
from rich.console import RenderableType
from rich.text import Text

from llmcli.ranges import parse_ranges, ranges_text
from llmcli.render.labels import fit
from llmcli.render.screen import Screen
from llmcli.render.table import Lines, table

MOST_TOKENS = 6
"""Tokens that have a line where nobody chose any: the last ones, so that a stage fits a screen of 24 lines, with the
two lines of a pause below it."""

BEFORE_THE_BLOCK = 2
"""Stages that come before those of the opened block."""

_LABEL = 12


@dataclass(frozen=True)
class Page:
    """What every stage is drawn with: the document, the screen, and the ranges of tokens and keys asked for.

    Raises `UsageError` for ranges outside the text.
    """

    data: dict[str, Any]
    screen: Screen
    rows: str | None = None
    columns: str | None = None
    most: int = MOST_TOKENS

    @property
    def tokens(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.data["tokens"]
        return found

    @property
    def shown(self) -> list[int]:
        """The tokens that have a line."""
        if self.rows is not None:
            return parse_ranges(self.rows, len(self.tokens), "token")
        return list(range(len(self.tokens)))[-self.most :]

    @property
    def last(self) -> str:
        """The last token by its place and label."""
        return f"token {len(self.tokens) - 1} {short(self.tokens[-1]['label'])}"

    def norm_name(self) -> str:
        return {"layernorm": "LayerNorm", "rmsnorm": "RMSNorm"}[self.data["config"]["norm"]]

    def names(self, index: int) -> list[str]:
        """The first two cells of a token's line: its place and label."""
        return [str(index), short(self.tokens[index]["label"])]

    def hidden(self) -> Text | None:
        """The notice of tokens that have no line."""
        others = sorted(set(range(len(self.tokens))) - set(self.shown))
        if not others:
            return None
        count = len(self.tokens)
        return Text(
            f"note: tokens {ranges_text(self.shown)} of {count} are shown; the others: --rows {ranges_text(others)}"
        )

    def numbers_that_fit(self, left: int, most: int, width: int | None = None) -> int:
        """How many columns of numbers of 8 cells fit at the right of `left` cells."""
        return max(1, min(most, ((self.screen.width if width is None else width) - left) // 8))


def short(label: str) -> str:
    """A token's label, cut where it is long."""
    return label if cell_len(label) <= _LABEL else fit(label, _LABEL)


def shape(sizes: Sequence[int]) -> str:
    return f"({', '.join(map(str, sizes))})"


def number(value: float) -> str:
    """Three decimals where they fit seven cells, else three digits that count."""
    text = f"{value:.3f}"
    text = text.removeprefix("-") if float(text) == 0 else text
    return text if len(text) <= 7 else f"{value:.3g}"


def numbers(values: Sequence[float], count: int) -> list[str]:
    return [number(float(value)) for value in values[:count]]


def heading(page: Page, stage: dict[str, Any], name: str) -> Text:
    """The stage's number, its name, and the shapes of what goes in and comes out; below it, inside a block, where in
    the block it stands."""
    text = Text(f"{stage['number'] + 1}/{page.data['count']}  {name}", "bold")
    text.append("  in ", "dim not bold")
    text.append(shape(stage["input"]), "cyan not bold")
    text.append("  out ", "dim not bold")
    text.append(shape(stage["output"]), "cyan not bold")
    if stage["layer"] is not None:
        here = stage["number"] - BEFORE_THE_BLOCK
        # Where both halves read what enters the block, the second one begins anew.
        second = (len(page.data["order"]) - 1) // 2 if page.data["config"]["parallel_residual"] else None
        text.append("\n     block: ", "dim not bold")
        for place, step in enumerate(page.data["order"]):
            text.append((" | " if place == second else " → ") if place else "", "dim not bold")
            text.append(f"[{step}]" if place == here else step, "bold" if place == here else "dim not bold")
    return text


def words(text: str) -> Text:
    return Text(text)


def token_table(page: Page, headers: Sequence[str], columns: Sequence[Sequence[str]]) -> RenderableType:
    """A line for each token shown. `columns` hold a text for every token of the whole text."""
    rows = [[*page.names(i), *(column[i] for column in columns)] for i in page.shown]
    return table(("#", "token", *headers), rows, left=(1,))


def steps_table(stage: dict[str, Any]) -> RenderableType:
    """The inner steps of a stage with the shapes before and after each."""
    return Lines(
        [each["name"], each["operation"], shape(each["input"]), f"→ {shape(each['output'])}"] for each in stage["steps"]
    )
