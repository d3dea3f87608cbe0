"""int8 for steps of many rows, where a processor multiplies whole tiles of int8 (AMX)."""

import torch
from torch import Tensor

from llmcli.model.cast import as_dtype
from llmcli.model.forms import BLOCKED_FOR, Form
from llmcli.model.rounding import TINY
from llmcli.model.scripted import scripted


class Int8Rows(Form):
    """The numbers of `forms.Int8`, multiplied by oneDNN: activations are rounded to 8 bits with a scale a row.

    2 cores of an Intel Xeon (Sapphire Rapids), all products of a step in milliseconds, fbgemm's and these, of GPT-2
    124M: one row 9.7 and 12.8, 8 rows 13.5 and 11.5, 32 rows 21.8 and 12.9; of SmolLM2-135M: 14.3 and 23.4, 19.6 and
    20.6, 31.5 and 22.5.
    """

    def __init__(self, weight: Tensor, scales: Tensor, bias: Tensor | None, channels: Tensor | None = None) -> None:
        """As `forms.Int8`."""
        self.bytes = weight.numel() + 4 * scales.numel()
        self._columns = weight.shape[1]
        self._weight = torch.ops.onednn.qlinear_prepack(weight, [BLOCKED_FOR, self._columns])
        self.packed = (self._weight,)
        self._scales, self._zeros = scales.float(), torch.zeros(len(scales), dtype=torch.int64)
        self._bias = None if bias is None else bias.float()
        self._divide = None if channels is None else 1.0 / channels

    def __call__(self, x: Tensor) -> Tensor:
        x = as_dtype(x, torch.float32) if self._divide is None else x * self._divide
        size = x.abs().amax(-1, keepdim=True).mul_(1 / 127).clamp_min_(TINY)
        y = int8_product((x / size).round_().to(torch.int8), self._weight, self._scales, self._zeros)
        return y.mul_(size) if self._bias is None else torch.addcmul(self._bias, y, size)

    def dense(self) -> Tensor:
        eye = torch.eye(self._columns, dtype=torch.int8)
        weight = int8_product(eye, self._weight, self._scales, self._zeros).t()
        return weight.contiguous() if self._divide is None else weight * self._divide


@scripted
def int8_product(x: Tensor, weight: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
    """int8 by int8, summed in int32, times the matrix's scales: float32."""
    y: Tensor = torch.ops.onednn.qlinear_pointwise(
        x, 1.0, 0, weight, scales, zeros, None, 1.0, 0, torch.float32, "none", [], ""
    )
    return y
