"""Qwen2 and Qwen2.5 (Yang et al. 2024, arXiv:2407.10671): Llama with biases on q, k and v."""

from typing import Any

from llmcli.model.config import FULL, SLIDING, ModelConfig
from llmcli.model.families.common import activation, layer_types, shape, tokens_and_dtype
from llmcli.model.families.keys import Keys
from llmcli.model.families.llama import ENDS, LAYERS
from llmcli.model.families.rope import read_rope
from llmcli.model.families.table import WeightTable

WEIGHTS = WeightTable(ENDS | LAYERS)


def translate(keys: Keys) -> ModelConfig:
    sizes = shape(
        keys,
        vocab_size=151_936,
        hidden_size=4096,
        intermediate_size=22_016,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=32,
        max_position_embeddings=32_768,
    )
    types = upper_layers_slide(keys, sizes["num_layers"])
    return ModelConfig(
        family="qwen2",
        norm_eps=keys.positive("rms_norm_eps", 1e-6),
        rope=read_rope(keys, sizes["head_dim"], sizes["context_length"], types["layer_types"]),
        activation=activation(keys),
        qkv_bias=True,
        tied=keys.flag("tie_word_embeddings", False),
        **sizes,
        **types,
        **tokens_and_dtype(keys),
    )


def upper_layers_slide(keys: Keys, layers: int) -> dict[str, Any]:
    """With `use_sliding_window`, the layers from `max_window_layers` on slide, unless `layer_types` says otherwise."""
    window = keys.window(4096)  # read in any case: without use_sliding_window it means nothing
    window = window if keys.flag("use_sliding_window", False) else 0
    first = keys.integer("max_window_layers", 28, low=0)
    default = [SLIDING if window and i >= first else FULL for i in range(layers)]
    return {"layer_types": layer_types(keys, default, window), "sliding_window": window}
