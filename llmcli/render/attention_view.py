"""Every form of `inspect-attention` as a `View`: maps, steps, a ranking of heads, one token."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import RenderableType

from llmcli.render.attention import draw_maps, draw_ranking, draw_summary, draw_token, legends
from llmcli.render.attention_data import (
    attention_document,
    maps_table,
    ranking_data,
    ranking_table,
    steps_data,
    steps_table,
    token_table,
)
from llmcli.render.attention_figure import maps_figure, overview_figure, ranking_figure, token_figure
from llmcli.render.export import View
from llmcli.render.parts import model_name, page, stacked
from llmcli.render.screen import Screen
from llmcli.render.steps import draw_steps
from llmcli.render.steps_figure import steps_figure
from llmcli.render.window import Window

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from llmcli.inspect.attention import Attention, HeadSummary
    from llmcli.inspect.steps import HeadSteps

NAME = "inspect-attention"


@dataclass(frozen=True)
class Drawing:
    """How maps are drawn: which part, with numbers or without, and who made them."""

    model: str
    dtype: str
    window: Window
    numbers: bool = False


def maps_view(
    found: "Attention",
    how: Drawing,
    *,
    overview: bool,
    page: Callable[[], str],
    difference: float | None = None,
    tolerance: float = 0.0,
) -> View:
    """The chosen maps, below the overview of all heads where asked for.

    `difference` is the largest one that checking a generation found; None where nothing was checked.
    """
    document = attention_document(found, how.model, how.dtype) | {"legends": legends(found, overview=overview)}
    if difference is not None:
        document["verify"] = {"largest_difference": difference, "tolerance": tolerance}

    def terminal(screen: Screen) -> RenderableType:
        draw = draw_summary if overview else draw_maps
        drawn = draw(found, screen, how.window, numbers=how.numbers)
        if difference is None:
            return drawn
        return stacked(drawn, f"largest difference from one uncached pass: {difference:.2e} (at most {tolerance:g})")

    def figure() -> "Figure":
        return overview_figure(found) if overview else maps_figure(found)

    return View(NAME, document, terminal, lambda: maps_table(found), figure, page)


def ranking_view(found: "Attention", ranking: "Sequence[tuple[HeadSummary, float]]", by: str, how: Drawing) -> View:
    """Heads by one quality."""
    document = attention_document(found, how.model, how.dtype) | {"ranking": ranking_data(ranking, by)}

    def terminal(screen: Screen) -> RenderableType:
        return draw_ranking(found, list(ranking), by, screen)

    return View(
        NAME,
        document,
        terminal,
        lambda: ranking_table(ranking),
        lambda: ranking_figure(found, ranking, by),
        lambda: page(f"{NAME}: {model_name(document)}", terminal),
    )


def token_view(found: "Attention", query: int, how: Drawing, page: Callable[[], str]) -> View:
    """Where one token looks, in the one map that was chosen."""
    document = attention_document(found, how.model, how.dtype) | {"token": query}
    drawn = found.maps[0]
    return View(
        NAME,
        document,
        lambda screen: draw_token(found, drawn, query, screen, how.window),
        lambda: token_table(drawn, query),
        lambda: token_figure(found, drawn, query, how.window),
        page,
    )


def steps_view(found: "Attention", steps: "HeadSteps", how: Drawing, page: Callable[[], str]) -> View:
    """One head step by step."""
    document = attention_document(found, how.model, how.dtype) | {"steps": steps_data(steps)}
    return View(
        NAME,
        document,
        lambda screen: draw_steps(steps, screen, numbers=how.numbers),
        lambda: steps_table(steps),
        lambda: steps_figure(steps),
        page,
    )
