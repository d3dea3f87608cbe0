"""SmolLM3 (Hugging Face 2025, https://huggingface.co/blog/smollm3): Llama in which some layers have no RoPE."""

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
        vocab_size=128_256,
        hidden_size=2048,
        intermediate_size=11_008,
        num_hidden_layers=36,
        num_attention_heads=16,
        num_key_value_heads=4,
        max_position_embeddings=32_768,
    )
    rotating = rope_layers(keys, sizes["num_layers"])
    window = keys.window(None)
    slides = keys.flag("use_sliding_window", False) and window
    types = layer_types(keys, [SLIDING if slides and not turns else FULL for turns in rotating], window)
    biased = keys.flag("attention_bias", False)
    return ModelConfig(
        family="smollm3",
        norm_eps=keys.positive("rms_norm_eps", 1e-6),
        rope=read_rope(keys, sizes["head_dim"], sizes["context_length"], types, theta=2_000_000.0),
        rope_layers=rotating,
        activation=activation(keys),
        qkv_bias=biased,
        attention_out_bias=biased,
        ffn_bias=keys.flag("mlp_bias", False),
        tied=keys.flag("tie_word_embeddings", True),
        layer_types=types,
        sliding_window=window,
        **sizes,
        **tokens_and_dtype(keys, bos=128_000, eos=128_001),
    )


def rope_layers(keys: Keys, layers: int) -> tuple[bool, ...]:
    """Which layers rotate: `no_rope_layers` holds 1 where one does (sic); without it, all but every n-th."""
    every = keys.integer("no_rope_layer_interval", 4)
    given = keys.items("no_rope_layers", layers)
    if given is None:
        return tuple((i + 1) % every != 0 for i in range(layers))
    if not all(value in (0, 1) for value in given):
        raise keys.wrong("no_rope_layers", "a list of 0 and 1")
    return tuple(bool(value) for value in given[:layers])
