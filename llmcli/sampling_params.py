"""What decides which token comes next and when to end: one frozen description, checked once, without torch."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any

from llmcli.errors import UsageError

DEFAULT_TEMPERATURE = 0.8
DEFAULT_TOP_P = 0.95
DEFAULT_MAX_TOKENS = 256
MAX_SEED = 2**63 - 1
_LARGE = 1e6  # penalties and biases up to here leave every logit a finite number

# The filters that --samplers orders: name -> (the field that sets it, the value that turns it off). The order is the
# default one: that of llama.cpp, but for the temperature, which here comes before whatever cuts.
SAMPLERS: dict[str, tuple[str, float]] = {
    "repetition-penalty": ("repetition_penalty", 1),
    "frequency-penalty": ("frequency_penalty", 0),
    "presence-penalty": ("presence_penalty", 0),
    "dry": ("dry_multiplier", 0),
    "temperature": ("temperature", 1),
    "top-n-sigma": ("top_n_sigma", 0),
    "top-k": ("top_k", 0),
    "typical": ("typical_p", 1),
    "top-p": ("top_p", 1),
    "min-p": ("min_p", 0),
    "xtc": ("xtc_probability", 0),
}
# What holds the whole text to something: one of them at most.
_CONSTRAINTS = ("json_schema", "regex", "grammar", "choice")
_CUTTING = ("top_n_sigma", "top_k", "typical_p", "top_p", "min_p", "xtc_probability")
# A field that says how another one works, and means nothing without it: (the others, what to add).
_DEPENDS: dict[str, tuple[str, ...]] = {
    "xtc_threshold": ("xtc_probability",),
    "dry_base": ("dry_multiplier",),
    "dry_allowed_length": ("dry_multiplier",),
    "dry_penalty_last_n": ("dry_multiplier",),
    "dry_sequence_breakers": ("dry_multiplier",),
    "mirostat_tau": ("mirostat",),
    "mirostat_eta": ("mirostat",),
    "penalty_window": ("repetition_penalty", "frequency_penalty", "presence_penalty"),
}


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are chosen and when generation ends. Raises `UsageError` naming the flag of a value out of range.

    temperature         logits are divided by it; 0 always takes the most probable token (greedy)
    top_k               the k most probable tokens stay; 0: all
    top_p               the fewest most probable tokens whose mass reaches it stay; 1: all
    min_p               tokens at least this fraction of the most probable one stay; 0: all
    typical_p           the tokens nearest the expected surprise whose mass reaches it stay; 1: all
    repetition_penalty  how much less probable tokens become that are in the text already; 1: not at all
    seed                of the random numbers; None: a new one each time
    max_tokens          tokens to generate at most
    stop                texts that end generation; neither they nor what follows is part of the result
    ignore_eos          go on after an end-of-text token
    top_n_sigma         tokens within this many standard deviations of the largest logit stay; 0: all
    xtc_probability     how often the most probable tokens but the last of those above `xtc_threshold` are left out
    xtc_threshold       the probability from which a token counts among them
    presence_penalty    taken from the logit of every token that is in the text already
    frequency_penalty   taken from the logit of a token once for each time it is in the text
    penalty_window      the last tokens of the text that the three penalties look at; -1: all, 0: none
    dry_multiplier      strength of the penalty on tokens that would go on with a repetition; 0: none
    dry_base            how fast it grows with the repetition's length
    dry_allowed_length  repetitions up to this length cost nothing more than the multiplier
    dry_penalty_last_n  the last tokens that repetitions are looked for in; -1: all, 0: none
    dry_sequence_breakers  texts that no repetition reaches over
    no_repeat_ngram     no row of this many tokens comes twice; 0: any may
    logit_bias          (token, bias) pairs or a mapping: an id, or the text of one token, and what its logit gains
    ban                 texts that are kept from being completed
    mirostat            2: keep the surprise of the tokens near `mirostat_tau` bits; 0: off
    mirostat_tau        the surprise to keep, bits
    mirostat_eta        how fast it is corrected
    min_tokens          tokens before which neither an end-of-text token nor a stop text ends generation
    samplers            the filters of `SAMPLERS` to run, in this order; (): all that are set, in the default order
    logprobs            log-probabilities to tell with each token, those of this many best beside its own; None: none
    json_schema         the text is JSON that this schema allows: the schema as JSON, or as a dictionary
    regex               the text is one that this regular expression matches whole
    grammar             the text is one of this grammar, in Lark's syntax
    choice              the text is one of these
    """

    temperature: float = DEFAULT_TEMPERATURE
    top_k: int = 0
    top_p: float = DEFAULT_TOP_P
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    max_tokens: int = DEFAULT_MAX_TOKENS
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    top_n_sigma: float = 0.0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    penalty_window: int = -1
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = -1
    dry_sequence_breakers: tuple[str, ...] = ("\n", ":", '"', "*")
    no_repeat_ngram: int = 0
    logit_bias: tuple[tuple[int | str, float], ...] = ()
    ban: tuple[str, ...] = ()
    mirostat: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    min_tokens: int = 0
    samplers: tuple[str, ...] = ()
    logprobs: int | None = None
    json_schema: str | None = None
    regex: str | None = None
    grammar: str | None = None
    choice: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("stop", "ban", "dry_sequence_breakers", "choice"):
            self._texts(name)
        for name, low in (("top_k", 0), ("max_tokens", 0), ("min_tokens", 0), ("no_repeat_ngram", 0)):
            self._whole(name, low)
        for name, low in (("penalty_window", -1), ("dry_penalty_last_n", -1), ("dry_allowed_length", 1)):
            self._whole(name, low)
        if self.seed is not None:
            self._whole("seed", 0, MAX_SEED)
        if self.logprobs is not None:
            self._whole("logprobs", 0)
        self._number("temperature", 0.0)
        for name in ("top_n_sigma", "dry_multiplier", "mirostat_tau", "mirostat_eta"):
            self._number(name, 0.0, _LARGE)
        for name in ("top_p", "min_p", "xtc_probability", "xtc_threshold"):
            self._number(name, 0.0, 1.0)
        self._number("typical_p", 0.0, 1.0, above=True)
        self._number("repetition_penalty", 1 / _LARGE, _LARGE)
        self._number("dry_base", 1.0, _LARGE)
        for name in ("presence_penalty", "frequency_penalty"):
            self._number(name, -_LARGE, _LARGE)
        self._biases()
        self._order()
        self._constraint()
        self._together()

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    @property
    def constrained_by(self) -> str | None:
        """The field that says what the whole text has to be; None where none does."""
        return next((name for name in _CONSTRAINTS if getattr(self, name) not in (None, ())), None)

    def _together(self) -> None:
        if self.mirostat not in (0, 2) or isinstance(self.mirostat, bool):
            raise UsageError(f"--mirostat is {self.mirostat!r}", "give 2, the version that there is, or 0 for none")
        if self.greedy and (self.mirostat or self.xtc_probability):
            name = "--mirostat" if self.mirostat else "--xtc-probability"
            raise UsageError(
                f"{name} is given, and temperature 0 draws nothing at random", "give a --temperature above 0"
            )
        if self.min_tokens > self.max_tokens:
            raise UsageError(
                f"--min-tokens {self.min_tokens} is more than --max-tokens {self.max_tokens}", "raise --max-tokens"
            )

    def _constraint(self) -> None:
        if isinstance(self.json_schema, Mapping):
            object.__setattr__(self, "json_schema", json.dumps(self.json_schema))
        for name in ("json_schema", "regex", "grammar"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or not value):
                raise UsageError(f"{flag(name)} is {value!r}", "give a text that is not empty")
        named = [name for name in _CONSTRAINTS if getattr(self, name) not in (None, ())]
        named += [name for name in ("stop", "ignore_eos", "min_tokens") if named and getattr(self, name)]
        if len(named) > 1:
            raise UsageError(f"{flag(named[0])} and {flag(named[1])} exclude each other", "leave out one of the two")

    def _texts(self, name: str) -> None:
        value, spelled = getattr(self, name), flag(name).removesuffix("s")
        texts = (value,) if isinstance(value, str) else value
        if not isinstance(texts, tuple | list):
            raise UsageError(f"{spelled} is {value!r}", "give a text, or several")
        if any(not isinstance(text, str) or not text for text in texts):
            raise UsageError(f"{spelled} is empty", f"give the text that it is about, for example: {spelled} '\\n\\n'")
        object.__setattr__(self, name, tuple(texts))

    def _biases(self) -> None:
        pairs = self.logit_bias.items() if isinstance(self.logit_bias, Mapping) else self.logit_bias
        try:
            object.__setattr__(self, "logit_bias", tuple((token, float(bias)) for token, bias in pairs))
        except (TypeError, ValueError):
            raise UsageError("--logit-bias holds something else than pairs", "give (token, number) pairs") from None
        for token, bias in self.logit_bias:
            if not isinstance(token, int | str) or isinstance(token, bool) or token == "":
                raise UsageError(f"--logit-bias names the token {token!r}", "name it by its id or its text")
            if not abs(bias) <= _LARGE:
                raise UsageError(f"--logit-bias of {token!r} is {bias}", "give a number; -100 all but forbids a token")

    def _order(self) -> None:
        named = self.samplers
        names = [each.strip() for each in named.split(",")] if isinstance(named, str) else named
        if not isinstance(names, tuple | list):
            raise UsageError(f"--samplers is {named!r}", f"name filters, out of {','.join(SAMPLERS)}")
        object.__setattr__(self, "samplers", tuple(names))
        for name in self.samplers:
            if name not in SAMPLERS:
                near = get_close_matches(str(name), SAMPLERS, n=1)
                advice = f"did you mean {near[0]}? " if near else ""
                raise UsageError(f"--samplers: there is no filter {name!r}", f"{advice}there are {','.join(SAMPLERS)}")
        if len(set(self.samplers)) < len(self.samplers):
            raise UsageError("--samplers names a filter twice", "name each one once")

    def _whole(self, name: str, low: int, high: int | None = None) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
            reach = f"of {low} or more" if high is None else f"from {low} to {high}"
            raise UsageError(f"{flag(name)} is {value!r}", f"give a whole number {reach}")

    def _number(self, name: str, low: float, high: float = math.inf, *, above: bool = False) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UsageError(f"{flag(name)} is {value!r}", "give a number")
        # NaN and the infinities fail the comparisons too.
        if not (low < value if above else low <= value) or not value <= high or math.isinf(value):
            reach = f"above {low:g}" if above else f"of {low:g} or more"
            reach += "" if high == math.inf else f", at most {high:g}"
            raise UsageError(f"{flag(name)} is {value}", f"give a number {reach}")


