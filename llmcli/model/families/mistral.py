"""Mistral 7B and its kin (Jiang et al. 2023, arXiv:2310.06825): Llama with a sliding window on every layer."""

from llmcli.model.config import ModelConfig
from llmcli.model.families.common import activation, one_type, shape, tokens_and_dtype
from llmcli.model.families.keys import Keys
from llmcli.model.families.llama import ENDS, LAYERS
from llmcli.model.families.rope import read_rope
from llmcli.model.families.table import WeightTable

WEIGHTS = WeightTable(ENDS | LAYERS)


def translate(keys: Keys) -> ModelConfig:
    sizes = shape(
        keys,
        vocab_size=32_000,
        hidden_size=4096,
        intermediate_size=14_336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=131_072,
    )
    types = one_type(keys, sizes["num_layers"], keys.window(4096))
    return ModelConfig(
        family="mistral",
        norm_eps=keys.positive("rms_norm_eps", 1e-6),
        rope=read_rope(keys, sizes["head_dim"], sizes["context_length"], types["layer_types"]),
        activation=activation(keys),
        tied=keys.flag("tie_word_embeddings", False),
        **sizes,
        **types,
        **tokens_and_dtype(keys, bos=1, eos=2),
    )
