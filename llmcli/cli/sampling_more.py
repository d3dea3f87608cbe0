"""The rest of the options that say how tokens are chosen, and the way a command takes all of them at once."""

import inspect
import re
from collections.abc import Callable
from typing import Annotated, Any

import typer

from llmcli.cli.options import SeedOption
from llmcli.cli.sampling_options import (
    GreedyOption,
    MinPOption,
    RepetitionPenaltyOption,
    TemperatureOption,
    TopKOption,
    TopPOption,
    TypicalPOption,
)
from llmcli.errors import UsageError
from llmcli.sampling_params import SAMPLERS, SamplingParams
from llmcli.settings import variable

DEFAULTS = SamplingParams()

TopNSigmaOption = Annotated[
    float | None,
    typer.Option(
        "--top-n-sigma",
        metavar="N",
        envvar=variable("top_n_sigma"),
        show_envvar=True,
        show_default="0",
        help="Leave out logits more than N standard deviations below the best; 0: none.",
    ),
]
XtcProbabilityOption = Annotated[
    float | None,
    typer.Option(
        "--xtc-probability",
        metavar="P",
        show_default="0",
        help="How often the top choices are excluded, all but the last that reaches the threshold.",
    ),
]
XtcThresholdOption = Annotated[
    float | None,
    typer.Option(
        "--xtc-threshold",
        metavar="P",
        show_default=str(DEFAULTS.xtc_threshold),
        help="The probability from which a token is a top choice.",
    ),
]
PresencePenaltyOption = Annotated[
    float | None,
    typer.Option(
        "--presence-penalty",
        metavar="X",
        envvar=variable("presence_penalty"),
        show_envvar=True,
        show_default="0",
        help="Taken from the logit of every token that is in the text already.",
    ),
]
FrequencyPenaltyOption = Annotated[
    float | None,
    typer.Option(
        "--frequency-penalty",
        metavar="X",
        envvar=variable("frequency_penalty"),
        show_envvar=True,
        show_default="0",
        help="Taken from a token's logit once for each time that it is in the text.",
    ),
]
PenaltyWindowOption = Annotated[
    int | None,
    typer.Option(
        "--penalty-window",
        metavar="N",
        show_default="-1",
        help="The last tokens that the three penalties look at; -1: all.",
    ),
]
DryMultiplierOption = Annotated[
    float | None,
    typer.Option(
        "--dry-multiplier", metavar="X", show_default="0", help="Strength of DRY, which keeps rows from coming again."
    ),
]
DryBaseOption = Annotated[
    float | None,
    typer.Option(
        "--dry-base",
        metavar="X",
        show_default=str(DEFAULTS.dry_base),
        help="How fast DRY grows with the length of a repetition.",
    ),
]
DryAllowedLengthOption = Annotated[
    int | None,
    typer.Option(
        "--dry-allowed-length",
        metavar="N",
        show_default=str(DEFAULTS.dry_allowed_length),
        help="DRY acts on repetitions of N tokens and more.",
    ),
]
DryPenaltyLastNOption = Annotated[
    int | None,
    typer.Option(
        "--dry-penalty-last-n",
        metavar="N",
        show_default="-1",
        help="The last tokens that DRY looks for repetitions in; -1: all.",
    ),
]
DryBreakerOption = Annotated[
    list[str] | None,
    typer.Option(
        "--dry-sequence-breaker",
        metavar="TEXT",
        show_default=r'\n, :, ", *',
        help="A text that no repetition reaches over; may be repeated; none: there is no such text.",
    ),
]
NoRepeatNgramOption = Annotated[
    int | None,
    typer.Option(
        "--no-repeat-ngram", metavar="N", show_default="0", help="No row of N tokens comes twice; 0: any may."
    ),
]
LogitBiasOption = Annotated[
    list[str] | None,
    typer.Option(
        "--logit-bias",
        metavar="TOKEN=BIAS",
        show_default=False,
        help="Added to the logit of a token, told by its id or its text; may be repeated.",
    ),
]
BanOption = Annotated[
    list[str] | None,
    typer.Option(
        "--ban", metavar="TEXT", show_default=False, help="Keep this text from being completed; may be repeated."
    ),
]
MirostatOption = Annotated[
    int | None,
    typer.Option(
        "--mirostat",
        metavar="2",
        show_default="0",
        help="Hold the surprise of the text; without top-k, top-p and the like unless they are given.",
    ),
]
MirostatTauOption = Annotated[
    float | None,
    typer.Option(
        "--mirostat-tau",
        metavar="X",
        show_default=str(DEFAULTS.mirostat_tau),
        help="The surprise that mirostat holds, in bits.",
    ),
]
MirostatEtaOption = Annotated[
    float | None,
    typer.Option(
        "--mirostat-eta",
        metavar="X",
        show_default=str(DEFAULTS.mirostat_eta),
        help="How fast mirostat corrects itself.",
    ),
]
SamplersOption = Annotated[
    str | None,
    typer.Option(
        "--samplers",
        metavar="A,B,C",
        show_default=",".join(SAMPLERS),
        help="The filters that run, in this order. Biases, bans and min-tokens always come first, mirostat last.",
    ),
]

