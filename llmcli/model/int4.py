"""Matrices in int4: how they are rounded, in which order their numbers lie, and the matrix again.

The order: blocks of 64 rows; in a block for each column 32 bytes, of which byte i holds row i in its lower half and row
32 + i in its upper one. PyTorch's kernel wants it so on a processor with AVX-512, and `llmcli quantize` writes it so
everywhere. The kernel for another processor wants another order, into which `for_kernel` brings a matrix.
"""

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from llmcli.model.rounding import slices

INT4_GROUP = 32
INT4_BLOCK = 64
_CACHED = 1 << 20
"""Elements that are computed at a time."""


def quantize_int4(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A matrix whose in_features are a multiple of `INT4_GROUP`, in int4 with a scale and a zero point a group:
    (rows, in / 2) uint8, and (in / group, rows, 2) bfloat16; rows are out_features, filled up to whole blocks."""
    columns = weight.shape[1]
    rows = -(-len(weight) // INT4_BLOCK) * INT4_BLOCK
    packed = torch.empty(rows, columns // 2, dtype=torch.uint8)
    scales = torch.zeros(columns // INT4_GROUP, rows, 2, dtype=torch.bfloat16)
    for start, part in slices(weight, block=INT4_BLOCK):
        groups = part.view(len(part), -1, INT4_GROUP)
        low, high = groups.amin(-1), groups.amax(-1)
        scale = ((high - low) / 15).clamp_min(1e-8).bfloat16()
        zero = (low + 8 * scale.float()).bfloat16()  # the kernel computes (q - 8) * scale + zero
        whole = ((groups - zero.float()[..., None]) / scale.float()[..., None] + 8).round_().clamp_(0, 15)
        scales[:, start : start + len(part)] = torch.stack((scale.t(), zero.t()), dim=-1)
        quantized = F.pad(whole.flatten(1).to(torch.uint8), (0, 0, 0, -len(part) % INT4_BLOCK), value=8)
        packed[start : start + len(quantized)] = pack(quantized)
    return packed, scales


def pack(quantized: Tensor) -> Tensor:
    """(rows, in) uint8 of 0 to 15, whole blocks of rows -> (rows, in / 2) uint8."""
    rows, columns = quantized.shape
    blocks = quantized.view(-1, 2, INT4_BLOCK // 2, columns)
    return (blocks[:, 0] | (blocks[:, 1] << 4)).transpose(1, 2).reshape(rows, columns // 2)


def unpack(packed: Tensor) -> Tensor:
    """What `pack` was given, turned round: (in, rows) uint8 of 0 to 15."""
    rows, columns = len(packed), 2 * packed.shape[1]
    blocks = packed.view(-1, columns, INT4_BLOCK // 2).transpose(0, 1)
    found = torch.empty(columns, rows // INT4_BLOCK, 2, INT4_BLOCK // 2, dtype=torch.uint8)
    torch.bitwise_and(blocks, 15, out=found[:, :, 0])
    torch.bitwise_right_shift(blocks, 4, out=found[:, :, 1])
    return found.view(columns, rows)


def dequantize(packed: Tensor, scales: Tensor) -> Tensor:
    """What `quantize_int4` gave -> the matrix that the kernel multiplies by, rounded to bfloat16, (rows, in)."""
    groups, rows, _ = scales.shape
    quantized = unpack(packed).view(groups, -1, rows)
    whole = torch.empty(quantized.shape, dtype=torch.bfloat16)
    scale, zero = scales.float().unsqueeze(1).unbind(-1)
    zero = zero - 8 * scale
    some = max(1, _CACHED // whole[0].numel())
    for start in range(0, groups, some):
        part = slice(start, start + some)
        numbers = quantized[part].float()
        whole[part] = torch.addcmul(zero[part], numbers, scale[part], out=numbers)
    return whole.view(-1, rows).t()


@cache
def is_for_kernel() -> bool:
    """Whether the kernel for this processor wants the numbers in the order of `pack`."""
    some = torch.randint(16, (2 * INT4_BLOCK, INT4_GROUP), generator=torch.Generator().manual_seed(0))
    return torch.equal(_for_kernel(some), pack(some.to(torch.uint8)))


def for_kernel(packed: Tensor) -> Tensor:
    """What `pack` gave -> the same in the order that the kernel for this processor wants."""
    if is_for_kernel():
        return packed
    found = torch.empty_like(packed)
    some = max(1, _CACHED // (2 * packed.shape[1] * INT4_BLOCK)) * INT4_BLOCK
    for part, target in zip(torch.split(packed, some), torch.split(found, some), strict=True):
        target.copy_(_for_kernel(unpack(part).t()))
    return found


def _for_kernel(quantized: Tensor) -> Tensor:
    wanted: Tensor = torch.ops.aten._convert_weight_to_int4pack_for_cpu(quantized.to(torch.int32).contiguous(), 1)
    return wanted
