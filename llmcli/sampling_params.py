"""What decides which token comes next and when to end: one frozen description, checked once, without torch."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from llmcli.errors import ConfigError, UsageError

DEFAULT_TEMPERATURE = 0.8
DEFAULT_TOP_P = 0.95
DEFAULT_MAX_TOKENS = 256
MAX_SEED = 2**63 - 1

# generation_config.json key -> the value that changes nothing. What is read from there, and what else would change ids.
_READ = ("temperature", "top_k", "top_p", "min_p", "typical_p", "repetition_penalty")
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "num_beams": (None, 1),
    "no_repeat_ngram_size": (None, 0),
    "encoder_repetition_penalty": (None, 1, 1.0),
    "diversity_penalty": (None, 0, 0.0),
    "min_length": (None, 0),
    "min_new_tokens": (None, 0),
    "bad_words_ids": (None, []),
    "sequence_bias": (None, {}, []),
    "suppress_tokens": (None, []),
    "begin_suppress_tokens": (None, []),
    "forced_bos_token_id": (None,),
    "forced_eos_token_id": (None,),
    "exponential_decay_length_penalty": (None,),
    "epsilon_cutoff": (None, 0, 0.0),
    "eta_cutoff": (None, 0, 0.0),
    "penalty_alpha": (None, 0, 0.0),
    "guidance_scale": (None, 1, 1.0),
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

    def __post_init__(self) -> None:
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        object.__setattr__(self, "stop", tuple(self.stop))
        self._whole("top_k", 0)
        self._whole("max_tokens", 0)
        if self.seed is not None:
            self._whole("seed", 0, MAX_SEED)
        self._number("temperature", 0.0)
        self._number("top_p", 0.0, 1.0)
        self._number("min_p", 0.0, 1.0)
        self._number("typical_p", 0.0, 1.0, above=True)
        self._number("repetition_penalty", 0.0, above=True)
        if any(not isinstance(stop, str) or not stop for stop in self.stop):
            raise UsageError("--stop is empty", "give the text that ends generation, for example: --stop '\\n\\n'")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

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


FIELDS = frozenset(each.name for each in fields(SamplingParams))


def merged(model: Mapping[str, Any], given: Mapping[str, Any]) -> SamplingParams:
    """The parameters in force: what was `given` (None: not given), else what the model's file says, else defaults.

    `greedy=True` among the given stands for `temperature=0`.

    Raises `UsageError` for values out of range and for names that do not exist.
    """
    given = dict(given)
    if given.pop("greedy", False):
        if given.get("temperature"):
            raise UsageError(f"--greedy is given with --temperature {given['temperature']}", "leave out one of the two")
        given["temperature"] = 0.0
    unknown = sorted(set(given) - FIELDS)
    if unknown:
        raise UsageError(f"there is no sampling parameter {unknown[0]!r}", f"there are {', '.join(sorted(FIELDS))}")
    chosen = {name: value for name, value in given.items() if value is not None}
    return replace(SamplingParams(), **{**model, **chosen})


def read_generation_config(folder: Path) -> tuple[dict[str, Any], tuple[int, ...], list[str]]:
    """What a model's generation_config.json asks for: sampling parameters, end-of-text ids, and notes.

    Each note names a setting that would change what is generated and is not applied here. Without a file all are
    empty. `do_sample: false` is greedy. Raises `ConfigError` for a file that cannot be read or holds unfit values.
    """
    path = folder / "generation_config.json"
    try:
        values = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}, (), []
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"{path} cannot be read: {error}", "fetch the model's files again, or remove this one"
        ) from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path} is not a JSON object", "fetch the model's files again, or remove this one")
    params = {name: values[name] for name in _READ if values.get(name) is not None}
    if values.get("do_sample") is False:
        params = {name: value for name, value in params.items() if name == "repetition_penalty"} | {"temperature": 0.0}
    if params.get("top_k", 0) == -1:  # another way to write "all"
        params["top_k"] = 0
    try:
        SamplingParams(**params)
    except UsageError as error:
        raise ConfigError(f"{path}: {str(error).removeprefix('--')}", error.remedy) from None
    notes = [
        f"generation_config.json: {name} = {json.dumps(values[name])} is not applied"
        for name, neutral in _NEUTRAL.items()
        if name in values and values[name] not in neutral
    ]
    return params, token_ids(path, "eos_token_id", values.get("eos_token_id")), notes


def token_ids(path: Path, key: str, value: Any) -> tuple[int, ...]:
    """The ids that a JSON value names: one, several or none. Raises `ConfigError` for anything else."""
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if any(isinstance(each, bool) or not isinstance(each, int) for each in ids):
        raise ConfigError(f"{path}: {key} is {value!r}", "it must be a token id or a list of token ids")
    return tuple(ids)
