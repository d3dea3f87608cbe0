"""Gemma 3, the text model (Kamath et al. 2025, arXiv:2503.19786): q and k norms, local and global RoPE."""

from typing import Any

from llmcli.model.config import FULL, SLIDING, ModelConfig, RopeConfig
from llmcli.model.families.common import shape, tokens_and_dtype
from llmcli.model.families.gemma2 import NORMS, gemma_parts, slide_but_every
from llmcli.model.families.keys import Keys
from llmcli.model.families.llama import ENDS, LAYERS
from llmcli.model.families.rope import rope_of
from llmcli.model.families.table import WeightTable, same

WEIGHTS = WeightTable(
    ENDS
    | LAYERS
    | NORMS
    | {
        "model.layers.{i}.self_attn.q_norm": same("blocks.{i}.attention.q_norm"),
        "model.layers.{i}.self_attn.k_norm": same("blocks.{i}.attention.k_norm"),
    },
    bases=("model.", "model.language_model.", "language_model.model.", ""),
    ignored=("*vision_tower.*", "*multi_modal_projector.*"),  # the image part of the larger models
    aliases={"language_model.lm_head": "lm_head"},
)


def translate(keys: Keys) -> ModelConfig:
    keys = text_part(keys)
    sizes = shape(
        keys,
        vocab_size=262_208,
        hidden_size=2304,
        intermediate_size=9216,
        num_hidden_layers=26,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=256,
        max_position_embeddings=131_072,
    )
    types = slide_but_every(keys.integer("sliding_window_pattern", 6), keys, sizes["num_layers"])
    config = ModelConfig(
        family="gemma3",
        rope=local_and_global_rope(keys, sizes),
        qk_norm="head",
        final_softcap=keys.optional("final_logit_softcapping", None) or 0.0,
        **gemma_parts(keys, sizes),
        **sizes,
        **types,
        **tokens_and_dtype(keys, bos=2, eos=1),
    )
    keys.check_unread("gemma3")
    return config


def text_part(keys: Keys) -> Keys:
    """The text model's keys; with images, they stand in `text_config`, and the token ids beside it."""
    text = keys.object("text_config")
    if text is None:
        return keys
    beside = ("bos_token_id", "eos_token_id", "tie_word_embeddings", "dtype", "torch_dtype", "quantization_config")
    return Keys(text.raw | {name: keys.raw[name] for name in beside if name in keys.raw}, "text_config.")


def local_and_global_rope(keys: Keys, sizes: dict[str, Any]) -> dict[str, RopeConfig]:
    """Old form: rope_theta and rope_scaling for the full layers, rope_local_base_freq for the sliding ones."""
    thetas = {FULL: keys.positive("rope_theta", 1e6), SLIDING: keys.positive("rope_local_base_freq", 1e4)}
    both = keys.object("rope_parameters") or Keys({}, "rope_parameters.")
    for name in both.raw:
        if name not in thetas:
            raise both.refuse(name, "gemma3 has one object for each of full_attention and sliding_attention")
    own = {kind: both.object(kind) or Keys({}, f"rope_parameters.{kind}.") for kind in thetas}
    scaling = keys.object("rope_scaling")
    if scaling is not None:
        own[FULL] = Keys(own[FULL].raw | scaling.raw, "rope_scaling.")
    return {
        kind: rope_of(own[kind], sizes["head_dim"], sizes["context_length"], thetas[kind]) for kind in sorted(thetas)
    }
