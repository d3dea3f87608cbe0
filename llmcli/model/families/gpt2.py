"""GPT-2 (Radford et al. 2019): learned positions, LayerNorm, weights stored transposed."""

from llmcli.model.config import ModelConfig
from llmcli.model.families.common import MAX_LAYERS, MAX_WIDTH, activation, tokens_and_dtype
from llmcli.model.families.keys import Keys
from llmcli.model.families.table import WeightTable, same, transposed

WEIGHTS = WeightTable(
    {
        "transformer.wte": same("embedding"),
        "transformer.wpe": same("positions"),
        "transformer.h.{i}.ln_1": same("blocks.{i}.attention_norm"),
        "transformer.h.{i}.attn.c_attn": transposed(
            "blocks.{i}.attention.q", "blocks.{i}.attention.k", "blocks.{i}.attention.v"
        ),
        "transformer.h.{i}.attn.c_proj": transposed("blocks.{i}.attention.o"),
        "transformer.h.{i}.ln_2": same("blocks.{i}.ffn_norm"),
        "transformer.h.{i}.mlp.c_fc": transposed("blocks.{i}.ffn.up"),
        "transformer.h.{i}.mlp.c_proj": transposed("blocks.{i}.ffn.down"),
        "transformer.ln_f": same("norm"),
        "lm_head": same("lm_head"),
    },
    bases=("transformer.", ""),
    ignored=("transformer.h.*.attn.bias", "transformer.h.*.attn.masked_bias"),  # the causal mask, as a tensor
)


def translate(keys: Keys) -> ModelConfig:
    hidden = keys.integer("n_embd", 768, high=MAX_WIDTH)
    heads = keys.integer("n_head", 12, high=MAX_WIDTH)
    layers = keys.integer("n_layer", 12, high=MAX_LAYERS)
    if hidden % heads:
        raise keys.wrong("n_embd", f"a multiple of the {heads} heads")
    scaled, by_depth = keys.flag("scale_attn_weights", True), keys.flag("scale_attn_by_inverse_layer_idx", False)
    scale = (hidden // heads) ** -0.5 if scaled else 1.0
    scales = tuple(scale / (i + 1) if by_depth else scale for i in range(layers))
    if scaled and not by_depth:
        scales = ()  # the usual scale
    return ModelConfig(
        family="gpt2",
        vocab_size=keys.integer("vocab_size", 50_257),
        hidden_size=hidden,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=hidden // heads,
        intermediate_size=keys.integer("n_inner", 4 * hidden, high=64 * MAX_WIDTH),
        context_length=keys.integer("n_positions", keys.integer("n_ctx", 1024)),
        norm="layernorm",
        norm_eps=keys.positive("layer_norm_epsilon", 1e-5),
        learned_positions=True,
        activation=activation(keys, "activation_function", "gelu_new"),
        gated=False,
        qkv_bias=True,
        attention_out_bias=True,
        ffn_bias=True,
        attention_scale=scales,
        tied=keys.flag("tie_word_embeddings", True),
        **tokens_and_dtype(keys, bos=50_256, eos=50_256),
    )
