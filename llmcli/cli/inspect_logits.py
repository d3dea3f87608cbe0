"""`llmcli inspect-logits`: what may come next, and how well a text was predicted."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmcli.cli.grammar_options import GrammarOptions
from llmcli.cli.groups import with_groups
from llmcli.cli.io import note
from llmcli.cli.options import DEFAULT_MODEL, ModelOption
from llmcli.cli.sampling_options import SamplingOptions, typed_sampling
from llmcli.cli.view import HiddenOptions, LoadOptions, TextOptions, ViewOptions, emit, spelled
from llmcli.errors import UsageError
from llmcli.sampling_params import merged

if TYPE_CHECKING:
    from llmcli.pipeline import Pipeline, Prompt
    from llmcli.render.export import View

EXAMPLE = 'llmcli inspect-logits "Once upon a time"'

LimitOption = Annotated[int, typer.Option("--limit", metavar="N", min=1, help="Tokens to list.")]


@with_groups
def inspect_logits(
    context: typer.Context,
    text: TextOptions,
    model: ModelOption = DEFAULT_MODEL,
    limit: LimitOption = 10,
    position: Annotated[
        int | None,
        typer.Option(
            "--position",
            metavar="I",
            show_default="the last",
            help="The token after which to look; negative: from the end.",
        ),
    ] = None,
    funnel: Annotated[
        bool, typer.Option("--funnel", help="What each sampling filter leaves, then the draw; takes sampling options.")
    ] = False,
    per_token: Annotated[
        bool, typer.Option("--per-token", help="How well each token of the text was predicted.")
    ] = False,
    lens: Annotated[bool, typer.Option("--lens", help="What each block's hidden state would say.")] = False,
    ablate: Annotated[
        str | None,
        typer.Option(
            "--ablate",
            metavar="PARTS",
            show_default=False,
            help="What changes without these heads and layers: L3.H5,L4.ffn,L0-1.attention.",
        ),
    ] = None,
    *,
    sampling: SamplingOptions,
    grammar: GrammarOptions,
    hidden: HiddenOptions,
    view: ViewOptions,
    load: LoadOptions,
) -> None:
    """Show the distribution of the next token: probability, logit, rank, entropy.

    --funnel shows how many candidates and how much probability each sampling filter leaves, then the draw. --per-token
    shows every token's surprisal, and the text's perplexity and bits per byte. --lens reads the hidden state after
    every block with the model's own final norm and lm_head. --ablate zeroes what heads (L3.H5), whole attentions
    (L3.attention) or feed-forward networks (L4.ffn) add, and shows what changes.

    \b
    Examples:
      $ llmcli inspect-logits "Once upon a time"
      $ llmcli inspect-logits --funnel --top-k 40 --seed 7 "Once upon a time"
      $ llmcli inspect-logits --funnel --choice yes --choice no "Is it raining? "
      $ llmcli inspect-logits --per-token "Once upon a time there was a girl."
      $ llmcli inspect-logits --lens "Once upon a time"
      $ llmcli inspect-logits --ablate L0.H1,L1.ffn "Once upon a time"
    """
    typed = [spelled(context, name) for name in typed_sampling(context)]
    typed += [] if grammar.named is None else [grammar.named]
    chosen = sampling.given(context) | grammar.params
    _check_together(funnel=funnel, per_token=per_token, lens=lens, ablate=ablate, position=position, typed=typed)
    merged({}, chosen)
    words = text.read(EXAMPLE)
    pipeline = load.load(model)
    at = -1 if position is None else position
    if funnel:
        found = _funnel(pipeline, words, chosen, limit)
    elif per_token:
        found = _per_token(pipeline, words, limit)
    elif lens:
        found = _lens(pipeline, words, at, limit)
    elif ablate is not None:
        found = _ablate(pipeline, words, ablate, limit)
    else:
        found = _distribution(pipeline, words, at, limit)
    emit(found, view, elsewhere=hidden.written(pipeline, words))


def _check_together(
    *, funnel: bool, per_token: bool, lens: bool, ablate: str | None, position: int | None, typed: list[str]
) -> None:
    chosen = {"--funnel": funnel, "--per-token": per_token, "--lens": lens, "--ablate": ablate is not None}
    names = [name for name, on in chosen.items() if on]
    if len(names) > 1:
        raise UsageError(f"{names[0]} and {names[1]} exclude each other", "give one of the two")
    if typed and not funnel:
        raise UsageError(
            f"{typed[0]} is given without --funnel", "add --funnel, or leave it out: this view draws nothing"
        )
    if position is not None and names and names != ["--lens"]:
        raise UsageError(f"--position does not go with {names[0]}", "leave it out")


def _document(pipeline: "Pipeline", kind: str, numbers: Any) -> dict[str, Any]:
    from llmcli.inspect.document import document

    return document(kind, numbers, model=pipeline.name, dtype=pipeline.dtype)


def _distribution(pipeline: "Pipeline", text: "Prompt", position: int, limit: int) -> "View":
    from llmcli.inspect.logits import distribution
    from llmcli.render.logits import distribution_view

    numbers = distribution(pipeline, text, position=position, limit=limit)
    return distribution_view(_document(pipeline, "distribution", numbers))


def _funnel(pipeline: "Pipeline", text: "Prompt", params: dict[str, Any], limit: int) -> "View":
    from llmcli.inspect.logits import text_funnel
    from llmcli.render.funnel import funnel_view

    numbers = text_funnel(pipeline, text, limit=limit, **params)
    if numbers.seed is not None:
        note(f"seed {numbers.seed}")
    return funnel_view(_document(pipeline, "funnel", numbers))


def _per_token(pipeline: "Pipeline", text: "Prompt", limit: int) -> "View":
    from llmcli.inspect.logits import text_score
    from llmcli.render.logits import score_view

    return score_view(_document(pipeline, "per-token", text_score(pipeline, text)), limit)


def _lens(pipeline: "Pipeline", text: "Prompt", position: int, limit: int) -> "View":
    from llmcli.inspect.lens import lens
    from llmcli.render.lens import lens_view

    return lens_view(_document(pipeline, "lens", lens(pipeline, text, position=position, limit=limit)))


def _ablate(pipeline: "Pipeline", text: "Prompt", parts: str, limit: int) -> "View":
    from llmcli.inspect.ablation import ablation
    from llmcli.render.ablation import ablation_view

    return ablation_view(_document(pipeline, "ablation", ablation(pipeline, text, parts, limit=limit)), limit)
