"""`llmcli inspect-attention`: where every head of a model looks."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

from llmcli.cli.attention_options import (
    ColsOption,
    DropSinkOption,
    GenerateOption,
    HeadOption,
    HiddenOption,
    LayerOption,
    LimitOption,
    MeanOption,
    PoolOption,
    RowsOption,
    ScoresOption,
    StepsOption,
    TemperatureOption,
    TokenOption,
    TopHeadsOption,
    ValuesOption,
    VerifyOption,
    check_together,
)
from llmcli.cli.io import note
from llmcli.cli.options import (
    DEFAULT_MODEL,
    ColorOption,
    DeviceOption,
    FileOption,
    JsonOption,
    ModelOption,
    SeedOption,
    TextArgument,
    ThreadsOption,
)
from llmcli.cli.view import (
    CsvOption,
    HtmlOption,
    KeepNewlineOption,
    NpzOption,
    PngOption,
    SvgOption,
    ViewDtypeOption,
    WidthOption,
    emit,
    load_for_view,
    view_options,
    view_text,
)
from llmcli.errors import CheckFailedError, UsageError
from llmcli.ranges import parse_one, parse_ranges

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmcli.inspect.attention import Attention
    from llmcli.pipeline import Pipeline
    from llmcli.render.attention_view import Drawing
    from llmcli.render.export import View

EXAMPLE = 'llmcli inspect-attention "Once upon a time"'
RANKINGS = {"prev": "previous token", "induction": "induction", "sink": "first-token sink", "entropy": "entropy"}


def inspect_attention(
    context: typer.Context,
    text: TextArgument = None,
    file: FileOption = None,
    model: ModelOption = DEFAULT_MODEL,
    layer: LayerOption = None,
    head: HeadOption = None,
    mean: MeanOption = None,
    values: ValuesOption = False,
    scores: ScoresOption = False,
    steps: StepsOption = False,
    drop_sink: DropSinkOption = False,
    top_heads: TopHeadsOption = None,
    limit: LimitOption = 10,
    token: TokenOption = None,
    generate: GenerateOption = None,
    verify: VerifyOption = False,
    temperature: TemperatureOption = 0.0,
    seed: SeedOption = None,
    rows: RowsOption = None,
    cols: ColsOption = None,
    pool: PoolOption = 1,
    hidden: HiddenOption = None,
    keep_newline: KeepNewlineOption = False,
    json: JsonOption = False,
    csv: CsvOption = False,
    npz: NpzOption = None,
    png: PngOption = None,
    svg: SvgOption = None,
    html: HtmlOption = None,
    width: WidthOption = None,
    color: ColorOption = "auto",
    dtype: ViewDtypeOption = "float32",
    threads: ThreadsOption = None,
    device: DeviceOption = "auto",
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
    options = view_options(json, csv, npz, png, svg, html, width, color, others=[hidden])
    check_together(context)
    if steps and (layer is None or head is None):
        raise UsageError("--steps shows one head", "give one --layer and one --head")
    ask = Asked(
        layer, head, mean, scores, drop_sink, generate, temperature, seed, verify, token, steps, top_heads, limit
    )
    words = view_text(text, file, EXAMPLE, keep_newline=keep_newline)
    pipeline = load_for_view(model, device, threads, dtype)
    from llmcli.render.attention_view import Drawing
    from llmcli.render.window import Window

    how = Drawing(pipeline.name, pipeline.dtype, Window(rows, cols, pool), values)
    found, view = _view(pipeline, words, ask, how, with_page=html is not None)
    if hidden is not None:
        _write_hidden(pipeline, found, hidden)
    if hidden is None or json or csv or options.files:
        emit(view, options)
    difference = view.data.get("verify", {}).get("largest_difference", 0.0)
    if difference > view.data.get("verify", {}).get("tolerance", 0.0):
        raise CheckFailedError(
            f"the cached maps differ from one uncached pass by {difference:.2e}",
            "positions that depend on the length (dynamic scaling) do so past the original context",
        )


@dataclass(frozen=True)
class Asked:
    """What was asked for, as typed."""

    layer: str | None
    head: str | None
    mean: Literal["heads", "layers"] | None
    scores: bool
    drop_sink: bool
    generate: int | None
    temperature: float
    seed: int | None
    verify: bool
    token: str | None
    steps: bool
    top_heads: str | None
    limit: int

    @property
    def overview(self) -> bool:
        return self.layer is None and self.head is None and self.mean is None

    def maps(self, pipeline: "Pipeline") -> dict[str, Any]:
        """The choice of maps, for `attention`. Raises `UsageError` for ranges outside the model."""
        config = pipeline.model.config
        layers = None if self.layer is None else parse_ranges(self.layer, config.num_layers, "layer")
        heads = None if self.head is None else parse_ranges(self.head, config.num_heads, "head")
        return {"layers": layers, "heads": heads, "mean": self.mean, "drop_sink": self.drop_sink}

    def generation(self) -> dict[str, Any]:
        """The generation, for `attention`; nothing where none is asked for."""
        if self.generate is None:
            return {}
        return {"max_tokens": self.generate, "temperature": self.temperature, "seed": self.seed}


def _view(pipeline: "Pipeline", words: str, ask: Asked, how: "Drawing", *, with_page: bool) -> "tuple[Attention, View]":
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


def _steps(pipeline: "Pipeline", words: str, found: "Attention", how: "Drawing", page: "Callable[[], str]") -> "View":
    from llmcli.render.attention_view import steps_view

    if len(found.maps) != 1:
        raise UsageError("--steps shows one head", "give one --layer and one --head")
    layer, head = found.maps[0].layer, found.maps[0].head
    assert layer is not None
    assert head is not None
    return steps_view(found, pipeline.attention_steps(words, layer=layer, head=head), how, page)


def _page(
    pipeline: "Pipeline", words: str, found: "Attention", ask: Asked, chosen: dict[str, Any], *, with_page: bool
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


def _write_hidden(pipeline: "Pipeline", found: "Attention", path: Path) -> None:
    from llmcli.render.export import npz_bytes, write_file

    ids = [token.id for token in found.fed]
    tokens = [{"id": token.id, "piece": token.piece} for token in found.fed]
    write_file(path, npz_bytes({"tokens": tokens, "hidden_states": pipeline.hidden_states(ids)}))
    note(f"wrote {path}")
