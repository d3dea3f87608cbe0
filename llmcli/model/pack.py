"""A model's matrices -> the forms that a CPU multiplies fastest, one by one, so that never two copies of all exist."""

import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from llmcli.model.forms import FLOAT16_MAX, BFloat16, Float16, Float32, Form, Int8, PackedFloat16
from llmcli.model.heap import Heap, trim
from llmcli.model.int4 import INT4_GROUP, Int4, quantize_int4
from llmcli.model.int8_rows import Int8Rows
from llmcli.model.layers import LayerNorm, RMSNorm
from llmcli.model.linear import Linear
from llmcli.model.processor import fast_bfloat16, tiles
from llmcli.model.rounding import quantize_int8
from llmcli.model.transformer import Block, CausalLM

PACKED16 = "float16-packed"
"""The dtype of float16 weights that are packed first: faster in a long text, see `forms.PackedFloat16`."""
INT8_ROWS = "int8-rows"
"""How int8 is held where many texts are decoded together and a processor is quick at it, see `int8_rows.Int8Rows`. Its
numbers are those of int8, so nobody needs to ask for it."""
_FEW = 8
"""Texts decoded together that `Int8` is as fast for."""
UNEVEN = 4.0
"""How many times larger than the middle one an input channel has to be for int8 to divide it out: an operation more."""


@dataclass(frozen=True)
class Matrix:
    """A matrix to pack: the module that will hold it, the modules it is stacked from, the norm that feeds it."""

    name: str
    target: Linear
    parts: tuple[Linear, ...]
    norm: nn.Module | None

    def weight(self) -> Tensor:
        """(out_features, in_features) in the stored dtype."""
        weights: list[Tensor] = [part.weight for part in self.parts if part.weight is not None]
        return weights[0] if len(weights) == 1 else torch.cat(weights)

    def bias(self) -> Tensor | None:
        biases = [part.bias for part in self.parts if part.bias is not None]
        return torch.cat([bias.float() for bias in biases]) if biases else None

    def size(self) -> int:
        """Bytes in float32, which is what its temporaries have."""
        return 4 * self.target.out_features * self.target.in_features


def matrices(model: CausalLM) -> Iterator[Matrix]:
    """All matrices of a model, lm_head first: it is the largest, and little else is in memory then. q, k and v are
    stacked, and so are gate and up: the model gets modules for the stacks."""
    yield Matrix("lm_head", model.lm_head, (model.lm_head,), model.norm)
    for i, block in enumerate(cast(list[Block], model.blocks)):
        attention, ffn = block.attention, block.ffn
        if attention.qkv is None:
            attention.qkv = _stack(attention.q, attention.k, attention.v)
        name = f"blocks.{i}."
        yield Matrix(
            name + "attention.qkv", attention.qkv, (attention.q, attention.k, attention.v), block.attention_norm
        )
        yield Matrix(name + "attention.o", attention.o, (attention.o,), None)
        if ffn.gated:
            if ffn.gate_up is None:
                ffn.gate_up = _stack(ffn.gate, ffn.up)
            yield Matrix(name + "ffn.gate_up", ffn.gate_up, (ffn.gate, ffn.up), block.ffn_norm)
        else:
            yield Matrix(name + "ffn.up", ffn.up, (ffn.up,), block.ffn_norm)
        yield Matrix(name + "ffn.down", ffn.down, (ffn.down,), None)


def _stack(*parts: Linear) -> Linear:
    with torch.device("meta"):
        return Linear(parts[0].in_features, sum(part.out_features for part in parts), parts[0].bias is not None)


def pack_model(model: CausalLM, dtype: str, done: Callable[[], None] = lambda: None) -> list[str]:
    """Packs every matrix of a model whose weights lie on the CPU; `done` is called after each, when its parameters are
    gone. Returns what a user should know about it."""
    notes: dict[str, None] = {}
    heap = Heap()
    for matrix in matrices(model):
        form = make_form(matrix, dtype, notes)
        if form is not None:
            hold(matrix, form)
        else:
            join(matrix)
        done()
        heap.worked(matrix.size())
    trim()
    finish(model)
    return list(notes)


def join(matrix: Matrix) -> None:
    """Makes one plain float32 matrix of the parts."""
    weight, bias = matrix.weight().float(), matrix.bias()
    for part in matrix.parts:
        part.hold(None)
    matrix.target.weight = nn.Parameter(weight, requires_grad=False)
    matrix.target.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)


def finish(model: CausalLM) -> None:
    """Tells the model which of its matrices may overflow."""
    model.narrow = [form for form in _forms(model) if isinstance(form, Float16)]


def hold(matrix: Matrix, form: Form) -> None:
    """Puts a form in its place; the parts of a stack keep nothing."""
    for part in matrix.parts:
        part.hold(None)
    matrix.target.hold(form)


def _forms(model: CausalLM) -> Iterator[Form]:
    for module in model.modules():
        if isinstance(module, Linear) and module.form is not None:
            yield module.form


def make_form(matrix: Matrix, dtype: str, notes: dict[str, None]) -> Form | None:
    """The form of one matrix; None, and a note, where this build of PyTorch lacks its operator."""
    if lacking(dtype) is not None:
        notes[lacking_note(dtype)] = None
        return None
    return form_of(rounded(matrix, dtype), matrix.target.out_features, dtype)


