"""int8 for many texts: its numbers beside exact ones, and when a model is held so."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from llmcli.errors import UsageError
from llmcli.model import pack
from llmcli.model.checkpoint import load_packed
from llmcli.model.forms import Int8
from llmcli.model.int8_rows import Int8Rows
from llmcli.model.linear import Linear
from llmcli.model.loading import load
from llmcli.model.pack import INT8_ROWS
from llmcli.model.quantized import quantize
from llmcli.model.rounding import quantize_int8

from .conftest import Pair, text

Pairs = Callable[[str], Pair]

pytestmark = pytest.mark.skipif(
    not hasattr(torch.ops.onednn, "qlinear_prepack"), reason="this build of PyTorch lacks oneDNN's product in int8"
)


def given(rows: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weights (96, 64) of rows and channels of different size, a bias, channels' sizes, and activations."""
    generator = torch.Generator().manual_seed(rows)
    sizes = torch.rand(64, generator=generator) + 0.5
    weight = torch.randn(96, 64, generator=generator) * torch.logspace(-3, 3, 96)[:, None]
    x = torch.randn(rows, 64, generator=generator) * torch.logspace(-4, 4, rows)[:, None]
    return weight, torch.randn(96, generator=generator), sizes, x


@pytest.mark.parametrize("rows", [1, 9, 40])
@pytest.mark.parametrize("uneven", [False, True])
@pytest.mark.parametrize("biased", [False, True])
@torch.inference_mode()
def test_it_is_the_product_of_the_rounded_numbers(rows: int, uneven: bool, biased: bool) -> None:
    weight, bias, sizes, x = given(rows)
    channels = sizes if uneven else None
    rounded, scales = quantize_int8(weight, channels)
    found = Int8Rows(rounded, scales, bias if biased else None, channels)(x)
    activations = x.double() / sizes if uneven else x.double()
    least = activations.amin(1, keepdim=True)
    size = (activations.amax(1, keepdim=True) - least) / 255
    exact = (((activations - least) / size).round() * size + least) @ (rounded * scales[:, None].double()).T
    exact += bias if biased else 0.0
    # What lies between two integers may be rounded to either: one step of one activation.
    step = (size * (rounded.abs().amax(1) * scales)[None]).float()
    assert bool(((found - exact).abs() <= step + 1e-5 * exact.abs()).all())
    assert float(((found - exact).abs() <= 1e-5 * exact.abs() + 1e-4 * step).float().mean()) > 0.9


@torch.inference_mode()
def test_rows_do_not_know_of_each_other() -> None:
    weight, bias, _, x = given(9)
    form = Int8Rows(*quantize_int8(weight), bias)
    together = form(torch.cat((x, torch.full((1, 64), 1e30), torch.zeros(1, 64))))
    for i in range(9):
        assert torch.equal(together[i], form(x[i : i + 1])[0])
    assert torch.equal(together[10], bias)


@torch.inference_mode()
def test_its_matrix_is_that_of_int8() -> None:
    weight, _, sizes, _ = given(3)
    for channels in (None, sizes):
        rounded = quantize_int8(weight, channels)
        rows, one = (kind(*rounded, None, channels) for kind in (Int8Rows, Int8))
        assert torch.equal(rows.dense(), one.dense())
        assert rows.bytes == one.bytes


def forms(model: torch.nn.Module) -> set[type]:
    return {type(each.form) for each in model.modules() if isinstance(each, Linear) and each.form is not None}


@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("amx", [False, True])
@torch.inference_mode()
def test_many_texts_are_decoded_by_it_where_there_are_tiles(
    pairs: Pairs, tmp_path: Path, small: bool, amx: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack, "tiles", lambda: amx)
    folder = pairs("llama").folder
    if small:
        quantize(folder, tmp_path / "small", "int8")
        folder = tmp_path / "small"
    dtype = "auto" if small else "int8"
    one, told, _ = load(folder, dtype)
    few, _, _ = load(folder, dtype, texts=8)
    many, told_of_many, notes = load(folder, dtype, texts=9)
    assert (told, told_of_many, notes) == ("int8", "int8", [])
    assert forms(one) == forms(few) == {Int8}
    assert forms(many) == ({Int8Rows} if amx else {Int8})
    ids = text(20)
    assert float((many(ids) - one(ids)).norm() / one(ids).norm()) < 0.05


def test_nobody_asks_for_it_by_name(pairs: Pairs) -> None:
    with pytest.raises(UsageError, match="'int8-rows' is not known"):
        load(pairs("llama").folder, INT8_ROWS)
    model, _ = load_packed(pairs("llama").folder, INT8_ROWS)
    assert forms(model) == {Int8Rows}
    # four-bit matrices that do not fit their groups are held for one row, as before
    assert Int8Rows not in forms(load_packed(pairs("llama").folder, "int4")[0])
