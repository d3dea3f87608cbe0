"""The guided walk as a view: every stage drawn from the document, and all its numbers as one table."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.text import Text

from llmcli.render.explain_block import draw_attention, draw_blocks, draw_ffn, draw_norm, draw_residual
from llmcli.render.explain_ends import (
    draw_decoding,
    draw_embedding,
    draw_encoding,
    draw_lm_head,
    draw_sampling,
    draw_softmax,
)
from llmcli.render.explain_figure import explain_figure
from llmcli.render.explain_parts import Page
from llmcli.render.export import View
from llmcli.render.parts import model_name, page, stacked, title
from llmcli.render.screen import Screen

NAME = "explain"

_DRAWN: dict[str, Callable[[Page, dict[str, Any]], list[RenderableType | None]]] = {
    "encoding": draw_encoding,
    "embedding": draw_embedding,
    "norm": draw_norm,
    "attention": draw_attention,
    "residual": draw_residual,
    "ffn": draw_ffn,
    "blocks": draw_blocks,
    "lm_head": draw_lm_head,
    "softmax": draw_softmax,
    "sampling": draw_sampling,
    "decoding": draw_decoding,
}


def explain_view(data: dict[str, Any], *, rows: str | None = None, columns: str | None = None) -> View:
    """From the document of a `Walk`. `rows` are the tokens that get a line, `columns` the keys of the attention map."""

    def terminal(screen: Screen) -> RenderableType:
        parts = []
        for drawn in draw_stages(data, screen, rows=rows, columns=columns):
            parts += [drawn, Text("")]
        return Group(*parts[:-1])

    return View(
        NAME,
        data,
        terminal,
        lambda: (_CSV, _csv(data)),
        explain_figure(data),
        lambda: page(f"{NAME}: {model_name(data)}", terminal),
    )


def draw_stages(
    data: dict[str, Any], screen: Screen, *, rows: str | None = None, columns: str | None = None
) -> Iterator[RenderableType]:
    """The stages one by one, the first one below the title. Raises `UsageError` for ranges outside the text."""
    drawn_on = Page(data, screen, rows, columns)
    config = data["config"]
    head = title(data, "From text to the next token")
    head.append(
        f", {config['family']}: {config['num_layers']} blocks, {config['hidden_size']} channels", "dim not bold"
    )
    for i, stage in enumerate(data["stages"]):
        drawn = stacked_close(_DRAWN[stage["kind"]](drawn_on, stage))
        yield Group(head, Text(""), drawn) if i == 0 else drawn


def stacked_close(parts: list[RenderableType | None]) -> RenderableType:
    """Parts below one another; the heading and its words without a blank line between them, to spare the screen."""
    first, second, *others = parts
    for each in (first, second):
        if isinstance(each, Text):
            each.end = "\n"
    return stacked(Group(*(each for each in (first, second) if each is not None)), *others)


_CSV = ("stage", "kind", "layer", "name", "row", "column", "value")


def _csv(data: dict[str, Any]) -> Iterator[list[Any]]:
    """A line for every number and text of every stage; `row` and `column` are its places in lists and arrays."""
    for stage in data["stages"]:
        head = [stage["number"], stage["kind"], stage["layer"]]
        for name, value in stage.items():
            if name not in ("number", "kind", "layer"):
                yield from ([*head, *line] for line in _lines(name, value, ()))


def _lines(name: str, value: Any, place: tuple[int, ...]) -> Iterator[list[Any]]:
    if isinstance(value, dict):
        for field, item in value.items():
            yield from _lines(f"{name}.{field}", item, place)
    elif isinstance(value, list | tuple | np.ndarray):
        for i, item in enumerate(value):
            yield from _lines(name, item, (*place, i))
    elif value is not None:
        row, column = (*place, "", "")[:2]
        yield [name, row, column, value]