def rounded(matrix: Matrix, dtype: str) -> dict[str, Tensor]:
    """What a form is made of, and what a quantized folder stores: `weight` in the dtype; for int8 also `scales` and
    perhaps `channels`, for int4 `packed` and `scales`; perhaps `bias`. A matrix that does not fit its dtype gets the
    next one that it fits: float16 ends at 65,504 and is coarse below 1/16384, int4 wants a whole number of groups."""
    weight, bias = matrix.weight(), matrix.bias()
    found = {} if bias is None else {"bias": bias}
    if dtype in ("float16", PACKED16) and not _fits_float16(weight):
        dtype = "bfloat16"
    if dtype == "int4" and weight.shape[1] % INT4_GROUP:
        dtype = "int8"
    if dtype == "int4":
        found["packed"], found["scales"] = quantize_int4(weight)
    elif dtype in ("int8", INT8_ROWS):
        channels = channel_sizes(weight, matrix.norm)
        found["weight"], found["scales"] = quantize_int8(weight, channels)
        if channels is not None:
            found["channels"] = channels
    else:
        found["weight"] = weight.to(_DTYPES[dtype])
    return found


def _fits_float16(weight: Tensor) -> bool:
    largest: float = max(map(abs, torch.stack(torch.aminmax(weight)).tolist()))
    return largest == 0.0 or 2.0**-10 <= largest <= FLOAT16_MAX


def form_of(tensors: Mapping[str, Tensor], rows: int, held_as: str) -> Form:
    """The form of a matrix of so many out_features, from what `rounded` gives; `PACKED16` and `INT8_ROWS` are ways of
    holding what float16 and int8 would hold otherwise."""
    bias = tensors.get("bias")
    if "packed" in tensors:
        return Int4(tensors["packed"], tensors["scales"], rows, bias)
    weight = tensors["weight"]
    if weight.dtype == torch.int8:
        kind = Int8Rows if held_as == INT8_ROWS else Int8
        return kind(weight, tensors["scales"], bias, tensors.get("channels"))
    if weight.dtype == torch.float32:
        return Float32(weight, bias)
    if weight.dtype == torch.bfloat16:
        return BFloat16(weight, bias)
    return PackedFloat16(weight, bias) if held_as == PACKED16 else Float16(weight, bias)


_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, PACKED16: torch.float16}


def lacking(dtype: str) -> str | None:
    """The operator that the forms of this dtype need and this build of PyTorch, or this processor, does not have."""
    if dtype in ("float32", "bfloat16"):
        there: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        there = there and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        if there and dtype == "bfloat16":
            there = torch.ops.mkldnn._is_mkldnn_bf16_supported()
        return None if there else f"oneDNN's {dtype} product"
    if dtype in ("int8", PACKED16):
        there = dtype == PACKED16 or hasattr(torch, "_make_per_channel_quantized_tensor")
        return None if there and "fbgemm" in torch.backends.quantized.supported_engines else "fbgemm"
    if dtype == INT8_ROWS:
        return None if hasattr(torch.ops.onednn, "qlinear_prepack") else "oneDNN's int8 product"
    if dtype == "int4":
        return None if hasattr(torch.ops.aten, "_weight_int4pack_mm_for_cpu") else "the int4 product"
    return None


def lacking_note(dtype: str) -> str:
    """What a user is told of `lacking`."""
    return f"this build of PyTorch lacks {lacking(dtype)}: {dtype} weights are multiplied plainly, and slowly"


def auto_dtype(device: str, many_rows: bool) -> str:
    """The fastest 16-bit dtype for a decode step of one row, or of several (batches, drafts), whose bits per byte stay
    within 0.1 % of float32; float32 where a processor has no fast one."""
    if device.startswith("cuda"):
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    if device != "cpu":
        return "float16"
    bfloat16 = lacking("bfloat16") is None and fast_bfloat16()
    if many_rows or platform.machine() not in ("x86_64", "AMD64"):
        return "bfloat16" if bfloat16 else "float32"
    return "float16" if bfloat16 and torch.cpu._is_avx512_supported() else "float32"


def held_for(dtype: str, texts: int) -> str:
    """How the matrices of a dtype are held for so many texts that are decoded together."""
    rows = dtype == "int8" and texts > _FEW and tiles() and lacking(INT8_ROWS) is None
    return INT8_ROWS if rows else dtype


def channel_sizes(weight: Tensor, norm: nn.Module | None) -> Tensor | None:
    """How much larger each input channel is than the middle one, (in_features) float32, as SmoothQuant (eq. 4, alpha
    0.5) weighs it: sqrt(size of the activations / size of the weights). A norm tells the size of its outputs.

    None without a norm, and where no channel is `UNEVEN`.
    """
    if not isinstance(norm, (LayerNorm, RMSNorm)):
        return None
    size = norm.weight.float().abs()
    if isinstance(norm, RMSNorm) and norm.offset:
        size = (1 + norm.weight.float()).abs()
    if isinstance(norm, LayerNorm):
        size = size.hypot(norm.bias.float())
    if not float(size.max()) > UNEVEN * float(size.median()):
        return None
    columns = torch.stack([part.float().abs().amax(0) for part in torch.split(weight, 1 << 14)]).amax(0)
    floor = torch.finfo(torch.float32).eps
    ratio = (size.clamp_min(floor * size.max()) / columns.clamp_min(floor * columns.max())).sqrt()
    return ratio / ratio.median()
