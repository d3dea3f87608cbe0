"""Folders of `llmcli quantize`: what is stored is what would have been packed, and damage is said."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
import torch
from safetensors.torch import load_file, save_file

from llmcli.errors import CheckpointError, ConfigError, UsageError
from llmcli.model.checkpoint import load_packed
from llmcli.model.forms import Float16, Form, PackedFloat16
from llmcli.model.header import QUANTIZED_KEY, quantized_dtype
from llmcli.model.linear import Linear
from llmcli.model.loading import DTYPES, load
from llmcli.model.pack import PACKED16, lacking
from llmcli.model.quantized import load_quantized, quantize
from llmcli.model.transformer import CausalLM

from .conftest import Pair, text
from .folders import copy_folder, edit_tensors

Pairs = Callable[[str], Pair]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8", "int4"])
@pytest.mark.parametrize("name", ["gpt2", "gpt2-untied", "llama", "gemma2", "qwen3", "olmo2", "gpt_neox", "phi3"])
@torch.inference_mode()
def test_the_folder_holds_the_packed_model(pairs: Pairs, tmp_path: Path, name: str, dtype: str) -> None:
    folder = pairs(name).folder
    quantize(folder, tmp_path / "small", dtype)
    model, notes = load_quantized(tmp_path / "small", "auto")
    wanted, _ = load_packed(folder, dtype)
    plain, used, _ = load(tmp_path / "small", "float32")
    assert (used, notes) == ("float32", [])
    kinds = set()
    for ours, theirs, dense in zip(*(linears(each) for each in (model, wanted, plain)), strict=True):
        assert ours.form is not None
        assert theirs.form is not None
        assert dense.weight is not None
        assert torch.equal(ours.form.dense(), theirs.form.dense())
        assert torch.equal(ours.form.dense(), dense.weight)
        kinds.add(type(ours.form))
        assert type(ours.form) is type(theirs.form)
    assert kinds
    for key, value in wanted.named_parameters():  # tables are stored in float16
        torch.testing.assert_close(dict(model.named_parameters())[key].float(), value.float(), rtol=1e-3, atol=1e-6)
    ids = text(9)
    torch.testing.assert_close(plain(ids), model(ids), rtol=0.1, atol=0.1 * float(plain(ids).abs().max()))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@torch.inference_mode()
def test_a_tied_model_that_is_stored_in_the_dtype_already(pairs: Pairs, tmp_path: Path, dtype: str) -> None:
    def edit(tensors: dict[str, torch.Tensor]) -> None:
        tensors.update({name: value.to(getattr(torch, dtype)) for name, value in tensors.items()})

    folder = edit_tensors(copy_folder(pairs("gpt2").folder, tmp_path / "stored"), edit)
    quantize(folder, tmp_path / "small", dtype)
    ids = text(9)
    assert torch.equal(load_quantized(tmp_path / "small", "auto")[0](ids), load_packed(folder, dtype)[0](ids))


def test_whoever_may_read_the_config_may_read_the_weights(pairs: Pairs, tmp_path: Path) -> None:
    quantize(pairs("llama").folder, tmp_path / "small", "int8")
    modes = {(tmp_path / "small" / name).stat().st_mode for name in ("config.json", "model.safetensors")}
    assert len(modes) == 1


@torch.inference_mode()
def test_a_folder_in_float16_can_be_packed(pairs: Pairs, tmp_path: Path) -> None:
    if lacking(PACKED16) is not None:
        pytest.skip(f"this build of PyTorch lacks {lacking(PACKED16)}")
    quantize(pairs("llama").folder, tmp_path / "small", "float16")
    stored, _, _ = load(tmp_path / "small", "auto")
    named, used, notes = load(tmp_path / "small", PACKED16)
    again, used_again, _ = load(pairs("llama").folder, PACKED16)
    assert (used, used_again, notes) == (PACKED16, PACKED16, [])
    assert {type(each.form) for each in linears(stored)} == {Float16}
    assert {type(each.form) for model in (named, again) for each in linears(model)} == {PackedFloat16}
    ids = text(9)
    for one, other in zip(linears(named), linears(again), strict=True):
        assert torch.equal(cast(Form, one.form).dense(), cast(Form, other.form).dense())
    torch.testing.assert_close(named(ids), stored(ids), rtol=0.1, atol=0.1 * float(stored(ids).abs().max()))


@pytest.mark.parametrize(("texts", "drafts"), [(1, False), (1, True), (8, False)])
@pytest.mark.parametrize(
    ("small", "dtype"),
    [(False, each) for each in DTYPES if each != "stored"]  # which views ask for, and nobody again
    + [(True, each) for each in ("auto", "float32", "float16", PACKED16)],
)
def test_the_dtype_that_is_told_makes_the_same_model_again(
    pairs: Pairs, tmp_path: Path, small: bool, dtype: str, texts: int, drafts: bool
) -> None:
    """A recorded run is replayed by it, and a draft model loaded."""
    folder = pairs("llama").folder
    if small:
        quantize(folder, tmp_path / "small", "float16")
        folder = tmp_path / "small"
    first, told, _ = load(folder, dtype, texts=texts, drafts=drafts)
    second, told_again, _ = load(folder, told)
    assert told == told_again
    for one, other in zip(linears(first), linears(second), strict=True):
        assert type(one.form) is type(other.form)


def linears(model: CausalLM) -> list[Linear]:
    return [each for each in model.modules() if isinstance(each, Linear) and (each.form or each.weight is not None)]


@torch.inference_mode()
def test_it_is_smaller_and_is_known_by_its_config(pairs: Pairs, tmp_path: Path) -> None:
    folder = pairs("llama").folder
    small = quantize(folder, tmp_path / "small", "int8")
    assert small < (folder / "model.safetensors").stat().st_size / 2
    assert quantized_dtype(tmp_path / "small") == "int8"
    assert quantized_dtype(folder) is None
    with pytest.raises(UsageError, match="stored in int8"):
        load(tmp_path / "small", "int4")
    with pytest.raises(UsageError, match="on the CPU alone"):
        load(tmp_path / "small", "auto", device="cuda")
    with pytest.raises(UsageError, match="quantized already"):
        quantize(tmp_path / "small", tmp_path / "smaller", "int4")
    assert not (tmp_path / "smaller").exists()


def test_small_dtypes_stay_on_the_cpu(pairs: Pairs) -> None:
    for dtype in ("int8", "int4"):
        with pytest.raises(UsageError, match="on the CPU alone"):
            load(pairs("llama").folder, dtype, device="mps")


def _drop(tensors: dict[str, torch.Tensor]) -> None:
    del tensors["blocks.1.attention.qkv.weight"]


def _bend(tensors: dict[str, torch.Tensor]) -> None:
    tensors["blocks.1.ffn.down.weight"] = tensors["blocks.1.ffn.down.weight"][:, :-1].contiguous()


def _spoil(tensors: dict[str, torch.Tensor]) -> None:
    tensors["blocks.0.ffn.down.scales"][3] = float("nan")


def _swap(tensors: dict[str, torch.Tensor]) -> None:
    tensors["blocks.0.ffn.down.scales"] = tensors["blocks.0.ffn.down.scales"].to(torch.int8)


def _lose_scales(tensors: dict[str, torch.Tensor]) -> None:
    del tensors["blocks.0.ffn.down.scales"]


def _lose_norm(tensors: dict[str, torch.Tensor]) -> None:
    del tensors["norm.weight"]


@pytest.mark.parametrize("edit", [_drop, _bend, _spoil, _swap, _lose_scales, _lose_norm])
def test_damage_is_named(pairs: Pairs, tmp_path: Path, edit: Callable[[dict[str, torch.Tensor]], None]) -> None:
    quantize(pairs("llama").folder, tmp_path / "small", "int8")
    path = tmp_path / "small/model.safetensors"
    tensors = {name: value.clone() for name, value in load_file(path).items()}
    edit(tensors)
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match="tensor "):
        load_quantized(tmp_path / "small", "auto")


def test_an_unknown_form_and_another_model_s_config(pairs: Pairs, tmp_path: Path) -> None:
    quantize(pairs("llama").folder, tmp_path / "small", "int4")
    config = tmp_path / "small/config.json"
    keys = json.loads(config.read_text())
    config.write_text(json.dumps(keys | {QUANTIZED_KEY: "int3"}))
    with pytest.raises(CheckpointError, match="int3"):
        load(tmp_path / "small", "auto")
    config.write_text(json.dumps(keys | {"hidden_size": 96}))
    with pytest.raises((CheckpointError, ConfigError)):
        load(tmp_path / "small", "auto")


def test_a_folder_that_cannot_be_written_is_not_there(pairs: Pairs, tmp_path: Path) -> None:
    taken = copy_folder(pairs("llama").folder, tmp_path / "taken")
    from llmcli.errors import LlmcliError

    with pytest.raises(LlmcliError, match="cannot be written"):
        quantize(pairs("llama").folder, taken, "int8")
    assert [each.name for each in tmp_path.iterdir()] == ["taken"]
