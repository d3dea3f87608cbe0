"""OLMo 2 (Walsh et al. 2025, arXiv:2501.00656): norms after attention and feed-forward, and on all of q and of k."""

from llmcli.model.config import ModelConfig
from llmcli.model.families.common import activation, one_type, shape, tokens_and_dtype
from llmcli.model.families.keys import Keys
from llmcli.model.families.llama import ENDS, LAYERS
from llmcli.model.families.rope import read_rope
from llmcli.model.families.table import WeightTable, same

WEIGHTS = WeightTable(
    ENDS
    | {name: entry for name, entry in LAYERS.items() if "layernorm" not in name}
    | {
        "model.layers.{i}.self_attn.q_norm": same("blocks.{i}.attention.q_norm"),
        "model.layers.{i}.self_attn.k_norm": same("blocks.{i}.attention.k_norm"),
        "model.layers.{i}.post_attention_layernorm": same("blocks.{i}.attention_post_norm"),
        "model.layers.{i}.post_feedforward_layernorm": same("blocks.{i}.ffn_post_norm"),
    }
)


def translate(keys: Keys) -> ModelConfig:
    sizes = shape(
        keys,
        vocab_size=50_304,
        hidden_size=4096,
        intermediate_size=11_008,
        num_hidden_layers=32,
        num_attention_heads=32,
        max_position_embeddings=2048,
    )
    biased = keys.flag("attention_bias", False)
    return ModelConfig(
        family="olmo2",
        norm_eps=keys.positive("rms_norm_eps", 1e-5),
        norm_placement="post",
        rope=read_rope(keys, sizes["head_dim"], sizes["context_length"]),
        activation=activation(keys),
        qkv_bias=biased,
        attention_out_bias=biased,
        qk_norm="full",
        tied=keys.flag("tie_word_embeddings", False),
        **sizes,
        **one_type(keys, sizes["num_layers"]),
        **tokens_and_dtype(keys, eos=50_279),
    )
