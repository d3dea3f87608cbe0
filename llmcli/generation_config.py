"""What a model's own generation_config.json asks for, as far as it is applied here."""

import json
from pathlib import Path
from typing import Any

from llmcli.errors import ConfigError, UsageError
from llmcli.sampling_params import SamplingParams

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
