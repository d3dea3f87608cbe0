"""Traced steps give the very numbers of the steps that they are traced from, and give way where they could not."""

import gc
import weakref
from collections.abc import Callable, Sequence
from typing import cast

import pytest
import torch
from torch import Tensor

from llmcli.batch import decode_rows, read_rows
from llmcli.generation import decode_step, prefill
from llmcli.model import traced
from llmcli.model.cache import KVCache
from llmcli.model.checkpoint import load_model
from llmcli.model.int8_rows import Int8Rows
from llmcli.model.loading import load
from llmcli.model.processor import fast_bfloat16
from llmcli.model.recorder import Recorder
from llmcli.model.transformer import Block, CausalLM

from .conftest import Pair, text
from .variants import VARIANTS

Pairs = Callable[[str], Pair]
VARYING = {name for name in VARIANTS if "dynamic" in name or "longrope" in name}


PLAIN = (torch.float32,)
"""What the keys of layers that all see equally far are kept in where nothing is said."""


def ids_of(length: int, seed: int = 0) -> list[int]:
    return [int(id) for id in text(length, seed)[0]]


def decoded(model: CausalLM, ids: Sequence[int], start: int, cache: KVCache | None = None) -> Tensor:
    """The logits after each of `ids` from `start` on, one decode step each."""
    cache = model.new_cache() if cache is None else cache
    rows = [prefill(model, cache, list(ids[:start]))]
    rows += [decode_step(model, cache, list(ids[: i + 1])) for i in range(start, len(ids))]
    return torch.stack(rows)


