"""`llmcli explain`: the guided walk from a text to its next token."""

import sys
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from llmcli.cli.groups import with_groups
from llmcli.cli.io import is_terminal, note, write_out
from llmcli.cli.options import DEFAULT_MODEL, ModelOption
from llmcli.cli.sampling_options import SamplingOptions, typed_sampling
from llmcli.cli.view import (
    HiddenOptions,
    LoadOptions,
    TextOptions,
    ViewOptions,
    emit,
    screen_of,
    spelled,
    typed_options,
)
from llmcli.errors import UsageError
from llmcli.interrupts import patient
from llmcli.ranges import parse_one
from llmcli.sampling_params import merged

if TYPE_CHECKING:
    from llmcli.inspect.explain_stages import Walk
    from llmcli.pipeline import Pipeline

EXAMPLE = 'llmcli explain "Once upon a time"'
StageName = Literal[
    "encoding", "embedding", "block", "norm", "attention", "residual", "ffn", "blocks", "lm_head", "softmax",
    "sampling", "decoding",
]  # fmt: skip
_OF_A_BLOCK = ("block", "norm", "attention", "residual", "ffn", "blocks")
_OF_THE_DRAW = ("sampling", "decoding")


@with_groups
def explain(
    context: typer.Context,
    text: TextOptions,
    model: ModelOption = DEFAULT_MODEL,
    layer: Annotated[
        str, typer.Option("--layer", metavar="L", help="The block that is opened, from 0 on; -1 is the last.")
    ] = "0",
    only: Annotated[
        StageName | None,
        typer.Option(
            "--only",
            metavar="STAGE",
            help="Show one stage: encoding, embedding, norm, attention, residual, ffn, blocks, lm_head, softmax, "
            "sampling or decoding; or block, all stages of the opened one.",
            show_default=False,
        ),
    ] = None,
    step: Annotated[bool, typer.Option("--step", help="Pause between stages; needs a terminal.")] = False,
    rows: Annotated[
        str | None,
        typer.Option("--rows", metavar="R", help="Tokens that get a line: 0-9,20 or all.", show_default="the last 6"),
    ] = None,
    cols: Annotated[
        str | None,
        typer.Option("--cols", metavar="C", help="Keys drawn of the attention map: 0-9,20.", show_default=False),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, help="Tokens to list of a distribution.")] = 5,
    *,
    sampling: SamplingOptions,
    hidden: HiddenOptions,
    view: ViewOptions,
    load: LoadOptions,
) -> None:
    """Walk from a text to its next token, stage by stage, with the model's own numbers.

    Encoding, embedding, one block opened in the order of its family, all blocks in a line each, lm_head, softmax,
    temperature, top-k, top-p, the draw, decoding. The token drawn is the one that `llmcli generate` draws with the same
    seed and sampling options.

    \b
    Examples:
      $ llmcli explain "Once upon a time"
      $ llmcli explain --step "Once upon a time"
      $ llmcli explain --only attention --layer 2 "Once upon a time"
      $ llmcli explain --top-k 40 --seed 7 --only sampling "Once upon a time"
    """
    typed = [spelled(context, name) for name in typed_sampling(context)]
    _check_together(only, typed=typed, layer="layer" in typed_options(context))
    if step:
        _check_terminal(view, hidden)
    chosen = sampling.given(context)
    merged({}, chosen)
    words = text.read(EXAMPLE)
    pipeline = load.load(model)
    from llmcli.inspect.explain import explain as walk_through

    number = parse_one(layer, pipeline.model.config.num_layers, "layer")
    walk = walk_through(pipeline, words, layer=number, only=only, limit=limit, **chosen)
    _note_seed(walk)
    if hidden.written(pipeline, words) and view.on_terminal:
        return
    _show(pipeline, walk, view, rows, cols, step=step)


def _check_together(only: str | None, *, typed: list[str], layer: bool) -> None:
    if only is None:
        return
    if typed and only not in _OF_THE_DRAW:
        raise UsageError(f"{typed[0]} changes nothing in --only {only}", "leave it out, or show --only sampling")
    if layer and only not in _OF_A_BLOCK:
        raise UsageError(f"--layer opens a block, which --only {only} does not show", "leave out one of the two")


def _check_terminal(options: ViewOptions, hidden: HiddenOptions) -> None:
    if not options.on_terminal or hidden.hidden is not None:
        raise UsageError("--step draws on the terminal, and another form is asked for", "leave out one of the two")
    if not (is_terminal(sys.stdin) and is_terminal(sys.stdout)):
        raise UsageError(
            "--step waits for a key between stages: stdin and stdout must be a terminal",
            "leave it out, or give the text as an argument or with --file",
        )


def _note_seed(walk: "Walk") -> None:
    from llmcli.inspect.explain_stages import Sampling

    for stage in walk.stages:
        if isinstance(stage, Sampling) and stage.seed is not None:
            note(f"seed {stage.seed}")


def _show(
    pipeline: "Pipeline", walk: "Walk", options: ViewOptions, rows: str | None, cols: str | None, *, step: bool
) -> None:
    from llmcli.inspect.document import document
    from llmcli.render.explain import draw_stages, explain_view
    from llmcli.render.screen import draw

    data = document("explain", walk, model=pipeline.name, dtype=pipeline.dtype)
    if not step:
        emit(explain_view(data, rows=rows, columns=cols), options)
        return
    screen = screen_of(options)
    for i, drawn in enumerate(draw_stages(data, screen, rows=rows, columns=cols)):
        if i and not _goes_on():
            return
        write_out(draw(drawn, screen))


def _goes_on() -> bool:
    """Waits for a line on the terminal; whether it asks for more."""
    print("\n[Enter: next stage, q: end] ", end="", file=sys.stderr, flush=True)
    line = patient(sys.stdin.buffer).readline()
    if not line:
        print(file=sys.stderr)
    return bool(line) and not line.strip().lower().startswith(b"q")
