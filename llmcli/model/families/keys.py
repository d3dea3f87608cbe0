"""config.json's keys: typed, bounded, named access that remembers what was read."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmcli.errors import ConfigError, ModelNotFoundError

MAX_CONFIG_BYTES = 16 * 2**20
MAX_INTEGER = 2**31 - 1

# Keys that change a model's numbers in one family or another, each with the values that change nothing. A family that
# does not read such a key refuses every other value by name: nothing that matters is ever ignored.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "add_cross_attention": (False,),
    "alibi": (False,),
    "attention_bias": (False,),
    "attention_multiplier": (),
    "attn_logit_softcapping": (),
    "clip_qkv": (),
    "embedding_multiplier": (1, 1.0),
    "final_logit_softcapping": (),
    "full_attn_mod": (1,),
    "interpolate_factor": (1,),
    "is_encoder_decoder": (False,),
    "layer_types": (),
    "lm_head_bias": (False,),
    "logit_scale": (1, 1.0),
    "logits_scaling": (1, 1.0),
    "mlp_bias": (False,),
    "multi_query": (False,),
    "no_rope_layers": (),
    "num_experts": (0,),
    "num_local_experts": (0,),
    "partial_rotary_factor": (1, 1.0),
    "per_layer_config": ({},),
    "qkv_bias": (False,),
    "quantization_config": (),
    "query_pre_attn_scalar": (),
    "residual_multiplier": (1, 1.0),
    "rope_interleaved": (False,),
    "sliding_window": (),
    "sliding_window_pattern": (),
    "use_bidirectional_attention": (False,),
    "use_mrope": (False,),
    "use_qk_norm": (False,),
    "use_sliding_window": (False,),
}


class Keys:
    """One JSON object of config.json. Every getter raises ConfigError naming the key and what it may hold."""

    def __init__(self, raw: dict[str, Any], path: str = "") -> None:
        self.raw = raw
        self.path = path
        self.read: set[str] = set()

    @classmethod
    def from_file(cls, path: Path) -> "Keys":
        """Reads a JSON object. Raises ModelNotFoundError where there is no file, ConfigError where it is no object."""
        try:
            if path.stat().st_size > MAX_CONFIG_BYTES:
                raise ConfigError(f"{path} is larger than any model's config.json", "check what the file is")
            raw = json.loads(path.read_bytes().decode("utf-8-sig"))
        except FileNotFoundError:
            raise ModelNotFoundError(
                f"{path.parent} holds no config.json", "name a folder in Hugging Face layout, or a built-in model"
            ) from None
        except OSError as error:
            raise ConfigError(
                f"{path} cannot be read: {error.strerror}", "check the path and its permissions"
            ) from None
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{path} is not JSON: {error}", "download the file again") from None
        if not isinstance(raw, dict):
            raise ConfigError(f"{path} is not a JSON object", "download the file again")
        return cls(raw)

    def get(self, name: str) -> Any:
        """The value as it stands; None where it is absent or null."""
        self.read.add(name)
        return self.raw.get(name)

    def integer(self, name: str, default: int, low: int = 1, high: int = MAX_INTEGER) -> int:
        value = self.get(name)
        value = default if value is None else value
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self.wrong(name, f"a whole number from {low} to {high}")
        return value

    def number(
        self, name: str, default: float | None = None, high: float = 1e12, *, zero: bool = False
    ) -> float | None:
        """A finite number above 0 (or 0 too), at most `high`; `default` where the key is absent or null."""
        value = self.get(name)
        if value is None:
            return default
        if not _is_number(value) or not 0 <= value <= high or (value == 0 and not zero):
            raise self.wrong(name, f"a number {'from' if zero else 'above'} 0 to {high:g}")
        return float(value)

    def optional(self, name: str, default: float | None) -> float | None:
        """As `number`, but a null stands for none rather than for the default."""
        return self.number(name, default if name not in self.raw else None, zero=True)

    def window(self, default: int | None) -> int:
        """`sliding_window`, the number of keys that a query sees; 0 for none (null)."""
        none = default is None or "sliding_window" in self.raw
        return 0 if none and self.get("sliding_window") is None else self.integer("sliding_window", default or 0)

    def positive(self, name: str, default: float, high: float = 1e12) -> float:
        value = self.number(name, default, high=high)
        assert value is not None
        return value

    def flag(self, name: str, default: bool) -> bool:
        value = self.get(name)
        value = default if value is None else value
        if not isinstance(value, bool):
            raise self.wrong(name, "true or false")
        return value

    def text(self, name: str, default: str) -> str:
        value = self.get(name)
        value = default if value is None else value
        if not isinstance(value, str):
            raise self.wrong(name, "a string")
        return value

    def choice(self, name: str, default: str, choices: Mapping[str, str]) -> str:
        """`choices` maps what config.json may say to what it means here."""
        value = self.text(name, default)
        if value not in choices:
            raise self.wrong(name, "one of " + ", ".join(sorted(choices)))
        return choices[value]

    def numbers(self, name: str, length: int) -> tuple[float, ...]:
        """`length` positive finite numbers."""
        value = self.get(name)
        if not isinstance(value, list) or len(value) != length or not all(_is_number(v) and v > 0 for v in value):
            raise self.wrong(name, f"{length} positive numbers")
        return tuple(float(v) for v in value)

    def items(self, name: str, at_least: int) -> list[Any] | None:
        """A list with at least `at_least` items; None where the key is absent or null."""
        value = self.get(name)
        if value is not None and (not isinstance(value, list) or len(value) < at_least):
            raise self.wrong(name, f"a list of at least {at_least} items")
        return value

    def object(self, name: str) -> "Keys | None":
        value = self.get(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.wrong(name, "an object")
        return Keys(value, f"{self.path}{name}.")

    def token_ids(self, name: str) -> tuple[int, ...]:
        """One id or a list of them. A negative id stands for none."""
        value = self.get(name)
        ids = [] if value is None else value if isinstance(value, list) else [value]
        if not all(isinstance(v, int) and not isinstance(v, bool) for v in ids):
            raise self.wrong(name, "a token id or a list of token ids")
        return tuple(v for v in ids if v >= 0)

    def wrong(self, name: str, expected: str) -> ConfigError:
        return ConfigError(
            f"config.json: {self._shown(name)} is {_short(self.raw.get(name))}, but must be {expected}",
            "correct config.json, or download it again",
        )

    def refuse(self, name: str, why: str) -> ConfigError:
        return ConfigError(
            f"config.json: {self._shown(name)} = {_short(self.raw.get(name))}: {why}", "use a model without it"
        )

    def _shown(self, name: str) -> str:
        return self.path + _short(name)[1:-1]  # a name may come from the file: escaped

    def check_unread(self, family: str) -> None:
        """Refuses by name what would change this family's numbers and was not read."""
        for name, neutral in NEUTRAL.items():
            value = self.raw.get(name)
            if name not in self.read and value is not None and value not in neutral:
                raise self.refuse(name, f"llmcli does not know it for {family} models")


def _is_number(value: object) -> bool:
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer that no float can hold
        return False


def _short(value: object) -> str:
    shown = json.dumps(value, ensure_ascii=True)
    return shown if len(shown) <= 60 else shown[:57] + "..."
