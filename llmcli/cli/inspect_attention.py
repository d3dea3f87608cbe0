"""`llmcli inspect-attention`: where every head of a model looks."""

from typing import TYPE_CHECKING, Any

import typer

from llmcli.cli.attention_options import AttentionOptions, check_together
from llmcli.cli.groups import with_groups
from llmcli.cli.io import note
from llmcli.cli.options import DEFAULT_MODEL, ModelOption
from llmcli.cli.view import HiddenOptions, LoadOptions, TextOptions, ViewOptions, emit
from llmcli.errors import CheckFailedError, UsageError
from llmcli.ranges import parse_one

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmcli.inspect.attention import Attention
    from llmcli.pipeline import Pipeline, Prompt
    from llmcli.render.attention_view import Drawing
    from llmcli.render.export import View

EXAMPLE = 'llmcli inspect-attention "Once upon a time"'
RANKINGS = {"prev": "previous token", "induction": "induction", "sink": "first-token sink", "entropy": "entropy"}


@with_groups
def inspect_attention(
    context: typer.Context,
    text: TextOptions,
    model: ModelOption = DEFAULT_MODEL,
    *,
    ask: AttentionOptions,
    hidden: HiddenOptions,
    view: ViewOptions,
    load: LoadOptions,
) -> None:
    """Show the attention weights: which earlier tokens each token looks at, in every head.

    Without --layer and --head: every head with its entropy and the pattern that it matches best, then the mean map of
    the last layer. With one layer and one head: that map, rows queries, columns keys. With several: small maps.

    \b
    Examples:
      $ llmcli inspect-attention "Once upon a time"
      $ llmcli inspect-attention --layer 2 --head 3 --values "Once upon a time"
      $ llmcli inspect-attention --layer -1 --head all "Once upon a time"
      $ llmcli inspect-attention --layer 2 --head 3 --steps "Once upon"
      $ llmcli inspect-attention --generate 20 --verify "Once upon a time"
      $ llmcli inspect-attention --html attention.html "Once upon a time"
    """
    check_together(context)
    words = text.read(EXAMPLE)
    pipeline = load.load(model)
    from llmcli.render.attention_view import Drawing
    from llmcli.render.window import Window

    how = Drawing(pipeline.name, pipeline.dtype, Window(ask.rows, ask.cols, ask.pool), ask.values)
    found, drawn = _view(pipeline, words, ask, how, with_page=view.html is not None)
    emit(drawn, view, elsewhere=hidden.written(pipeline, [token.id for token in found.fed]))
    difference = drawn.data.get("verify", {}).get("largest_difference", 0.0)
    if difference > drawn.data.get("verify", {}).get("tolerance", 0.0):
        raise CheckFailedError(
            f"the cached maps differ from one uncached pass by {difference:.2e}",
            "positions that depend on the length (dynamic scaling) do so past the original context",
        )


def _view(
    pipeline: "Pipeline", words: "Prompt", ask: AttentionOptions, how: "Drawing", *, with_page: bool
) -> "tuple[Attention, View]":
    from llmcli.inspect.attention import TOLERANCE, largest_difference, rank_heads
    from llmcli.render import attention_view as views

    chosen = ask.maps(pipeline)
    if ask.top_heads is not None:
        found = pipeline.attention(words, layers=[], **ask.generation())
        by = RANKINGS[ask.top_heads]
        return found, views.ranking_view(found, rank_heads(found, by, ask.limit), by, how)
    found = pipeline.attention(words, scores=ask.scores, **chosen, **ask.generation())
    if found.seed is not None:
        note(f"seed {found.seed}")
    page = _page(pipeline, words, found, ask, chosen, with_page=with_page)
    if ask.steps:
        return found, _steps(pipeline, words, found, how, page)
    if ask.token is not None:
        query = parse_one(ask.token, len(found.fed), "token")
        if len(found.maps) != 1:
            raise UsageError("--token looks at one map", "give one --layer and one --head, or --mean")
        return found, views.token_view(found, query, how, page)
    difference = largest_difference(pipeline, found, **chosen) if ask.verify else None
    return found, views.maps_view(
        found, how, overview=ask.overview, page=page, difference=difference, tolerance=TOLERANCE
    )


def _steps(
    pipeline: "Pipeline", words: "Prompt", found: "Attention", how: "Drawing", page: "Callable[[], str]"
) -> "View":
    from llmcli.render.attention_view import steps_view

    if len(found.maps) != 1:
        raise UsageError("--steps shows one head", "give one --layer and one --head")
    layer, head = found.maps[0].layer, found.maps[0].head
    assert layer is not None
    assert head is not None
    return steps_view(found, pipeline.attention_steps(words, layer=layer, head=head), how, page)


def _page(
    pipeline: "Pipeline",
    words: "Prompt",
    found: "Attention",
    ask: AttentionOptions,
    chosen: dict[str, Any],
    *,
    with_page: bool,
) -> "Callable[[], str]":
    """What makes the page: of the chosen maps, or where nothing was chosen of all heads.

    Raises `UsageError` at once where a page is asked for and would be too large.
    """
    from llmcli.render.attention_html import attention_page, check_page

    config = pipeline.model.config
    if with_page:
        check_page(len(found.fed), config.num_layers * config.num_heads if ask.overview else len(found.maps))

    def page() -> str:
        shown = found
        if ask.overview:
            every = chosen | {"layers": range(config.num_layers)}
            shown = pipeline.attention(
                words, **every, **ask.generation() | ({"seed": found.seed} if ask.generate else {})
            )
        return attention_page(shown, pipeline.name, pipeline.dtype)

    return page
