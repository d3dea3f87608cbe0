"""A recipe's shape as a fresh model: its description, and weights drawn from the recipe's seed."""

import torch
from torch import nn

from llmcli.model.config import FULL, ModelConfig, RopeConfig
from llmcli.model.layers import LayerNorm, RMSNorm
from llmcli.model.transformer import CausalLM
from llmcli.train.recipe import Shape


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
