"""The options that say how tokens are chosen, for every command that draws some."""

from typing import Annotated

import typer

from llmcli.sampling_params import DEFAULT_TEMPERATURE, DEFAULT_TOP_P
from llmcli.settings import variable

__all__ = [
    "GreedyOption",
    "IgnoreEosOption",
    "MaxTokensOption",
    "MinPOption",
    "RepetitionPenaltyOption",
    "StopOption",
    "TemperatureOption",
    "TopKOption",
    "TopPOption",
    "TypicalPOption",
]

MaxTokensOption = Annotated[
    int,
    typer.Option(
        "--max-tokens", "-n", metavar="N", envvar=variable("max_tokens"), show_envvar=True, help="New tokens at most."
    ),
]
GreedyOption = Annotated[bool, typer.Option("--greedy", help="Always the most probable token: --temperature 0.")]
TemperatureOption = Annotated[
    float | None,
    typer.Option(
        "--temperature",
        "-t",
        metavar="T",
        envvar=variable("temperature"),
        show_envvar=True,
        show_default=f"the model's, else {DEFAULT_TEMPERATURE}",
        help="Below 1 sharpens the distribution, above 1 flattens it; 0 is greedy.",
    ),
]
TopKOption = Annotated[
    int | None,
    typer.Option(
        "--top-k",
        "-k",
        metavar="K",
        envvar=variable("top_k"),
        show_envvar=True,
        show_default="the model's, else 0",
        help="Draw from the K most probable tokens; 0: all.",
    ),
]
TopPOption = Annotated[
    float | None,
    typer.Option(
        "--top-p",
        "-p",
        metavar="P",
        envvar=variable("top_p"),
        show_envvar=True,
        show_default=f"the model's, else {DEFAULT_TOP_P}",
        help="Draw from the fewest tokens whose probabilities reach P; 1: all.",
    ),
]
MinPOption = Annotated[
    float | None,
    typer.Option(
        "--min-p",
        metavar="P",
        envvar=variable("min_p"),
        show_envvar=True,
        show_default="the model's, else 0",
        help="Leave out tokens less than P times as probable as the best.",
    ),
]
TypicalPOption = Annotated[
    float | None,
    typer.Option(
        "--typical-p",
        metavar="P",
        envvar=variable("typical_p"),
        show_envvar=True,
        show_default="the model's, else 1",
        help="Draw from the tokens nearest the expected surprise whose probabilities reach P.",
    ),
]
RepetitionPenaltyOption = Annotated[
    float | None,
    typer.Option(
        "--repetition-penalty",
        metavar="R",
        envvar=variable("repetition_penalty"),
        show_envvar=True,
        show_default="the model's, else 1",
        help="Above 1 makes tokens that are in the text already less probable.",
    ),
]
StopOption = Annotated[
    list[str] | None,
    typer.Option(
        "--stop",
        metavar="TEXT",
        show_default=False,
        help=r"End before this text; may be repeated. Understands \n, \t and \\.",
    ),
]
IgnoreEosOption = Annotated[bool, typer.Option("--ignore-eos", help="Go on after an end-of-text token.")]
