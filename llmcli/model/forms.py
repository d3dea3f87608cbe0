"""The forms in which a weight matrix can be held on a CPU, each with what multiplies it fastest.

Reading the weights is what a decode step costs, so a form is small first. A form is called with activations (..., in)
and gives (..., out); it may answer in 16 bits, and whoever adds that to a float32 tensor gets float32. `rows` below are
the product of the leading axes: one in a decode step, many in prefill and in batches.
"""

import warnings
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from llmcli.model.activations import ACTIVATIONS, ONEDNN
from llmcli.model.cast import as_dtype, half_to_bfloat16
from llmcli.model.processor import tiles
from llmcli.model.rounding import TINY
from llmcli.model.scripted import scripted

FLOAT16_MAX = 65504.0
SCRATCH = 1 << 22
"""Elements of a matrix that are held in another dtype for a product at most: 8 MB of bfloat16, which stays in the cache
until it is read."""
_PART = 1 << 23
"""Elements that fbgemm packs at a time."""


class Form(ABC):
    """A weight matrix (out_features, in_features) and its bias."""

    bytes: int
    packed: tuple[Any, ...] = ()
    """What its product takes that is no tensor with a storage of its own: the matrix, or its parts."""
    rounds = True
    """Whether activations are rounded to 16 bits or fewer on the way."""
    several = (1.0, 0.04)
    """What a pass over several tokens costs, in passes over one, and what each token after the first adds. Measured on
    the shapes of GPT-2 124M and SmolLM2-135M with 3 to 17 tokens; `draft.Pace` decides by it."""

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor: ...

    def activated(self, x: Tensor, activation: str) -> Tensor:
        """The product, then the activation of that name (`model.activations`)."""
        return ACTIVATIONS[activation](self(x))

    @abstractmethod
    def dense(self) -> Tensor:
        """The matrix as it is multiplied, (out_features, in_features) float32: a copy."""


_FEWEST = 1 if tiles() else 5
"""Rows that a product by oneDNN has at least, filled up if need be. On an AMD EPYC (Zen 4) it reads the weights 1.1 to
1.2 times as fast for five rows as for one; on an Intel Xeon (Sapphire Rapids) it takes 1.2 to 1.9 times as long in
float32, and a little longer in bfloat16."""


@scripted
def onednn_product(
    x: Tensor, weight: Tensor, bias: Tensor | None, activation: str = "none", way: str = "", fewest: int = _FEWEST
) -> Tensor:
    """oneDNN's product of at least `fewest` rows with a packed or plain weight, and an activation as `ONEDNN` names
    it."""
    rows = x.numel() // x.shape[-1]
    if rows >= fewest:
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], way)
        return y
    filled = F.pad(x.reshape(rows, -1), [0, 0, 0, fewest - rows])
    y = torch.ops.mkldnn._linear_pointwise(filled, weight, bias, activation, [], way)
    return y[:rows].reshape(x.shape[:-1] + y.shape[-1:])


class Float32(Form):
    """Blocked by oneDNN: twice the bandwidth of the plain layout for one row, and several rows cost little more."""

    rounds = False
    several = (1.15, 0.045) if tiles() else (1.0, 0.04)

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.shape = weight.shape
        self.bytes = weight.numel() * 4
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.float(), BLOCKED_FOR)
        self.packed = (self._weight,)
        self._bias = None if bias is None else bias.float()

    def __call__(self, x: Tensor) -> Tensor:
        return onednn_product(x, self._weight, self._bias)

    def dense(self) -> Tensor:
        weight: Tensor = self._weight.to_dense()
        return weight


class BFloat16(Form):
    """Blocked by oneDNN; activations and results in bfloat16. One to eight rows cost the same."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.bytes = weight.numel() * 2
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.bfloat16(), BLOCKED_FOR)
        self.packed = (self._weight,)
        self._bias = None if bias is None else bias.bfloat16()

    def __call__(self, x: Tensor) -> Tensor:
        return onednn_product(as_dtype(x, torch.bfloat16), self._weight, self._bias)

    def activated(self, x: Tensor, activation: str) -> Tensor:
        if activation not in ONEDNN:
            return super().activated(x, activation)
        return onednn_product(as_dtype(x, torch.bfloat16), self._weight, self._bias, *ONEDNN[activation])

    def dense(self) -> Tensor:
        weight: Tensor = self._weight.to_dense().float()
        return weight


class Float16(Form):
    """Plain float16. One row reads the weights at the speed of memory, and is computed in float16 with sums in float32.
    More rows are computed in bfloat16, for which there are fast kernels, from a converted copy that lives only as long
    as its product.

    float16 ends at 65,504. What overflows becomes infinite, and the logits are then not finite: `CausalLM` sees that,
    makes all its matrices `wide` and computes the step again. A saturating function may hide an infinity on the way,
    but only where the true value saturates it as well.
    """

    several = (5.8, 0.05)  # all weights are converted

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._weight = weight.to(torch.float16).contiguous()
        self.bytes = weight.numel() * 2
        self._bias = None if bias is None else bias.half()
        self._bias32 = None if bias is None else bias.float()
        self._bias16 = None if bias is None else bias.bfloat16()
        self.wide = False

    def __call__(self, x: Tensor) -> Tensor:
        if x.numel() != x.shape[-1]:
            return self._many(x.bfloat16())
        return self._wide(x.float()) if self.wide else F.linear(as_dtype(x, torch.float16), self._weight, self._bias)

    def _wide(self, x: Tensor) -> Tensor:
        """One row scaled to a largest value of 1, so that nothing overflows: float32."""
        scale = x.abs().amax().clamp_min(TINY)
        y = F.linear((x / scale).half(), self._weight).float() * scale
        return y if self._bias32 is None else y + self._bias32

    def activated(self, x: Tensor, activation: str) -> Tensor:
        if x.numel() == x.shape[-1] or self._weight.numel() > SCRATCH or activation not in ONEDNN:
            return super().activated(x, activation)
        return onednn_product(x.bfloat16(), half_to_bfloat16(self._weight), self._bias16, *ONEDNN[activation])

    def _many(self, x: Tensor) -> Tensor:
        rows = max(1, SCRATCH // self._weight.shape[1])
        parts = [_linear(x, half_to_bfloat16(part)) for part in torch.split(self._weight, rows)]
        y = parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
        return y if self._bias16 is None else y + self._bias16

    def dense(self) -> Tensor:
        return self._weight.float()


def _linear(x: Tensor, weight: Tensor) -> Tensor:
    """`F.linear`, which takes no tensor of oneDNN's."""
    return onednn_product(x, weight, None) if weight.is_mkldnn else F.linear(x, weight)


