"""`llmcli inspect-positions`: how a model knows where a token stands."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmcli.cli.groups import with_groups
from llmcli.cli.options import DEFAULT_MODEL, ModelOption, SeedOption
from llmcli.cli.view import LoadOptions, TextOptions, ViewOptions, emit, typed_options
from llmcli.errors import UsageError
from llmcli.ranges import parse_ranges

if TYPE_CHECKING:
    from llmcli.pipeline import Pipeline, Prompt
    from llmcli.render.export import View

EXAMPLE = 'llmcli inspect-positions --shift 100 "Once upon a time"'


@with_groups
def inspect_positions(
    context: typer.Context,
    text: TextOptions,
    model: ModelOption = DEFAULT_MODEL,
    at: Annotated[
        int | None,
        typer.Option(
            "--at", metavar="M", show_default=False, help="The rotation of position M, as blocks and as a matrix."
        ),
    ] = None,
    shift: Annotated[
        int | None,
        typer.Option(
            "--shift",
            metavar="K",
            show_default=False,
            help="How attention scores change when the text moves by K positions.",
        ),
    ] = None,
    shuffle: Annotated[
        bool, typer.Option("--shuffle", help="How attention changes when all tokens but the last change places.")
    ] = False,
    channels: Annotated[
        str | None,
        typer.Option(
            "--channels",
            metavar="RANGES",
            show_default="the 3 strongest waves",
            help="Learned table: channels drawn as curves.",
        ),
    ] = None,
    pairs: Annotated[
        str | None,
        typer.Option("--pairs", metavar="RANGES", show_default="3 of them", help="RoPE: pairs of channels to draw."),
    ] = None,
    layer: Annotated[
        int | None, typer.Option("--layer", metavar="L", show_default="0", help="RoPE: whose query is turned.")
    ] = None,
    head: Annotated[
        int | None, typer.Option("--head", metavar="H", show_default="0", help="RoPE: whose query is turned.")
    ] = None,
    token: Annotated[
        int | None, typer.Option("--token", metavar="I", show_default="the last", help="RoPE: whose query is turned.")
    ] = None,
    rows: Annotated[
        str | None, typer.Option("--rows", metavar="RANGES", show_default=False, help="Rows of the map: 0-15,500-511.")
    ] = None,
    cols: Annotated[
        str | None, typer.Option("--cols", metavar="RANGES", show_default=False, help="Columns of the map.")
    ] = None,
    pool: Annotated[int, typer.Option("--pool", metavar="N", min=1, help="Draw the map in blocks of N x N.")] = 1,
    seed: SeedOption = None,
    *,
    view: ViewOptions,
    load: LoadOptions,
) -> None:
    """Show how a model knows where a token stands: a learned table of positions, or RoPE's rotations.

    Of a learned table: the map, channels as curves and how much of each one sinusoid explains, the likeness of
    positions, the principal components. Of RoPE: every pair's angle and wavelength, curves, and a query turned, that of
    a TEXT where one is given. --shift and --shuffle need a TEXT.

    \b
    Examples:
      $ llmcli inspect-positions
      $ llmcli inspect-positions --at 5
      $ llmcli inspect-positions --shift 100 "Once upon a time there was a girl"
      $ llmcli inspect-positions --shuffle "Once upon a time there was a girl"
    """
    typed = typed_options(context)
    _check_together(typed)
    words = text.read(EXAMPLE) if text.given or shift is not None or shuffle else None
    pipeline = load.load(model)
    window = {"rows": rows, "columns": cols, "pool": pool}
    if shift is not None or shuffle:
        assert words is not None
        found = _shift(pipeline, words, shift) if shift is not None else _shuffle(pipeline, words, seed or 0)
    elif at is not None:
        found = _at(pipeline, words, at, pairs, window)
    elif pipeline.model.config.learned_positions:
        _refuse(typed & {"pairs", "layer", "head", "token"}, "this model has a learned table, no RoPE")
        found = _learned(pipeline, channels, window)
    else:
        _refuse(typed & {"channels", "rows", "cols", "pool"}, "this model has RoPE, no learned table")
        query = {"layer": layer or 0, "head": head or 0, "token": -1 if token is None else token}
        if words is None:
            _refuse(typed & {"token"}, "no text is given")
        found = _rope(pipeline, words, pairs, query)
    emit(found, view)


# What each kind of view reads, besides what all read.
_READS = {
    "at": {"pairs", "rows", "cols", "pool"},
    "shift": set[str](),
    "shuffle": {"seed"},
}
_ONLY_SOME = {"channels", "pairs", "layer", "head", "token", "rows", "cols", "pool", "seed"}


def _check_together(typed: set[str]) -> None:
    modes = [name for name in _READS if name in typed]
    if len(modes) > 1:
        raise UsageError(f"--{modes[0]} and --{modes[1]} exclude each other", "give one of the two")
    reads = _READS[modes[0]] if modes else _ONLY_SOME - {"seed"}
    _refuse((typed & _ONLY_SOME) - reads, f"--{modes[0]} does not read it" if modes else "it is for --shuffle")


def _refuse(names: set[str], why: str) -> None:
    if names:
        raise UsageError(f"--{min(names)}: {why}", "leave it out")


def _document(pipeline: "Pipeline", kind: str, numbers: Any) -> dict[str, Any]:
    from llmcli.inspect.document import document

    return document(kind, numbers, model=pipeline.name, dtype=pipeline.dtype)


def _learned(pipeline: "Pipeline", channels: str | None, window: dict[str, Any]) -> "View":
    from llmcli.inspect.positions import learned_table
    from llmcli.render.positions import learned_view, strongest
    from llmcli.render.window import Window

    data = _document(pipeline, "learned", learned_table(pipeline))
    chosen = strongest(data, 3) if channels is None else parse_ranges(channels, data["table"].shape[1], "channel")
    return learned_view(data, chosen, Window(**window))


def _rope(pipeline: "Pipeline", text: "Prompt | None", pairs: str | None, query: dict[str, int]) -> "View":
    from llmcli.inspect.rope import rope_report
    from llmcli.render.rope import rope_view

    return rope_view(_document(pipeline, "rope", rope_report(pipeline, text, pairs=pairs, **query)))


def _at(pipeline: "Pipeline", text: "Prompt | None", at: int, pairs: str | None, window: dict[str, Any]) -> "View":
    from llmcli.inspect.rope import rotation_at
    from llmcli.render.rope import rotation_view
    from llmcli.render.window import Window

    found = rotation_at(pipeline, at, text)
    most = max(len(each.blocks) for each in found.rotations)
    chosen = list(range(min(3, most))) if pairs is None else parse_ranges(pairs, most, "pair")
    return rotation_view(_document(pipeline, "rotation", found), chosen, Window(**window))


def _shift(pipeline: "Pipeline", text: "Prompt", k: int) -> "View":
    from llmcli.inspect.order import shift
    from llmcli.render.order import shift_view

    return shift_view(_document(pipeline, "shift", shift(pipeline, text, k)))


def _shuffle(pipeline: "Pipeline", text: "Prompt", seed: int) -> "View":
    from llmcli.inspect.order import shuffle
    from llmcli.render.order import shuffle_view

    return shuffle_view(_document(pipeline, "shuffle", shuffle(pipeline, text, seed=seed)))