# By the names that `sampling` below gets them under.
OPTIONS: dict[str, Any] = {
    "greedy": GreedyOption,
    "temperature": TemperatureOption,
    "top_k": TopKOption,
    "top_p": TopPOption,
    "min_p": MinPOption,
    "typical_p": TypicalPOption,
    "top_n_sigma": TopNSigmaOption,
    "xtc_probability": XtcProbabilityOption,
    "xtc_threshold": XtcThresholdOption,
    "mirostat": MirostatOption,
    "mirostat_tau": MirostatTauOption,
    "mirostat_eta": MirostatEtaOption,
    "repetition_penalty": RepetitionPenaltyOption,
    "presence_penalty": PresencePenaltyOption,
    "frequency_penalty": FrequencyPenaltyOption,
    "penalty_window": PenaltyWindowOption,
    "dry_multiplier": DryMultiplierOption,
    "dry_base": DryBaseOption,
    "dry_allowed_length": DryAllowedLengthOption,
    "dry_penalty_last_n": DryPenaltyLastNOption,
    "dry_sequence_breakers": DryBreakerOption,
    "no_repeat_ngram": NoRepeatNgramOption,
    "logit_bias": LogitBiasOption,
    "ban": BanOption,
    "samplers": SamplersOption,
    "seed": SeedOption,
}


def takes_sampling(*, after: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command all options of `OPTIONS`, behind its parameter `after`. What was given of them, ready for
    `sampling_params.merged`, becomes its first argument, `sampling`."""

    def with_options(command: Callable[..., None]) -> Callable[..., None]:
        own = list(inspect.signature(command).parameters.values())[1:]
        takes_context = any(each.name == "context" for each in own)
        place = 1 + [each.name for each in own].index(after)
        context = [] if takes_context else [_parameter("context", typer.Context, inspect.Parameter.empty)]
        options = [_parameter(name, kind, False if name == "greedy" else None) for name, kind in OPTIONS.items()]
        parameters = [*context, *own[:place], *options, *own[place:]]

        def taking(**values: Any) -> None:
            given = _given(values["context"], {name: values.pop(name) for name in OPTIONS})
            if not takes_context:
                del values["context"]
            command(given, **values)

        taking.__name__, taking.__doc__, taking.__module__ = command.__name__, command.__doc__, command.__module__
        taking.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        taking.__annotations__ = {each.name: each.annotation for each in parameters}
        return taking

    return with_options


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default, annotation=annotation)


def typed_sampling(context: typer.Context) -> list[str]:
    """The options of `OPTIONS` that stand on the command line itself."""
    return [name for name in OPTIONS if str(context.get_parameter_source(name)).endswith("COMMANDLINE")]


def _given(context: typer.Context, values: dict[str, Any]) -> dict[str, Any]:
    given = {name: value for name, value in values.items() if value is not None and value is not False}
    given = {name: value for name, value in given.items() if value != () and value != []}
    if "greedy" in given and "temperature" not in typed_sampling(context):
        given.pop("temperature", None)  # only a flag contradicts --greedy; a setting gives way to it
    if "logit_bias" in given:
        given["logit_bias"] = tuple(map(_bias, given["logit_bias"]))
    if "ban" in given:
        given["ban"] = tuple(map(unescape, given["ban"]))
    if "dry_sequence_breakers" in given:
        texts = tuple(given["dry_sequence_breakers"])
        given["dry_sequence_breakers"] = () if texts == ("none",) else tuple(map(unescape, texts))
    return given


def _bias(text: str) -> tuple[int | str, float]:
    """`50256=-100` or ` the=1.5`; digits alone are an id."""
    token, sign, number = text.rpartition("=")
    try:
        bias = float(number)
    except ValueError:
        sign = ""
        bias = 0.0
    if not sign or not token:
        raise UsageError(f"--logit-bias {text!r} is not TOKEN=BIAS", "for example: --logit-bias 198=-5")
    return (int(token) if re.fullmatch(r"[0-9]{1,18}", token) else unescape(token)), bias


def unescape(text: str) -> str:
    r"""`\n`, `\t` and `\\` as the characters that they stand for; any other backslash is itself."""
    return re.sub(r"\\([nt\\])", lambda match: {"n": "\n", "t": "\t", "\\": "\\"}[match[1]], text)