@torch.inference_mode()
def checked(model: CausalLM) -> Tensor:
    """The logits of passes of two to seven tokens, half of which are cropped again."""
    ids, cache, rows = ids_of(60), model.new_cache(), []
    prefill(model, cache, ids[:5])
    for step in range(12):
        count = 2 + step % 6
        rows.append(model(torch.tensor([ids[cache.length :][:count]]), cache)[0])
        cache.crop(cache.length - count // 2)
    return torch.cat(rows)


def with_patience(model: CausalLM, patience: int) -> CausalLM:
    model.traced.forget()
    model.traced.patience = patience
    return model


def kinds(model: CausalLM) -> set[object]:
    """The kinds of steps that TorchScript computes; one that could not be traced would be called from Python."""
    return {kind for kind, graph in model.traced.graphs.items() if isinstance(graph, torch.jit.ScriptModule)}


def same(model: CausalLM, run: Callable[[CausalLM], Tensor], patience: int = 0) -> None:
    """`run` gives the same numbers whether its steps are traced or not."""
    plain = run(with_patience(model, 10**9))
    assert torch.isfinite(plain).all()
    assert torch.equal(run(with_patience(model, patience)), plain)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_text_of_every_family(name: str, pairs: Pairs) -> None:
    model = load_model(pairs(name).folder)
    same(model, lambda model: decoded(model, ids_of(28), 5))
    assert bool(kinds(model)) == (name not in VARYING)


EVEN, UNEVEN = (6, 6, 6), (3, 12, 7)


def decoded_rows(model: CausalLM, lengths: tuple[int, ...], counts: Sequence[int]) -> Tensor:
    """The logits of decode steps of the first `counts` rows, which hold texts of these lengths."""
    cache = model.new_rows(len(lengths))
    read_rows(model, cache, [(row, tuple(ids_of(length, row))) for row, length in enumerate(lengths)])
    return torch.cat([decode_rows(model, cache, ids_of(count, step)) for step, count in enumerate(counts)])


@pytest.mark.parametrize("lengths", [EVEN, UNEVEN], ids=["even", "uneven"])
@pytest.mark.parametrize("name", VARIANTS)
def test_rows_of_every_family(name: str, lengths: tuple[int, ...], pairs: Pairs) -> None:
    same(load_model(pairs(name).folder), lambda model: decoded_rows(model, lengths, [3] * 6 + [2] * 3))


@pytest.mark.parametrize("lengths", [EVEN, UNEVEN], ids=["even", "uneven"])
def test_rows_that_grow_and_leave(lengths: tuple[int, ...], pairs: Pairs) -> None:
    same(load_model(pairs("gemma3").folder), lambda model: decoded_rows(model, lengths, [3] * 20 + [2] * 5 + [1] * 5))


@pytest.mark.parametrize("amx", [False, True], ids=["", "amx"])
@pytest.mark.parametrize("dtype", ["float32", "auto", "bfloat16", "float16", "float16-packed", "int8", "int4"])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_every_dtype(name: str, dtype: str, amx: bool, pairs: Pairs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmcli.model.transformer.tiles", lambda: amx)
    model, _, _ = load(pairs(name).folder, dtype)
    kept = (torch.bfloat16,) if amx and fast_bfloat16() and dtype in ("bfloat16", "int8", "int4") else PLAIN
    same(model, lambda model: decoded(model, ids_of(20), 4))
    assert kinds(model) == {(kept, False)}
    same(model, checked)
    assert kinds(model) == {(kept, True)}
    same(model, lambda model: decoded_rows(model, UNEVEN, [3] * 6 + [1] * 4))
    rounded = fast_bfloat16() and cast(Block, model.blocks[0]).attention.o.rounds
    stored = torch.bfloat16 if rounded else torch.float32
    assert kinds(model) == {(stored, False, False), (stored, True, True)}


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_many_texts_in_int8(name: str, pairs: Pairs, monkeypatch: pytest.MonkeyPatch) -> None:
    for part in ("pack", "attend"):
        monkeypatch.setattr(f"llmcli.model.{part}.tiles", lambda: True)
    model, _, _ = load(pairs(name).folder, "int8", texts=9)
    assert isinstance(model.lm_head.form, Int8Rows)
    same(model, lambda model: decoded_rows(model, UNEVEN, [3] * 6 + [1] * 4))
    assert len(kinds(model)) == 2


def test_keys_in_16_bits_and_a_cache_that_grows(pairs: Pairs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmcli.model.cache._CHUNK", 8)
    model = load_model(pairs("llama").folder)
    same(model, lambda model: decoded(model, ids_of(40), 5, KVCache(model.config, torch.bfloat16)))
    decoded(model, ids_of(9), 4)
    assert kinds(model) == {((torch.bfloat16,), False), (PLAIN, False)}


@pytest.mark.parametrize("name", VARIANTS)
def test_drafted_tokens_of_every_family(name: str, pairs: Pairs) -> None:
    model = load_model(pairs(name).folder)
    same(model, checked)
    assert bool(kinds(model)) == (name not in VARYING and not model.config.slides)


def test_another_text_and_a_text_cut_back(pairs: Pairs) -> None:
    def run(model: CausalLM) -> Tensor:
        cache = model.new_cache()
        first = decoded(model, ids_of(20), 4, cache)
        cache.crop(9)
        again = decoded(model, ids_of(20)[:9] + ids_of(9, 1), 10, cache)
        return torch.cat((first, again, decoded(model, ids_of(12, 2), 6)))

    same(load_model(pairs("llama").folder), run, patience=3)


def test_it_waits_before_it_traces(pairs: Pairs) -> None:
    model = with_patience(load_model(pairs("llama").folder), traced.PATIENCE)
    ids, cache = ids_of(60), model.new_cache()
    for length in range(5, 6 + traced.PATIENCE):
        prefill(model, cache, ids[:length])
    assert not model.traced.graphs
    prefill(model, cache, ids[: length + 1])
    assert kinds(model) == {(PLAIN, False)}


def test_checks_of_drafts_wait_for_themselves(pairs: Pairs) -> None:
    model = with_patience(load_model(pairs("llama").folder), 3)
    decoded(model, ids_of(12), 4)
    assert kinds(model) == {(PLAIN, False)}
    cache, seen = model.new_cache(), []
    with torch.inference_mode():
        for _ in range(5):
            model(text(2), cache)
            seen.append((PLAIN, True) in kinds(model))
    assert seen == [False] * 4 + [True]  # the first of the five is a prompt


def test_several_texts_in_a_cache_of_one_and_long_ones_are_left_alone(pairs: Pairs) -> None:
    model = with_patience(load_model(pairs("llama").folder), 0)
    with torch.inference_mode():
        for texts, queries in ((2, 1), (2, 3), (1, 33)):
            cache = model.new_cache()
            model(text(5, batch=texts), cache)
            model(text(queries, batch=texts), cache)
            model(text(1, batch=texts), cache)
            assert bool(kinds(model)) == (texts == 1)
    assert kinds(model) == {(PLAIN, False)}


def test_views_and_training_see_the_model_itself(pairs: Pairs) -> None:
    model = with_patience(load_model(pairs("llama").folder), 0)
    cache, ids = model.new_cache(), ids_of(12)
    decoded(model, ids[:10], 4, cache)
    recorder = Recorder({"block"})
    decode_step(model, cache, ids[:11], recorder)
    assert ("block", 0) in recorder
    model.requires_grad_(True)
    model.traced.forget()
    decode_step(model, cache, ids)
    assert not model.traced.graphs


def test_it_holds_no_cache(pairs: Pairs) -> None:
    model = with_patience(load_model(pairs("llama").folder), 0)
    cache = model.new_cache()
    decoded(model, ids_of(9), 4, cache)
    rows = model.new_rows(2)
    read_rows(model, rows, [(row, tuple(ids_of(5))) for row in range(2)])
    decode_rows(model, rows, [7, 8])
    buffers = [weakref.ref(cache.step(0).keys[0]), weakref.ref(rows.decoding(2, torch.device("cpu")).keys[0])]
    assert all(buffer() is not None for buffer in buffers)
    del cache, rows
    gc.collect()
    assert [buffer() for buffer in buffers] == [None, None]


def test_a_torch_that_cannot_trace(pairs: Pairs, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("no TorchScript here")

    monkeypatch.setattr(traced, "trace", fails)
    same(load_model(pairs("llama").folder), lambda model: decoded(model, ids_of(20), 4))


def test_a_float16_that_overflows(pairs: Pairs) -> None:
    """A step of the graph whose products overflow is computed again, wide, and so are those after it."""
    wide, narrow = (load(pairs("llama").folder, "float16")[0] for _ in range(2))
    for form in wide.narrow:
        form.wide = True
    for model in (wide, narrow):
        with_patience(model, 0)
        decoded(model, ids_of(8), 4)
    assert narrow.narrow
    assert not narrow.narrow[0].wide
    for model in (wide, narrow):
        model.norm.weight.mul_(1e6)
    assert torch.equal(decoded(narrow, ids_of(12), 4), decoded(wide, ids_of(12), 4))
    assert narrow.narrow[0].wide