class PackedFloat16(Form):
    """float16 weights as fbgemm packs them; activations, sums and results in float32, so nothing overflows.

    A decode step is 1.1 to 1.3 times as fast as with `Float16`, and up to 30 tokens at once are faster as well, but a
    prompt of 512 takes 1.7 times as long, since there is no product in bfloat16. Packing costs 7 to 10 nanoseconds a
    weight in each process: no file can hold what comes of it. Large matrices are packed in parts, since two copies in
    float32 are made on the way.
    """

    rounds = False
    several = (1.1, 0.1)

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.bytes = weight.numel() * 2
        rows = max(1, _PART // weight.shape[1])
        parts = torch.split(weight, rows)
        biases = [None] * len(parts) if bias is None else torch.split(bias.float(), rows)
        pack = torch.ops.quantized.linear_prepack_fp16
        self.packed = tuple(pack(part.float(), each) for part, each in zip(parts, biases, strict=True))

    def __call__(self, x: Tensor) -> Tensor:
        x = as_dtype(x, torch.float32)
        parts = [torch.ops.quantized.linear_dynamic_fp16(x, part) for part in self.packed]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)

    def dense(self) -> Tensor:
        return torch.cat([torch.ops.quantized.linear_unpack_fp16(part)[0] for part in self.packed])


class Int8(Form):
    """int8 weights with a scale a row of the matrix, activations rounded to 8 bits on the way (fbgemm, with a bias in
    float32).

    All activations of a call share one scale, so two things must not reach it. Rows of different size: each is
    brought to a largest value of 1 first, where there are many. Channels of different size: `channels` (in) are the
    sizes of the input channels as far as the weights tell them (see `pack.channel_sizes`); the matrix is multiplied by
    them and the activations are divided, which changes no product (Xiao et al. 2022, SmoothQuant, arXiv:2211.10438).
    """

    several = (1.3, 0.11)

    def __init__(self, weight: Tensor, scales: Tensor, bias: Tensor | None, channels: Tensor | None = None) -> None:
        """weight (out, in) int8, scales (out) float32."""
        self.bytes = weight.numel() + 4 * scales.numel()
        zeros = torch.zeros(len(scales), dtype=torch.int64)
        with warnings.catch_warnings():  # that such tensors will go one day; `pack.lacking` asks for what they need
            warnings.simplefilter("ignore", UserWarning)
            quantized = torch._make_per_channel_quantized_tensor(weight, scales.double(), zeros, 0)
        self._bias = None if bias is None else bias.float()
        self._weight = torch.ops.quantized.linear_prepack(quantized, self._bias)
        self.packed = (self._weight,)
        self._divide = None if channels is None else 1.0 / channels

    def __call__(self, x: Tensor) -> Tensor:
        x = as_dtype(x, torch.float32) if self._divide is None else x * self._divide
        if x.numel() == x.shape[-1]:
            y: Tensor = torch.ops.quantized.linear_dynamic(x, self._weight)
            return y
        size = x.abs().amax(-1, keepdim=True).clamp_min_(TINY)  # `vector_norm` takes twelve times as long
        y = torch.ops.quantized.linear_dynamic(x / size, self._weight)
        # The kernel has added the bias to the scaled product: (y - bias) * size + bias.
        return y.mul_(size) if self._bias is None else torch.lerp(self._bias, y, size, out=y)

    def dense(self) -> Tensor:
        weight: Tensor = torch.ops.quantized.linear_unpack(self._weight)[0].dequantize()
        return weight if self._divide is None else weight * self._divide


BLOCKED_FOR = 32
"""The number of rows that oneDNN is told to expect. A layout for one row is no faster there, and slower for more."""
