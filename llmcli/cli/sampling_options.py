"""The options that say how tokens are chosen, for every command that draws some."""

import re
from dataclasses import dataclass, fields
from typing import Annotated, Any

import typer

from llmcli.cli.options import SeedOption
from llmcli.errors import UsageError
from llmcli.sampling_params import DEFAULT_TEMPERATURE, DEFAULT_TOP_P, SAMPLERS, SamplingParams
from llmcli.settings import variable

DEFAULTS = SamplingParams()


def _option(flag: str, metavar: str, default: Any, help: str, *, short: str = "", setting: str = "") -> Any:
    """An option whose default stands in words, since None says that it was not given. `setting`: its name in the
    environment and the configuration file, where it has one."""
    names = [flag, short] if short else [flag]
    shown = default if default is False else str(default)
    if not setting:
        return typer.Option(*names, metavar=metavar, show_default=shown, help=help)
    return typer.Option(
        *names, metavar=metavar, envvar=variable(setting), show_envvar=True, show_default=shown, help=help
    )


@dataclass(frozen=True)
class SamplingOptions:
    """By the names of `SamplingParams`, and `greedy`. None: not given."""

    greedy: Annotated[bool, typer.Option("--greedy", help="Always the most probable token: --temperature 0.")] = False
    temperature: Annotated[
        float | None,
        _option(
            "--temperature",
            "T",
            f"the model's, else {DEFAULT_TEMPERATURE}",
            "Below 1 sharpens the distribution, above 1 flattens it; 0 is greedy.",
            short="-t",
            setting="temperature",
        ),
    ] = None
    top_k: Annotated[
        int | None,
        _option(
            "--top-k",
            "K",
            "the model's, else 0",
            "Draw from the K most probable tokens; 0: all.",
            short="-k",
            setting="top_k",
        ),
    ] = None
    top_p: Annotated[
        float | None,
        _option(
            "--top-p",
            "P",
            f"the model's, else {DEFAULT_TOP_P}",
            "Draw from the fewest tokens whose probabilities reach P; 1: all.",
            short="-p",
            setting="top_p",
        ),
    ] = None
    min_p: Annotated[
        float | None,
        _option(
            "--min-p",
            "P",
            "the model's, else 0",
            "Leave out tokens less than P times as probable as the best.",
            setting="min_p",
        ),
    ] = None
    typical_p: Annotated[
        float | None,
        _option(
            "--typical-p",
            "P",
            "the model's, else 1",
            "Draw from the tokens nearest the expected surprise whose probabilities reach P.",
            setting="typical_p",
        ),
    ] = None
    top_n_sigma: Annotated[
        float | None,
        _option(
            "--top-n-sigma",
            "N",
            0,
            "Leave out logits more than N standard deviations below the best; 0: none.",
            setting="top_n_sigma",
        ),
    ] = None
    xtc_probability: Annotated[
        float | None,
        _option(
            "--xtc-probability",
            "P",
            0,
            "How often the top choices are excluded, all but the last that reaches the threshold.",
        ),
    ] = None
    xtc_threshold: Annotated[
        float | None,
        _option("--xtc-threshold", "P", DEFAULTS.xtc_threshold, "The probability from which a token is a top choice."),
    ] = None
    mirostat: Annotated[
        int | None,
        _option(
            "--mirostat",
            "2",
            0,
            "Hold the surprise of the text; without top-k, top-p and the like unless they are given.",
        ),
    ] = None
    mirostat_tau: Annotated[
        float | None,
        _option("--mirostat-tau", "X", DEFAULTS.mirostat_tau, "The surprise that mirostat holds, in bits."),
    ] = None
    mirostat_eta: Annotated[
        float | None, _option("--mirostat-eta", "X", DEFAULTS.mirostat_eta, "How fast mirostat corrects itself.")
    ] = None
    repetition_penalty: Annotated[
        float | None,
        _option(
            "--repetition-penalty",
            "R",
            "the model's, else 1",
            "Above 1 makes tokens that are in the text already less probable.",
            setting="repetition_penalty",
        ),
    ] = None
    presence_penalty: Annotated[
        float | None,
        _option(
            "--presence-penalty",
            "X",
            0,
            "Taken from the logit of every token that is in the text already.",
            setting="presence_penalty",
        ),
    ] = None
    frequency_penalty: Annotated[
        float | None,
        _option(
            "--frequency-penalty",
            "X",
            0,
            "Taken from a token's logit once for each time that it is in the text.",
            setting="frequency_penalty",
        ),
    ] = None
    penalty_window: Annotated[
        int | None,
        _option("--penalty-window", "N", -1, "The last tokens that the three penalties look at; -1: all."),
    ] = None
    dry_multiplier: Annotated[
        float | None,
        _option("--dry-multiplier", "X", 0, "Strength of DRY, which keeps rows from coming again."),
    ] = None
    dry_base: Annotated[
        float | None,
        _option("--dry-base", "X", DEFAULTS.dry_base, "How fast DRY grows with the length of a repetition."),
    ] = None
    dry_allowed_length: Annotated[
        int | None,
        _option(
            "--dry-allowed-length",
            "N",
            DEFAULTS.dry_allowed_length,
            "DRY acts on repetitions of N tokens and more.",
        ),
    ] = None
    dry_penalty_last_n: Annotated[
        int | None,
        _option("--dry-penalty-last-n", "N", -1, "The last tokens that DRY looks for repetitions in; -1: all."),
    ] = None
    dry_sequence_breakers: Annotated[
        list[str] | None,
        _option(
            "--dry-sequence-breaker",
            "TEXT",
            r'\n, :, ", *',
            "A text that no repetition reaches over; may be repeated; none: there is no such text.",
        ),
    ] = None
    no_repeat_ngram: Annotated[
        int | None, _option("--no-repeat-ngram", "N", 0, "No row of N tokens comes twice; 0: any may.")
    ] = None
    logit_bias: Annotated[
        list[str] | None,
        _option(
            "--logit-bias",
            "TOKEN=BIAS",
            False,
            "Added to the logit of a token, told by its id or its text; may be repeated.",
        ),
    ] = None
    ban: Annotated[
        list[str] | None,
        _option("--ban", "TEXT", False, "Keep this text from being completed; may be repeated."),
    ] = None
    samplers: Annotated[
        str | None,
        _option(
            "--samplers",
            "A,B,C",
            ",".join(SAMPLERS),
            "The filters that run, in this order. Biases, bans and min-tokens always come first, mirostat last.",
        ),
    ] = None
    seed: SeedOption = None

    def given(self, context: typer.Context) -> dict[str, Any]:
        """What was given, ready for `sampling_params.merged`. Raises UsageError for a bias that is none."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
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


def typed_sampling(context: typer.Context) -> list[str]:
    """The options of `SamplingOptions` that stand on the command line itself."""
    names = [each.name for each in fields(SamplingOptions)]
    return [name for name in names if str(context.get_parameter_source(name)).endswith("COMMANDLINE")]


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
