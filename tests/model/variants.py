"""Tiny configurations of every family, in the words of `transformers`: (model_type, keys of its config class)."""

from typing import Any

SIZES = {"vocab_size": 101, "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
SIZES |= {"intermediate_size": 64, "max_position_embeddings": 128}
GROUPED = SIZES | {"num_key_value_heads": 2}
GPT2 = {"vocab_size": 101, "n_embd": 48, "n_layer": 3, "n_head": 4, "n_positions": 128}
GEMMA = GROUPED | {"head_dim": 16, "query_pre_attn_scalar": 24, "sliding_window": 9, "num_hidden_layers": 4}
QWEN3 = GROUPED | {"head_dim": 16}


def rope(kind: str, **keys: Any) -> dict[str, Any]:
    """A scaling, for models whose declared context is short, so that texts of the tests reach past it."""
    theta = keys.pop("rope_theta", 10_000.0)
    return {"rope_parameters": {"rope_type": kind, "rope_theta": theta} | keys, "max_position_embeddings": 32}


YARN = {"factor": 4.0, "original_max_position_embeddings": 16}
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 24}
LONG = {
    "short_factor": [1.0, 1.1, 1.3, 1.4, 1.7, 2.0],
    "long_factor": [1.5, 2.0, 3.0, 4.5, 6.0, 9.0],
    "original_max_position_embeddings": 32,
}
LONGROPE = {"rope_parameters": {"rope_type": "longrope", "rope_theta": 10_000.0} | LONG}
LONGROPE |= {"original_max_position_embeddings": 32, "max_position_embeddings": 128}
LONG_4 = {key: value[:4] if isinstance(value, list) else value for key, value in LONG.items()}

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", GPT2),
    "gpt2-untied": ("gpt2", GPT2 | {"tie_word_embeddings": False}),
    "gpt2-inverse-layer": ("gpt2", GPT2 | {"scale_attn_by_inverse_layer_idx": True, "n_inner": 40}),
    "gpt2-unscaled-relu": ("gpt2", GPT2 | {"scale_attn_weights": False, "activation_function": "relu"}),
    "gpt2-upcast": ("gpt2", GPT2 | {"reorder_and_upcast_attn": True, "activation_function": "gelu"}),
    "gpt_neox": ("gpt_neox", SIZES | {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}),
    "gpt_neox-odd": ("gpt_neox", SIZES | {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.75}}),
    "gpt_neox-quarter": ("gpt_neox", SIZES | {"hidden_size": 64, "tie_word_embeddings": True}),
    "gpt_neox-serial": ("gpt_neox", SIZES | {"use_parallel_residual": False, "hidden_size": 64}),
    "gpt_neox-no-bias": ("gpt_neox", SIZES | {"attention_bias": False, "hidden_size": 64, "hidden_act": "gelu_new"}),
    "llama": ("llama", GROUPED),
    "llama-mha-biases": ("llama", SIZES | {"attention_bias": True, "mlp_bias": True, "hidden_act": "gelu"}),
    "llama-tied-mqa": ("llama", SIZES | {"num_key_value_heads": 1, "tie_word_embeddings": True}),
    "llama-head-dim": ("llama", GROUPED | {"head_dim": 20, "rms_norm_eps": 1e-3}),
    "llama-linear": ("llama", GROUPED | rope("linear", factor=4.0)),
    "llama-dynamic": ("llama", GROUPED | rope("dynamic", factor=2.0)),
    "llama-llama3": ("llama", GROUPED | rope("llama3", rope_theta=500.0, **LLAMA3)),
    "llama-yarn": ("llama", GROUPED | rope("yarn", **YARN)),
    "llama-yarn-betas": (
        "llama",
        GROUPED | rope("yarn", **YARN, beta_fast=4.0, beta_slow=0.5, truncate=False, attention_factor=1.3),
    ),
    "llama-yarn-mscale": ("llama", GROUPED | rope("yarn", **YARN, mscale=1.2, mscale_all_dim=0.7)),
    "mistral": ("mistral", GROUPED | {"sliding_window": 9}),
    "mistral-full": ("mistral", GROUPED | {"sliding_window": None, "head_dim": 16}),
    "qwen2": ("qwen2", GROUPED),
    "qwen2-sliding": (
        "qwen2",
        GROUPED
        | {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1, "tie_word_embeddings": True},
    ),
    "qwen2-layer-types": (
        "qwen2",
        GROUPED
        | {"use_sliding_window": True, "sliding_window": 5}
        | {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    ),
    "qwen2-yarn": ("qwen2", GROUPED | rope("yarn", **YARN)),
    "qwen3": ("qwen3", QWEN3),
    "qwen3-bias-sliding": (
        "qwen3",
        QWEN3 | {"attention_bias": True, "use_sliding_window": True, "sliding_window": 6, "max_window_layers": 2},
    ),
    "phi3": ("phi3", GROUPED),
    "phi3-partial-sliding": (
        "phi3",
        GROUPED
        | {"sliding_window": 11, "hidden_size": 64}
        | {"rope_parameters": {"rope_type": "default", "rope_theta": 5000.0, "partial_rotary_factor": 0.5}},
    ),
    "phi3-longrope": ("phi3", GROUPED | LONGROPE),
    "phi3-longrope-partial": (
        "phi3",
        GROUPED
        | LONGROPE
        | {"hidden_size": 64}
        | {"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4, "partial_rotary_factor": 0.5} | LONG_4},
    ),
    "gemma2": ("gemma2", GEMMA),
    "gemma2-uncapped": (
        "gemma2",
        GEMMA | {"attn_logit_softcapping": None, "final_logit_softcapping": None, "attention_bias": True},
    ),
    "gemma2-caps": ("gemma2", GEMMA | {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}),
    "gemma3": ("gemma3_text", GEMMA | {"layer_types": ["sliding_attention", "full_attention"] * 2}),
    "gemma3-linear": (
        "gemma3_text",
        GEMMA
        | {"layer_types": ["sliding_attention"] * 3 + ["full_attention"], "final_logit_softcapping": 5.0}
        | {
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e5},
                "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
            }
        },
    ),
    "olmo2": ("olmo2", GROUPED),
    "olmo2-bias-mha": ("olmo2", SIZES | {"attention_bias": True, "tie_word_embeddings": True}),
    "smollm3": ("smollm3", GROUPED | {"no_rope_layers": [1, 0, 1]}),
    "smollm3-sliding": (
        "smollm3",
        GROUPED
        | {"use_sliding_window": True, "sliding_window": 6, "no_rope_layer_interval": 2, "num_hidden_layers": 4}
        | {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False},
    ),
    "smollm3-yarn": ("smollm3", GROUPED | rope("yarn", **YARN)),
}
# Their rotations depend on the length of the text: cached equals uncached only up to the original length.
LENGTH_DEPENDENT = {"llama-dynamic", "phi3-longrope", "phi3-longrope-partial"}
