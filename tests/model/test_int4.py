"""int4 matrices mean the same numbers on every processor, and by each way of multiplying."""

import hashlib
import os
import subprocess
import sys

import pytest
import torch

from llmcli.model import int4
from llmcli.model.int4 import INT4_GROUP, Int4, dequantize, is_for_kernel, pack, quantize_int4, unpack
from llmcli.model.pack import lacking
from llmcli.model.processor import fast_bfloat16

needs_int4 = pytest.mark.skipif(lacking("int4") is not None, reason="this build of PyTorch has no int4 product")


def matrix(rows: int, columns: int) -> torch.Tensor:
    """Groups of different size and middle, so that each scale and zero point counts."""
    generator = torch.Generator().manual_seed(rows)
    sizes = torch.rand(rows, columns // INT4_GROUP, 1, generator=generator) + 0.1
    numbers = torch.randn(rows, columns // INT4_GROUP, INT4_GROUP, generator=generator)
    return ((numbers + 3 * sizes) * sizes).flatten(1)


def ordered_sum(whole: torch.Tensor) -> float:
    """A sum that is another one where two numbers have changed places."""
    return float((whole.flatten().double() * torch.arange(whole.numel())).sum())


def test_numbers_lie_as_the_order_says() -> None:
    numbers = torch.randint(16, (128, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    packed = pack(numbers)
    assert packed.shape == (128, 16)
    for block, column, i in ((0, 0, 0), (0, 31, 31), (1, 5, 7)):
        byte = int(packed.flatten()[(block * 32 + column) * 32 + i])
        assert (byte & 15, byte >> 4) == tuple(numbers[64 * block + i :: 32, column][:2].tolist())
    assert torch.equal(unpack(packed), numbers.t())


def test_dequantized_numbers_are_those_rounded_to() -> None:
    weight = matrix(100, 96)
    packed, scales = quantize_int4(weight)
    whole = dequantize(packed, scales)
    assert whole.shape == (128, 96)
    groups = weight.view(100, 3, INT4_GROUP)
    steps = (groups.amax(-1) - groups.amin(-1)) / 15
    error = (whole[:100].float().view_as(groups) - groups).abs().amax(-1)
    assert bool((error <= 0.55 * steps + 0.01 * groups.abs().amax(-1)).all())


@needs_int4
@torch.inference_mode()
def test_dequantized_numbers_are_those_of_the_kernel() -> None:
    packed, scales = quantize_int4(matrix(100, 96))
    assert torch.equal(dequantize(packed, scales)[:100].float(), Int4(packed, scales, 100, None).dense())


@needs_int4
@pytest.mark.parametrize("scratch", [1 << 22, 64 * 96])
@torch.inference_mode()
def test_many_rows_are_multiplied_as_few_are(scratch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    bias = torch.linspace(-1, 1, 200)
    form = Int4(*quantize_int4(matrix(200, 96)), 200, bias)
    x = torch.randn(1, 300, 96, generator=torch.Generator().manual_seed(1))
    few = torch.cat([form(x[:, i : i + 50]) for i in range(0, 300, 50)], dim=1).float()
    calls = []
    monkeypatch.setattr(int4, "SCRATCH", scratch)
    monkeypatch.setattr(int4, "dequantize", lambda *parts: calls.append(parts) or dequantize(*parts))
    many = form(x).float()
    assert len(calls) == ((1 if scratch > 200 * 96 else 4) if is_for_kernel() and fast_bfloat16() else 0)
    assert many.shape == few.shape == (1, 300, 200)
    assert float((many - few).norm() / few.norm()) < 6e-3  # sums are rounded to bfloat16


@needs_int4
@pytest.mark.parametrize("offset", [0, 2, 16, 64])
@torch.inference_mode()
def test_scales_begin_on_a_cache_line(offset: int) -> None:
    """A line on two lines costs the kernel twice the reads. In a file tensors begin where the one before has ended."""
    packed, scales = quantize_int4(matrix(200, 96))
    somewhere = torch.zeros(scales.numel() + 128, dtype=torch.bfloat16)
    start = (-somewhere.data_ptr() % 64 + offset) // 2
    stored = somewhere[start : start + scales.numel()].view_as(scales).copy_(scales)
    form = Int4(packed, stored, 200, None)
    assert form._scales.data_ptr() % 64 == 0
    assert (form._scales is stored) == (offset % 64 == 0)
    assert torch.equal(form.dense(), Int4(packed, scales, 200, None).dense())


_ELSEWHERE = """
import hashlib, torch
from llmcli.model.int4 import Int4, is_for_kernel, quantize_int4
from tests.model.test_int4 import matrix, ordered_sum
packed, scales = quantize_int4(matrix(128, 96))
with torch.inference_mode():
    kernel = Int4(packed, scales, 128, None).dense()
print(hashlib.sha256(packed.numpy().tobytes()).hexdigest(), ordered_sum(kernel), is_for_kernel())
"""


@needs_int4
@pytest.mark.parametrize("capability", ["avx2", "default"])
@torch.inference_mode()
def test_another_processor_reads_the_same_bytes_as_the_same_numbers(capability: str) -> None:
    """PyTorch's kernels for other vector instructions want another order: a folder must not depend on it."""
    packed, scales = quantize_int4(matrix(128, 96))
    here = Int4(packed, scales, 128, None).dense()
    environment = os.environ | {"ATEN_CPU_CAPABILITY": capability, "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run(
        [sys.executable, "-c", _ELSEWHERE], env=environment, capture_output=True, text=True, check=True
    )
    digest, total, same_order = run.stdout.split()
    assert digest == hashlib.sha256(packed.numpy().tobytes()).hexdigest()
    assert float(total) == pytest.approx(ordered_sum(here), rel=1e-4)
    assert not (is_for_kernel() and same_order == "True")  # else nothing was tested
