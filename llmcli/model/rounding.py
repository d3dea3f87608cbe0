"""Float32 matrices -> int8, with the scales that `forms.Int8` multiplies by; a large matrix in slices."""

from collections.abc import Iterator

import torch
from torch import Tensor

TINY = torch.finfo(torch.float32).tiny
_SLICE = 1 << 22
"""Elements that are rounded at a time."""


def quantize_int8(weight: Tensor, channels: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """A matrix times its channels' sizes, in int8 with a scale a row, symmetric: (out, in) int8, (out) float32."""
    out = torch.empty(weight.shape, dtype=torch.int8)
    scales = torch.empty(len(weight))
    for start, part in slices(weight, channels):
        scale = (part.abs().amax(1) / 127).clamp_min(TINY)
        scales[start : start + len(part)] = scale
        out[start : start + len(part)] = (part / scale[:, None]).round_().to(torch.int8)
    return out, scales


def slices(weight: Tensor, channels: Tensor | None = None, block: int = 1) -> Iterator[tuple[int, Tensor]]:
    """The matrix in float32, some rows at a time, so that no copy of the whole is made; all but the last are whole
    blocks of so many rows."""
    rows = max(1, _SLICE // (weight.shape[1] * block)) * block
    for start in range(0, len(weight), rows):
        part = weight[start : start + rows].float()
        yield start, part if channels is None else part * channels
