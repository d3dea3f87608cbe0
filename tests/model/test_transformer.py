"""The forward pass itself: what its options mean, and what the KV cache holds."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from llmcli.model.cache import KVCache

from .conftest import Pair, assert_close, text

Pairs = Callable[[str], Pair]


@torch.inference_mode()
def test_last_only_is_the_last_of_all(pairs: Pairs) -> None:
    model = pairs("gemma2").ours
    ids = text(15, batch=2)
    logits = model(ids)
    assert logits.dtype == torch.float32
    assert_close(model(ids, last_only=True), logits[:, -1:], 1e-6)
    assert torch.equal(model.logits(model.hidden_states(ids)), logits)


@torch.inference_mode()
@pytest.mark.parametrize("name", ["gpt2", "llama", "mistral", "gemma3", "phi3-partial-sliding"])
def test_documents_packed_into_one_row_do_not_see_each_other(pairs: Pairs, name: str) -> None:
    model = pairs(name).ours
    first, second = text(17, seed=5), text(12, seed=6)
    positions = torch.cat([torch.arange(17), torch.arange(12)])[None]
    document = torch.tensor([0] * 17 + [1] * 12)
    visible = (document[:, None] == document) & torch.ones(29, 29, dtype=torch.bool).tril()
    packed = model(torch.cat([first, second], dim=1), positions=positions, visible=visible[None, None])
    assert_close(packed, torch.cat([model(first), model(second)], dim=1), 1e-5)


@torch.inference_mode()
def test_rope_knows_distances_and_a_learned_table_places(pairs: Pairs) -> None:
    ids = text(10)
    for name, moves in (("llama", False), ("gpt2", True)):
        model = pairs(name).ours
        shifted = model(ids, positions=torch.arange(30, 40))
        difference = (shifted - model(ids)).abs().max()
        assert (difference > 1e-2) == moves


@torch.inference_mode()
def test_a_sliding_layer_keeps_only_its_window(pairs: Pairs) -> None:
    model = pairs("mistral").ours  # a window of 9
    cache = KVCache(model.config)
    ids = text(2000)
    model(ids[:, :700], cache)
    for i in range(700, 2000, 100):
        model(ids[:, i : i + 100], cache)
    assert cache.length == 2000
    heads, width = model.config.num_kv_heads, model.config.head_dim
    assert cache.allocated_bytes <= model.config.num_layers * 2 * 768 * heads * width * 4
    full = KVCache(replace(model.config, layer_types=()))
    for count in (700, 1300):
        full.layers[0].append(*torch.zeros(2, 1, heads, count, width))
    assert full.layers[0].kept()[0].shape[2] == 2000


@torch.inference_mode()
def test_a_cleared_cache_is_a_new_one(pairs: Pairs) -> None:
    model = pairs("llama").ours
    cache = KVCache(model.config)
    first = model(text(9), cache)
    cache.clear()
    assert cache.length == 0
    assert torch.equal(model(text(9), cache), first)
