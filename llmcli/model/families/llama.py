"""Llama 1 to 3, TinyLlama, SmolLM2 (Touvron et al. 2023, arXiv:2302.13971)."""

from llmcli.model.config import ModelConfig
from llmcli.model.families.common import activation, one_type, shape, tokens_and_dtype
from llmcli.model.families.keys import Keys
from llmcli.model.families.rope import read_rope
from llmcli.model.families.table import WeightTable, same

LAYERS = {
    "model.layers.{i}.input_layernorm": same("blocks.{i}.attention_norm"),
    "model.layers.{i}.self_attn.q_proj": same("blocks.{i}.attention.q"),
    "model.layers.{i}.self_attn.k_proj": same("blocks.{i}.attention.k"),
    "model.layers.{i}.self_attn.v_proj": same("blocks.{i}.attention.v"),
    "model.layers.{i}.self_attn.o_proj": same("blocks.{i}.attention.o"),
    "model.layers.{i}.post_attention_layernorm": same("blocks.{i}.ffn_norm"),
    "model.layers.{i}.mlp.gate_proj": same("blocks.{i}.ffn.gate"),
    "model.layers.{i}.mlp.up_proj": same("blocks.{i}.ffn.up"),
    "model.layers.{i}.mlp.down_proj": same("blocks.{i}.ffn.down"),
}
ENDS = {
    "model.embed_tokens": same("embedding"),
    "model.norm": same("norm"),
    "lm_head": same("lm_head"),
}
WEIGHTS = WeightTable(ENDS | LAYERS)


def translate(keys: Keys) -> ModelConfig:
    sizes = shape(
        keys,
        vocab_size=32_000,
        hidden_size=4096,
        intermediate_size=11_008,
        num_hidden_layers=32,
        num_attention_heads=32,
        max_position_embeddings=2048,
    )
    biased = keys.flag("attention_bias", False)
    return ModelConfig(
        family="llama",
        norm_eps=keys.positive("rms_norm_eps", 1e-6),
        rope=read_rope(keys, sizes["head_dim"], sizes["context_length"]),
        activation=activation(keys),
        qkv_bias=biased,
        attention_out_bias=biased,
        ffn_bias=keys.flag("mlp_bias", False),
        tied=keys.flag("tie_word_embeddings", False),
        **sizes,
        **one_type(keys, sizes["num_layers"]),
        **tokens_and_dtype(keys, bos=1, eos=2),
    )
