"""Changes of dtype: none where there is none to make, and the one of a whole matrix for its product."""

import torch
from torch import Tensor

from llmcli.model.processor import fast_float16

_CACHED = 1 << 18
"""Elements that are converted at a time."""


def as_dtype(x: Tensor, dtype: torch.dtype) -> Tensor:
    """`x.to(dtype)`. That call takes two microseconds where it does nothing, and a decode step of 30 layers makes 180
    of them."""
    return x if x.dtype == dtype else x.to(dtype)


def half_to_bfloat16(weight: Tensor) -> Tensor:
    """A matrix (out, in) in float16 -> in bfloat16, for `forms.onednn_product`: a tensor of oneDNN's where that has
    instructions for float16, in half the time. Elsewhere a plain one, by way of float32, for which there are vector
    instructions both ways: six times faster than at once. A little at a time, so that the way stays in the cache."""
    if fast_float16():
        converted: Tensor = weight.to_mkldnn(torch.bfloat16)
        return converted
    whole = torch.empty(weight.shape, dtype=torch.bfloat16)
    rows = max(1, _CACHED // weight.shape[1])
    for part, target in zip(torch.split(weight, rows), torch.split(whole, rows), strict=True):
        target.copy_(part.float())
    return whole
