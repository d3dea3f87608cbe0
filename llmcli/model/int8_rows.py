"""int8 for steps of many rows, where a processor multiplies whole tiles of int8 (AMX)."""

import torch
from torch import Tensor

from llmcli.model.cast import as_dtype
from llmcli.model.forms import BLOCKED_FOR, Form
from llmcli.model.scripted import scripted

_ENDS = 8
"""Bytes behind each row of rounded numbers: its scale and its least value, in float32."""


class Int8Rows(Form):
    """The numbers of `forms.Int8`, multiplied by oneDNN: each row of activations is rounded to 8 bits between its least
    and its greatest value, by the operator that otherwise packs tables of embeddings.

    So x = scale * n + least, and x W^T = scale * (n W^T) + least * (the sums of the rows of W).

    2 cores of an Intel Xeon (Sapphire Rapids), all products of a step in milliseconds, fbgemm's and oneDNN's, of GPT-2
    124M: one row 9.7 and 12.8, 8 rows 13.5 and 11.5, 32 rows 21.8 and 12.9; of SmolLM2-135M: 14.3 and 23.4, 19.6 and
    20.6, 31.5 and 22.5. Of 32 rows what rounds them and scales the results adds 2 and 3, and where a largest
    value for each row gives numbers from -127 to 127, by seven small operators, 3 and 5.
    """

    def __init__(self, weight: Tensor, scales: Tensor, bias: Tensor | None, channels: Tensor | None = None) -> None:
        """As `forms.Int8`."""
        self.bytes = weight.numel() + 4 * scales.numel()
        self._columns = weight.shape[1]
        self._weight = torch.ops.onednn.qlinear_prepack(weight, [BLOCKED_FOR, self._columns])
        self.packed = (self._weight,)
        self._scales, self._zeros = scales.float(), torch.zeros(len(scales), dtype=torch.int64)
        self._sums = weight.sum(1) * self._scales
        self._bias = None if bias is None else bias.float()
        self._divide = None if channels is None else 1.0 / channels

    def __call__(self, x: Tensor) -> Tensor:
        x = as_dtype(x, torch.float32) if self._divide is None else x * self._divide
        rows = torch.ops.quantized.embedding_bag_byte_prepack(x)
        numbers, ends = rows.split_with_sizes((self._columns, _ENDS), -1)
        scale, least = torch.view_copy(ends, dtype=torch.float32).split_with_sizes((1, 1), -1)
        y = int8_product(numbers, self._weight, self._scales, self._zeros).mul_(scale).addcmul_(least, self._sums)
        return y if self._bias is None else y.add_(self._bias)

    def dense(self) -> Tensor:
        eye = torch.eye(self._columns, dtype=torch.uint8)
        weight = int8_product(eye, self._weight, self._scales, self._zeros).t()
        return weight.contiguous() if self._divide is None else weight * self._divide


@scripted
def int8_product(x: Tensor, weight: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
    """uint8 by int8, summed in int32, times the matrix's scales: float32. Of int8 by int8 oneDNN has fast kernels with
    AMX alone; elsewhere it takes a thousand times as long."""
    y: Tensor = torch.ops.onednn.qlinear_pointwise(
        x, 1.0, 0, weight, scales, zeros, None, 1.0, 0, torch.float32, "none", [], ""
    )
    return y
