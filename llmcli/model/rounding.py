"""Float32 matrices -> int8 and int4, with the scales that `forms.Int8` and `forms.Int4` multiply by."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

TINY = torch.finfo(torch.float32).tiny
_SLICE = 1 << 22
"""Elements that are rounded at a time."""


def quantize_int8(weight: Tensor, channels: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """A matrix times its channels' sizes, in int8 with a scale a row, symmetric: (out, in) int8, (out) float32."""
    out = torch.empty(weight.shape, dtype=torch.int8)
    scales = torch.empty(len(weight))
    for start, part in _slices(weight, channels):
        scale = (part.abs().amax(1) / 127).clamp_min(TINY)
        scales[start : start + len(part)] = scale
        out[start : start + len(part)] = (part / scale[:, None]).round_().to(torch.int8)
    return out, scales


INT4_GROUP = 32
_INT4_ROWS = 64
"""The kernel for packed int4 matrices wants a multiple of this many rows."""


def quantize_int4(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A matrix whose in_features are a multiple of `INT4_GROUP`, in int4 with a scale and a zero point a group:
    (rows, in / 2) uint8 as the kernel wants them, and (in / group, rows, 2) bfloat16; rows are out_features, filled up.
    """
    columns = weight.shape[1]
    rows = -(-len(weight) // _INT4_ROWS) * _INT4_ROWS
    packed = torch.empty(rows, columns // 2, dtype=torch.uint8)
    scales = torch.zeros(columns // INT4_GROUP, rows, 2, dtype=torch.bfloat16)
    for start, part in _slices(weight, None):
        groups = part.view(len(part), -1, INT4_GROUP)
        low, high = groups.amin(-1), groups.amax(-1)
        scale = ((high - low) / 15).clamp_min(1e-8).bfloat16()
        zero = (low + 8 * scale.float()).bfloat16()  # the kernel computes (q - 8) * scale + zero
        whole = ((groups - zero.float()[..., None]) / scale.float()[..., None] + 8).round_().clamp_(0, 15)
        scales[:, start : start + len(part)] = torch.stack((scale.t(), zero.t()), dim=-1)
        quantized = F.pad(whole.flatten(1).to(torch.int32), (0, 0, 0, -len(part) % _INT4_ROWS), value=8)
        packed[start : start + len(quantized)] = torch.ops.aten._convert_weight_to_int4pack_for_cpu(quantized, 1)
    return packed, scales


def _slices(weight: Tensor, channels: Tensor | None) -> Iterator[tuple[int, Tensor]]:
    """The matrix in float32, some rows at a time, so that no copy of the whole is made; a multiple of 64 rows each."""
    rows = max(1, _SLICE // (weight.shape[1] * _INT4_ROWS)) * _INT4_ROWS
    for start in range(0, len(weight), rows):
        part = weight[start : start + rows].float()
        yield start, part if channels is None else part * channels
