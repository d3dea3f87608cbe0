"""GPT-NeoX and Pythia (Black et al. 2022, arXiv:2204.06745): partial RoPE, parallel residual, q, k, v fused by head."""

from llmcli.model.config import ModelConfig
from llmcli.model.families.common import activation, one_type, shape, tokens_and_dtype
from llmcli.model.families.keys import Keys
from llmcli.model.families.rope import read_rope
from llmcli.model.families.table import WeightTable, by_head, same

WEIGHTS = WeightTable(
    {
        "gpt_neox.embed_in": same("embedding"),
        "gpt_neox.layers.{i}.input_layernorm": same("blocks.{i}.attention_norm"),
        "gpt_neox.layers.{i}.attention.query_key_value": by_head(
            "blocks.{i}.attention.q", "blocks.{i}.attention.k", "blocks.{i}.attention.v"
        ),
        "gpt_neox.layers.{i}.attention.dense": same("blocks.{i}.attention.o"),
        "gpt_neox.layers.{i}.post_attention_layernorm": same("blocks.{i}.ffn_norm"),
        "gpt_neox.layers.{i}.mlp.dense_h_to_4h": same("blocks.{i}.ffn.up"),
        "gpt_neox.layers.{i}.mlp.dense_4h_to_h": same("blocks.{i}.ffn.down"),
        "gpt_neox.final_layer_norm": same("norm"),
        "lm_head": same("lm_head"),
    },
    bases=("gpt_neox.", ""),
    ignored=(
        "gpt_neox.layers.*.attention.bias",  # the causal mask, as a tensor
        "gpt_neox.layers.*.attention.masked_bias",
        "gpt_neox.layers.*.attention.rotary_emb.inv_freq",
    ),
    aliases={"embed_out": "lm_head"},
)


def translate(keys: Keys) -> ModelConfig:
    sizes = shape(
        keys,
        vocab_size=50_432,
        hidden_size=6144,
        intermediate_size=24_576,
        num_hidden_layers=44,
        num_attention_heads=64,
        max_position_embeddings=2048,
    )
    if sizes["head_dim"] * sizes["num_heads"] != sizes["hidden_size"] or sizes["num_kv_heads"] != sizes["num_heads"]:
        raise keys.wrong("hidden_size", "heads times head_dim, each head with its own key and value")
    rope = read_rope(
        keys,
        sizes["head_dim"],
        sizes["context_length"],
        theta_key="rotary_emb_base",
        partial=0.25,
        partial_key="rotary_pct",
    )
    biased = keys.flag("attention_bias", True)
    return ModelConfig(
        family="gpt_neox",
        norm="layernorm",
        norm_eps=keys.positive("layer_norm_eps", 1e-5),
        parallel_residual=keys.flag("use_parallel_residual", True),
        rope=rope,
        activation=activation(keys, default="gelu"),
        gated=False,
        qkv_bias=biased,
        attention_out_bias=biased,
        ffn_bias=True,
        tied=keys.flag("tie_word_embeddings", False),
        **sizes,
        **one_type(keys, sizes["num_layers"]),
        **tokens_and_dtype(keys, bos=0, eos=2),
    )
