"""Gradient checkpointing (Chen et al. 2016, arXiv:1604.06174): activations computed twice instead of kept."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from llmcli.model.transformer import CausalLM


def recompute_blocks(model: CausalLM) -> None:
    """From now on each block keeps its input alone, and its gradient runs the block again. Numbers do not change."""
    for block in model.blocks:
        block.forward = _recomputing(block.forward)


def _recomputing(forward: Callable[..., Any]) -> Callable[..., Any]:
    def recomputing(*arguments: Any) -> Tensor:
        if not torch.is_grad_enabled():
            return forward(*arguments)  # type: ignore[no-any-return]
        return checkpoint(forward, *arguments, use_reentrant=False, preserve_rng_state=False)  # type: ignore[no-any-return]

    return recomputing
