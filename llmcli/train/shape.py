"""A recipe's shape as a model's description, and back; and a fresh model's weights, drawn from the recipe's seed."""

import dataclasses
from typing import Any, cast, get_args

import torch
from torch import nn

from llmcli.errors import UsageError
from llmcli.model.config import FULL, ModelConfig, RopeConfig
from llmcli.model.layers import LayerNorm, RMSNorm
from llmcli.model.transformer import CausalLM
from llmcli.train.recipe import Family, Shape

_FREE = ("bos_token_id", "eos_token_ids", "dtype")
"""Fields of a description that change no number of the model."""
_REMEDY = "llmcli train goes on with models of its own two families, llama and gpt2, without parts that these lack here"


def model_config(shape: Shape, vocab_size: int, end_id: int) -> ModelConfig:
    """The ModelConfig of a recipe's shape for a vocabulary of that size."""
    head_dim = shape.hidden_size // shape.heads
    llama = shape.family == "llama"
    return ModelConfig(
        family=shape.family,
        vocab_size=vocab_size,
        hidden_size=shape.hidden_size,
        num_layers=shape.layers,
        num_heads=shape.heads,
        num_kv_heads=shape.kv_heads if llama else shape.heads,
        head_dim=head_dim,
        intermediate_size=shape.intermediate_size,
        context_length=shape.context,
        norm="rmsnorm" if llama else "layernorm",
        norm_eps=shape.norm_eps,
        learned_positions=not llama,
        rope={FULL: RopeConfig(head_dim, shape.rope_theta)} if llama else {},
        activation="silu" if llama else "gelu_tanh",
        gated=llama,
        qkv_bias=not llama,
        attention_out_bias=not llama,
        ffn_bias=not llama,
        tied=True,
        bos_token_id=end_id,
        eos_token_ids=(end_id,),
    )


def shape_of(config: ModelConfig) -> Shape:
    """The shape that `model_config` makes the same model of.

    Raises UsageError naming the field in which a model differs from all that a recipe describes.
    """
    if config.family not in get_args(Family):
        raise UsageError(f"the model's family is {config.family}", _REMEDY)
    llama = config.family == "llama"
    shape = Shape(
        family=cast(Family, config.family),
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        layers=config.num_layers,
        heads=config.num_heads,
        kv_heads=config.num_kv_heads,
        intermediate_size=config.intermediate_size,
        context=config.context_length,
        rope_theta=config.rope[FULL].theta if llama else Shape.rope_theta,
        norm_eps=config.norm_eps,
    )
    ours = model_config(shape, config.vocab_size, 0)
    for name in (field.name for field in dataclasses.fields(ModelConfig) if field.name not in _FREE):
        theirs, own = getattr(config, name), getattr(ours, name)
        if theirs != own:
            raise UsageError(f"the model's {name} is {_told(theirs)}, where llmcli trains with {_told(own)}", _REMEDY)
    return shape


def _told(value: Any) -> str:
    """A field's value in a word: of RoPE, the scaling; of what each layer has its own of, whether there is any."""
    if isinstance(value, dict):
        return ", ".join(rope.kind for rope in value.values()) or "none"
    if isinstance(value, tuple):
        return "given" if value else "none"
    return str(value)


@torch.no_grad()
def initialize(model: CausalLM, seed: int) -> None:
    """Normal weights of deviation 0.02; what writes to the residual is divided by sqrt(2 layers) (Radford et al.
    2019, section 2.3), so that the residual's size does not grow with depth. Norms 1, biases 0."""
    generator = torch.Generator().manual_seed(seed)
    residual = 0.02 / (2 * model.config.num_layers) ** 0.5
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2:
            deviation = residual if name.endswith(("o.weight", "down.weight")) else 0.02
            parameter.normal_(0.0, deviation, generator=generator)
        else:
            parameter.zero_()
    for module in model.modules():
        if isinstance(module, LayerNorm | RMSNorm):
            nn.init.ones_(module.weight)
