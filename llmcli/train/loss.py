"""Cross-entropy of the next token, computed a slice of positions at a time so that memory stays flat.

The logits of a whole batch would be (tokens, vocab) float32, far larger than the model. Here each slice's logits live
only while its loss and its gradient are computed, and the gradient is computed in the forward pass, so that nothing
is kept and nothing is computed twice.
"""

from typing import Any

import torch
from torch import Tensor

_SLICE = 2048


class _ChunkedCrossEntropy(torch.autograd.Function):
    """sum over rows of -log softmax(hidden W^T)[target], with its gradients for hidden and W."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, dtype: torch.dtype) -> Tensor:
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight, dtype=torch.float32)
        w = weight.to(dtype)
        for start in range(0, hidden.shape[0], _SLICE):
            rows = slice(start, start + _SLICE)
            h, target = hidden[rows].to(dtype), targets[rows]
            logits = (h @ w.t()).float()
            logits -= logits.amax(dim=-1, keepdim=True)
            total -= logits.gather(1, target[:, None]).sum()
            grad = logits.exp_()
            norm = grad.sum(dim=-1, keepdim=True)
            total += norm.log().sum()
            grad /= norm  # the softmax, in place: its memory is all that a slice needs
            grad.scatter_add_(1, target[:, None], torch.full_like(target[:, None], -1, dtype=grad.dtype))
            grad = grad.to(dtype)
            grad_hidden[rows] = grad @ w
            grad_weight += grad.t() @ h
        ctx.save_for_backward(grad_hidden, grad_weight.to(weight.dtype))
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad_hidden * grads[0].to(grad_hidden.dtype), grad_weight * grads[0].to(grad_weight.dtype), None, None


def summed_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, dtype: torch.dtype) -> Tensor:
    """Nats summed over all positions: hidden (tokens, hidden_size), weight (vocab, hidden_size), targets (tokens).

    `dtype` is that of the matrix products; softmax and sum are float32.
    """
    total: Tensor = _ChunkedCrossEntropy.apply(hidden, weight, targets, dtype)  # type: ignore[no-untyped-call]
    return total
