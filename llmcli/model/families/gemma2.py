"""Gemma 2 (Riviere et al. 2024, arXiv:2408.00118): norms before and after, soft caps, every second layer sliding."""

from typing import Any

from llmcli.model.config import FULL, SLIDING, ModelConfig
from llmcli.model.families.common import activation, layer_types, shape, tokens_and_dtype
from llmcli.model.families.keys import Keys
from llmcli.model.families.llama import ENDS, LAYERS
from llmcli.model.families.rope import read_rope
from llmcli.model.families.table import WeightTable, same

# post_attention_layernorm, in Llama the norm before the feed-forward network, is here what its name says.
NORMS = {
    "model.layers.{i}.post_attention_layernorm": same("blocks.{i}.attention_post_norm"),
    "model.layers.{i}.pre_feedforward_layernorm": same("blocks.{i}.ffn_norm"),
    "model.layers.{i}.post_feedforward_layernorm": same("blocks.{i}.ffn_post_norm"),
}
WEIGHTS = WeightTable(ENDS | LAYERS | NORMS)


def translate(keys: Keys) -> ModelConfig:
    sizes = shape(
        keys,
        vocab_size=256_000,
        hidden_size=2304,
        intermediate_size=9216,
        num_hidden_layers=26,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=256,
        max_position_embeddings=8192,
    )
    if keys.integer("sliding_window_pattern", 2) != 2:
        raise keys.refuse("sliding_window_pattern", "in gemma2 every second layer slides")
    types = slide_but_every(2, keys, sizes["num_layers"])
    return ModelConfig(
        family="gemma2",
        rope=read_rope(keys, sizes["head_dim"], sizes["context_length"], types["layer_types"]),
        attention_softcap=keys.optional("attn_logit_softcapping", 50.0) or 0.0,
        final_softcap=keys.optional("final_logit_softcapping", 30.0) or 0.0,
        **gemma_parts(keys, sizes),
        **sizes,
        **types,
        **tokens_and_dtype(keys, bos=2, eos=1),
    )


def slide_but_every(n: int, keys: Keys, layers: int) -> dict[str, Any]:
    """All layers slide but every n-th, unless `layer_types` says otherwise."""
    window = keys.window(4096)
    default = [SLIDING if (i + 1) % n else FULL for i in range(layers)]
    return {"layer_types": layer_types(keys, default, window), "sliding_window": window}


def gemma_parts(keys: Keys, sizes: dict[str, Any]) -> dict[str, Any]:
    """What Gemma 2 and 3 share."""
    biased = keys.flag("attention_bias", False)
    return {
        "norm_eps": keys.positive("rms_norm_eps", 1e-6),
        "norm_offset": True,
        "norm_placement": "sandwich",
        "activation": activation(keys, "hidden_activation", "gelu_pytorch_tanh"),
        "qkv_bias": biased,
        "attention_out_bias": biased,
        "attention_scale": (keys.positive("query_pre_attn_scalar", 256) ** -0.5,) * sizes["num_layers"],
        "embedding_scale": sizes["hidden_size"] ** 0.5,
        "tied": keys.flag("tie_word_embeddings", True),
    }
