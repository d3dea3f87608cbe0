"""Phi-3 and Phi-4 (Abdin et al. 2024, arXiv:2404.14219): q, k, v fused, gate and up fused, partial RoPE, longrope."""

from llmcli.model.config import ModelConfig
from llmcli.model.families.common import activation, one_type, shape, tokens_and_dtype
from llmcli.model.families.keys import Keys
from llmcli.model.families.llama import ENDS
from llmcli.model.families.rope import read_rope
from llmcli.model.families.table import WeightTable, same, stacked

WEIGHTS = WeightTable(
    ENDS
    | {
        "model.layers.{i}.input_layernorm": same("blocks.{i}.attention_norm"),
        "model.layers.{i}.self_attn.qkv_proj": stacked(
            "blocks.{i}.attention.q", "blocks.{i}.attention.k", "blocks.{i}.attention.v"
        ),
        "model.layers.{i}.self_attn.o_proj": same("blocks.{i}.attention.o"),
        "model.layers.{i}.post_attention_layernorm": same("blocks.{i}.ffn_norm"),
        "model.layers.{i}.mlp.gate_up_proj": stacked("blocks.{i}.ffn.gate", "blocks.{i}.ffn.up"),
        "model.layers.{i}.mlp.down_proj": same("blocks.{i}.ffn.down"),
    }
)


def translate(keys: Keys) -> ModelConfig:
    sizes = shape(
        keys,
        vocab_size=32_064,
        hidden_size=3072,
        intermediate_size=8192,
        num_hidden_layers=32,
        num_attention_heads=32,
        max_position_embeddings=4096,
    )
    types = one_type(keys, sizes["num_layers"], keys.window(None))
    rope = read_rope(
        keys,
        sizes["head_dim"],
        sizes["context_length"],
        types["layer_types"],
        partial_key="partial_rotary_factor",
        original=4096,
    )
    return ModelConfig(
        family="phi3",
        norm_eps=keys.positive("rms_norm_eps", 1e-5),
        rope=rope,
        activation=activation(keys),
        tied=keys.flag("tie_word_embeddings", False),
        **sizes,
        **types,
        **tokens_and_dtype(keys, bos=1, eos=32_000),
    )
