"""Matrices in int4: how they are rounded, in which order their numbers lie, the matrix again, and what multiplies it.

The order: blocks of 64 rows; in a block for each column 32 bytes, of which byte i holds row i in its lower half and row
32 + i in its upper one. PyTorch's kernel wants it so on a processor with AVX-512, and `llmcli quantize` writes it so
everywhere. The kernel for another processor wants another order, into which `for_kernel` brings a matrix.
"""

import math
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from llmcli.model.cast import as_dtype
from llmcli.model.forms import SCRATCH, Form
from llmcli.model.processor import fast_bfloat16
from llmcli.model.rounding import slices

INT4_GROUP = 32
INT4_BLOCK = 64
_CACHED = 1 << 20
"""Elements that are computed at a time."""
_MANY = 256
"""Rows that the kernel would take longer for than it takes to make a matrix in bfloat16 and multiply by that."""
_LINE = 64
"""Bytes of a cache line."""


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


class Int4(Form):
    """int4 weights with a scale and a zero point for each group of input channels, in bfloat16; so are activations and
    results. What a row costs the kernel adds up, so many rows are multiplied by a copy of the matrix in bfloat16 that
    lives only as long as its product."""

    several = (1.2, 0.33)

    def __init__(self, packed: Tensor, scales: Tensor, rows: int, bias: Tensor | None) -> None:
        """packed and scales as `quantize_int4` gives them; `rows` is out_features."""
        self._packed, self._scales = for_kernel(packed), _on_lines(scales)
        self._many = _MANY if is_for_kernel() and fast_bfloat16() else math.inf
        self._group = packed.shape[1] * 2 // scales.shape[0]
        self._rows = rows
        self._filled = len(packed) != rows
        self.bytes = packed.numel() + 2 * scales.numel()
        self._bias = None if bias is None else bias.bfloat16()

    def __call__(self, x: Tensor) -> Tensor:
        flat = as_dtype(x, torch.bfloat16)
        flat = flat if flat.dim() == 2 else flat.flatten(0, -2)
        y = self._dequantized(flat) if len(flat) >= self._many else self._product(flat)
        y = y[:, : self._rows] if self._filled else y
        return _led_as(x, y if self._bias is None else y + self._bias)

    def _product(self, x: Tensor) -> Tensor:
        y: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(x, self._packed, self._group, self._scales)
        return y

    def _dequantized(self, x: Tensor) -> Tensor:
        rows = max(1, SCRATCH // (x.shape[1] * INT4_BLOCK)) * INT4_BLOCK
        parts = zip(torch.split(self._packed, rows), torch.split(self._scales, rows, dim=1), strict=True)
        found = [F.linear(x, dequantize(*part)) for part in parts]
        return found[0] if len(found) == 1 else torch.cat(found, dim=-1)

    def dense(self) -> Tensor:
        eye = torch.eye(self._packed.shape[1] * 2, dtype=torch.bfloat16)
        return self._product(eye)[:, : self._rows].t().float()


def _on_lines(scales: Tensor) -> Tensor:
    """The scales, a copy where they do not begin on a cache line, as in a file they may not: int4's kernel reads a line
    of them at a time. A step of SmolLM2-135M's shape takes 1.2 times as long where each lies on two (AMD EPYC, Zen 4).
    """
    return scales if scales.data_ptr() % _LINE == 0 else scales.clone()


def _led_as(x: Tensor, y: Tensor) -> Tensor:
    """y (rows, out) with the leading axes of x (..., in): by their sizes only where it must be, since a traced step
    looks sizes up anew, three operations each. A scripted function would have them as numbers, but costs 2 to 5 % of
    a step in int4."""
    if x.dim() == 2:
        return y
    if x.dim() == 3 and x.shape[1] == 1:
        return y.unsqueeze(1)
    if x.dim() == 3 and x.shape[0] == 1:
        return y.unsqueeze(0)
    return torch.unflatten(y, 0, x.shape[:-1])
