"""What several families' config.json say in the same words."""

from typing import Any, cast

from llmcli.model.config import FULL, SLIDING, Activation
from llmcli.model.families.keys import Keys

MAX_LAYERS = 4096
MAX_WIDTH = 2**20

ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "quick_gelu": "gelu_quick",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}


def activation(keys: Keys, name: str = "hidden_act", default: str = "silu") -> Activation:
    return cast(Activation, keys.choice(name, default, ACTIVATIONS))


def tokens_and_dtype(keys: Keys, bos: int | None = None, eos: int | None = None) -> dict[str, Any]:
    """`bos_token_id`, `eos_token_ids`, `dtype`; `bos` and `eos` are the family's ids where config.json names none."""
    starts = keys.token_ids("bos_token_id") if "bos_token_id" in keys.raw else () if bos is None else (bos,)
    ends = keys.token_ids("eos_token_id") if "eos_token_id" in keys.raw else () if eos is None else (eos,)
    dtype = keys.text("dtype", keys.text("torch_dtype", "float32")).removeprefix("torch.")
    return {"bos_token_id": starts[0] if starts else None, "eos_token_ids": ends, "dtype": dtype}


def shape(keys: Keys, **defaults: int) -> dict[str, Any]:
    """The sizes that all families but GPT-2 name alike. `defaults` are the family's own; without one for
    `head_dim` it is hidden_size / heads, without one for `num_key_value_heads` there are as many as heads."""

    hidden = keys.integer("hidden_size", defaults["hidden_size"], high=MAX_WIDTH)
    heads = keys.integer("num_attention_heads", defaults["num_attention_heads"], high=MAX_WIDTH)
    absent = "num_key_value_heads" not in keys.raw  # null stands for as many as heads
    kv_heads = keys.integer("num_key_value_heads", (absent and defaults.get("num_key_value_heads")) or heads)
    if heads % kv_heads:
        raise keys.wrong("num_key_value_heads", f"a divisor of the {heads} attention heads")
    head_dim = keys.integer("head_dim", defaults.get("head_dim") or max(1, hidden // heads), high=MAX_WIDTH)
    if "head_dim" not in keys.raw and "head_dim" not in defaults and hidden % heads:
        raise keys.wrong("hidden_size", f"a multiple of the {heads} attention heads")
    return {
        "vocab_size": keys.integer("vocab_size", defaults["vocab_size"]),
        "hidden_size": hidden,
        "num_layers": keys.integer("num_hidden_layers", defaults["num_hidden_layers"], high=MAX_LAYERS),
        "num_heads": heads,
        "num_kv_heads": kv_heads,
        "head_dim": head_dim,
        "intermediate_size": keys.integer("intermediate_size", defaults["intermediate_size"], high=64 * MAX_WIDTH),
        "context_length": keys.integer("max_position_embeddings", defaults["max_position_embeddings"]),
    }


def layer_types(
    keys: Keys, default: list[str], window: int, allowed: tuple[str, ...] = (FULL, SLIDING)
) -> tuple[str, ...]:
    """`layer_types`, one of `allowed` a layer; `default` where config.json has none. `window` is `sliding_window`."""
    types = keys.items("layer_types", len(default)) or default
    for value in types:
        if value not in allowed:
            raise keys.refuse("layer_types", f"{value!r} is not an attention that such a model has")
    if SLIDING in types and not window:
        raise keys.wrong("sliding_window", "a number of keys, since some layers have sliding attention")
    return tuple(types[: len(default)])


def one_type(keys: Keys, layers: int, window: int = 0) -> dict[str, Any]:
    """`layer_types` and `sliding_window` of a family whose layers are all alike: sliding where there is a window."""
    kind = SLIDING if window else FULL
    types = layer_types(keys, [kind] * layers, window, (kind,))
    return {"layer_types": types if window else (), "sliding_window": window}
