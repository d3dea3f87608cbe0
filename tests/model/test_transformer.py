"""The forward pass itself: what its options mean, and what the KV cache holds."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from llmcli.model.cache import KVCache
from llmcli.model.layers import FeedForward
from llmcli.model.recorder import Recorder
from llmcli.model.tap import Tap

from .conftest import Pair, assert_close, text
from .variants import VARIANTS

Pairs = Callable[[str], Pair]


@pytest.mark.parametrize("name", VARIANTS)
@torch.inference_mode()
def test_last_only_is_the_last_of_all(pairs: Pairs, name: str) -> None:
    """With and without a cache, after other tokens, under a mask, and with a tap that sees the other tokens too."""
    model = pairs(name).ours
    ids = text(15, batch=2)
    logits = model(ids)
    assert logits.dtype == torch.float32
    assert torch.equal(model.logits(model.hidden_states(ids)), logits)
    assert_close(model(ids, last_only=True), logits[:, -1:], 1e-5)
    cache = model.new_cache()
    model(ids[:, :6], cache, last_only=True)
    assert_close(model(ids[:, 6:14], cache, last_only=True), model(ids[:, :14])[:, -1:], 1e-5)
    assert_close(model(ids[:, 14:], cache, last_only=True), logits[:, -1:], 1e-5)
    visible = torch.ones(15, 15, dtype=torch.bool).tril()[None, None] & (torch.arange(15) != 4)
    masked = model(ids, visible=visible)[:, -1:]
    assert_close(model(ids, visible=visible, last_only=True), masked, 1e-5)
    recorder = Recorder({"block"})
    assert_close(model(ids, tap=recorder, last_only=True), logits[:, -1:], 1e-5)
    assert recorder["block", model.config.num_layers - 1].shape[1] == 15


@torch.inference_mode()
def test_the_last_layer_computes_one_token_where_one_is_asked_for(
    pairs: Pairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = pairs("llama").ours
    rows: list[int] = []
    feed_forward = FeedForward.forward

    def counted(ffn: FeedForward, x: torch.Tensor, tap: Tap | None) -> torch.Tensor:
        rows.append(x.shape[1])
        return feed_forward(ffn, x, tap)

    monkeypatch.setattr(FeedForward, "forward", counted)
    assert model(text(15), last_only=True).shape[1] == 1
    assert rows == [15] * (model.config.num_layers - 1) + [1]


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
