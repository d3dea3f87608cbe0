"""Qwen3 (Yang et al. 2025, arXiv:2505.09388): a norm on each head of q and k, and a head_dim of its own."""

from llmcli.model.config import ModelConfig
from llmcli.model.families.common import activation, shape, tokens_and_dtype
from llmcli.model.families.keys import Keys
from llmcli.model.families.llama import ENDS, LAYERS
from llmcli.model.families.qwen2 import upper_layers_slide
from llmcli.model.families.rope import read_rope
from llmcli.model.families.table import WeightTable, same

WEIGHTS = WeightTable(
    ENDS
    | LAYERS
    | {
        "model.layers.{i}.self_attn.q_norm": same("blocks.{i}.attention.q_norm"),
        "model.layers.{i}.self_attn.k_norm": same("blocks.{i}.attention.k_norm"),
    }
)


def translate(keys: Keys) -> ModelConfig:
    sizes = shape(
        keys,
        vocab_size=151_936,
        hidden_size=4096,
        intermediate_size=22_016,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=32,
        head_dim=128,
        max_position_embeddings=32_768,
    )
    types = upper_layers_slide(keys, sizes["num_layers"])
    biased = keys.flag("attention_bias", False)
    return ModelConfig(
        family="qwen3",
        norm_eps=keys.positive("rms_norm_eps", 1e-6),
        rope=read_rope(keys, sizes["head_dim"], sizes["context_length"], types["layer_types"]),
        activation=activation(keys),
        qkv_bias=biased,
        attention_out_bias=biased,
        qk_norm="head",
        tied=keys.flag("tie_word_embeddings", False),
        **sizes,
        **types,
        **tokens_and_dtype(keys),
    )