def flag(name: str) -> str:
    """The option that sets a field: `top_k` -> `--top-k`."""
    return "--" + name.replace("_", "-")


FIELDS = {each.name: each.default for each in fields(SamplingParams)}


def merged(model: Mapping[str, Any], given: Mapping[str, Any]) -> SamplingParams:
    """The parameters in force: what was `given` (None: not given), else what the model's file says, else defaults.

    `greedy=True` among the given stands for `temperature=0`. With `mirostat` no cut of the model's file or of the
    defaults is made, and with `samplers` none of their filters runs that it does not name.

    Raises `UsageError` for values out of range, names that do not exist, and values that would have no effect.
    """
    given = dict(given)
    if given.pop("greedy", False):
        if given.get("temperature"):
            raise UsageError(f"--greedy is given with --temperature {given['temperature']}", "leave out one of the two")
        given["temperature"] = 0.0
    unknown = sorted(set(given) - set(FIELDS))
    if unknown:
        raise UsageError(f"there is no sampling parameter {unknown[0]!r}", f"there are {', '.join(sorted(FIELDS))}")
    chosen = {name: value for name, value in given.items() if value is not None}
    base = dict(model)
    if chosen.get("mirostat"):
        base = {name: value for name, value in base.items() if name not in _CUTTING} | {"top_p": 1.0}
    params = SamplingParams(**{**base, **chosen})
    _check_effects(params, chosen)
    return params


def _check_effects(params: SamplingParams, chosen: Mapping[str, Any]) -> None:
    """Raises `UsageError` for a value that was given and can change nothing."""
    off = dict(SAMPLERS.values()) | {"mirostat": 0}
    for name, others in _DEPENDS.items():
        idle = all(getattr(params, other) == off[other] for other in others)
        if idle and chosen.get(name, FIELDS[name]) != FIELDS[name]:
            spelled = flag(name).removesuffix("s")
            raise UsageError(f"{spelled} is given without {flag(others[0])}", f"add {flag(others[0])}")
    for name, (field, neutral) in SAMPLERS.items():
        if params.samplers and name not in params.samplers and chosen.get(field, neutral) not in (neutral, None):
            if field == "temperature" and params.greedy:
                continue
            raise UsageError(
                f"{flag(field)} is given, and --samplers does not name {name}", f"add {name} where it is to come"
            )
