"""Attention as embedding bags, and the cache whose keys lie in blocks, beside plain attention and the plain cache."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from llmcli.generation import decode_step, prefill
from llmcli.model import bags, blocked_cache
from llmcli.model.bags import BLOCK, Index, attend_in_bags, out_of_blocks, put_in_blocks
from llmcli.model.blocked_cache import Blocked, LongCache
from llmcli.model.cache import KVCache
from llmcli.model.checkpoint import load_model
from llmcli.model.loading import load
from llmcli.model.processor import fast_bags, fast_bfloat16
from llmcli.model.recorder import Recorder
from llmcli.model.traced import recorded
from llmcli.model.transformer import CausalLM

from .conftest import Pair, assert_close, text
from .variants import VARIANTS

Pairs = Callable[[str], Pair]
pytestmark = pytest.mark.skipif(not fast_bags(), reason="this torch has no fbgemm")
needs_half_keys = pytest.mark.skipif(not fast_bfloat16(), reason="this processor keeps keys in float32")
LONG = 20


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts of twenty tokens are long ones, blocks have eight slots, and a cache grows by sixteen."""
    monkeypatch.setattr(blocked_cache, "LONG", LONG)
    monkeypatch.setattr(blocked_cache, "BLOCK", 8)
    monkeypatch.setattr(bags, "BLOCK", 8)
    monkeypatch.setattr("llmcli.model.cache._CHUNK", 16)
    monkeypatch.setattr("llmcli.model.transformer.tiles", lambda: False)


def ids_of(length: int) -> list[int]:
    return [int(id) for id in text(length)[0]]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 5e-6), (torch.float16, 2e-3)])
@pytest.mark.parametrize(("heads", "kv_heads", "width"), [(4, 4, 16), (6, 2, 8), (8, 1, 80)])
@pytest.mark.parametrize(("tokens", "queries"), [(1, 1), (5, 3), (127, 1), (128, 1), (129, 1), (300, 1), (300, 17)])
def test_attention_in_bags_is_attention(
    dtype: torch.dtype, tolerance: float, heads: int, kv_heads: int, width: int, tokens: int, queries: int
) -> None:
    torch.manual_seed(tokens)
    capacity = 3 * BLOCK
    q = torch.randn(1, queries, heads, width).transpose(1, 2)
    keys, values = torch.randn(2, 1, kv_heads, tokens, width)
    blocks = torch.full((1, kv_heads, capacity // BLOCK, width, BLOCK), torch.nan, dtype=dtype)
    put_in_blocks(blocks, keys, 0)
    kept = torch.full((1, kv_heads, capacity, width), torch.nan, dtype=dtype)
    kept[:, :, :tokens] = values
    index = Index(heads, kv_heads, width)
    found = attend_in_bags(q, blocks, kept, index(tokens, capacity, queries), 0.3)
    scores = q @ keys.repeat_interleave(heads // kv_heads, 1).transpose(-1, -2) * 0.3
    seen = torch.ones(queries, tokens, dtype=torch.bool).tril(tokens - queries)
    weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
    assert found.dtype == dtype
    assert_close(found.float(), weights @ values.repeat_interleave(heads // kv_heads, 1), tolerance)


def test_an_index_serves_texts_of_all_lengths() -> None:
    index = Index(4, 2, 8)
    for tokens, capacity, queries in ((200, 256, 1), (255, 256, 1), (257, 512, 1), (257, 512, 3), (30, 512, 1)):
        again = index(tokens, capacity, queries)
        for one, other in zip(again, Index(4, 2, 8)(tokens, capacity, queries), strict=True):
            assert (one is None and other is None) or torch.equal(one, other)


def test_what_is_put_in_blocks_comes_out_of_them() -> None:
    keys = torch.randn(1, 2, 50, 4)
    for start in range(0, 50, 7):
        for end in range(start + 1, 51, 5):
            blocks = torch.zeros(1, 2, 7, 4, 8)
            put_in_blocks(blocks, keys[:, :, start:end], start)
            expected = F.pad(keys[:, :, start:end], (0, 0, start, 56 - end))
            assert torch.equal(out_of_blocks(blocks, 56), expected)


def passes(model: CausalLM, cache: KVCache) -> Tensor:
    """The logits of a text in passes of many kinds: a prompt, single tokens, drafts half of which are cropped, another
    prompt."""
    ids, rows = ids_of(120), []
    rows.append(prefill(model, cache, ids[:15])[None])
    rows += [decode_step(model, cache, ids[: n + 1])[None] for n in range(15, 40)]
    with torch.inference_mode():
        for step in range(10):
            count = 2 + step % 5
            rows.append(model(torch.tensor([ids[cache.length :][:count]]), cache)[0])
            cache.crop(cache.length - count // 2)
        many = torch.tensor([ids[cache.length :][:30]])
        rows.append(model(many, cache)[0])
        recorder = Recorder({"heads"})
        rows.append(model(torch.tensor([[7]]), cache, tap=recorder)[0])
    rows.append(prefill(model, cache, [*ids[: cache.length], 4, 5, 6])[None])
    rows += [decode_step(model, cache, [*ids[: cache.length], n])[None] for n in range(4)]
    cache.crop(9)
    rows += [decode_step(model, cache, [*ids[: cache.length], n])[None] for n in range(4)]
    return torch.cat(rows)


SEEING_ALL = [name for name in VARIANTS if not {"dynamic", "longrope"} & set(name.split("-"))]


@pytest.mark.parametrize("patience", [0, 10**9], ids=["traced", "plain"])
@pytest.mark.parametrize("name", SEEING_ALL)
@pytest.mark.usefixtures("short")
def test_a_long_text_of_every_family(name: str, patience: int, pairs: Pairs) -> None:
    model = load_model(pairs(name).folder)
    model.traced.patience = patience
    cache = model.new_cache()
    assert isinstance(cache, LongCache) == (not model.config.slides and not model.config.attention_softcap)
    if not isinstance(cache, LongCache):
        return
    assert_close(passes(model, cache), passes(model, KVCache(model.config)), 2e-5)
    if not patience:
        graphs = {kind for kind, graph in model.traced.graphs.items() if isinstance(graph, torch.jit.ScriptModule)}
        assert graphs > {("blocked", torch.float32, False), ("blocked", torch.float32, True)}


@pytest.mark.parametrize("dtype", ["float32", "auto", "float16-packed", "bfloat16", "int8", "int4"])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.usefixtures("short")
def test_every_dtype(name: str, dtype: str, pairs: Pairs) -> None:
    model, _, _ = load(pairs(name).folder, dtype)
    model.traced.patience = 0
    cache = model.new_cache()
    traced = passes(model, cache)
    rounded = dtype in ("bfloat16", "int8", "int4") and fast_bfloat16()
    kept = torch.float16 if rounded else torch.float32
    assert cache.layers[0].kept()[0].dtype == cache.kept_as(LONG, traced) == kept
    assert model.new_cache().kept_as(LONG - 1, traced) == torch.float32
    model.traced.patience = 10**9
    assert torch.equal(passes(model, model.new_cache()), traced)
    reference = load_model(pairs(name).folder)
    errors = [
        float((logits - passes(reference, KVCache(reference.config))).abs().mean())
        for logits in (traced, passes(model, KVCache(model.config)))
    ]
    assert errors[0] < 1.05 * errors[1] + 1e-6


@pytest.mark.parametrize("asked", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.usefixtures("short")
def test_what_is_asked_for(asked: torch.dtype, pairs: Pairs) -> None:
    model, _, _ = load(pairs("llama").folder, "int8")
    model.kv_dtype = asked
    cache = model.new_cache()
    assert isinstance(cache, LongCache) == (asked != torch.bfloat16)
    prefill(model, cache, ids_of(30))
    assert cache.kept_as(30, torch.empty(0)) == cache.layers[0].kept()[0].dtype == asked


@needs_half_keys
@torch.inference_mode()
@pytest.mark.usefixtures("short")
def test_keys_that_float16_might_not_hold_stay_in_float32(pairs: Pairs) -> None:
    model, _, _ = load(pairs("llama").folder, "int8")
    cache = model.new_cache()
    prefill(model, cache, ids_of(30))
    before = cache.kept_as(30, torch.empty(0))
    for buffer in cache._rooms[0].buffers:
        buffer[0, 0, 0, 3, 1] = -5000.0
    assert (before, cache.layers[0].kept()[0].dtype) == (torch.float16, torch.float32)
    assert cache.kept_as(30, torch.empty(0)) == torch.float32


@torch.inference_mode()
@pytest.mark.usefixtures("short")
def test_several_texts_in_a_cache_of_one_stay_as_they_are(pairs: Pairs) -> None:
    model = pairs("llama").ours
    cache, plain = model.new_cache(), KVCache(model.config)
    for queries in (LONG, 1, 3):
        ids = text(queries, batch=2)
        assert torch.equal(model(ids, cache), model(ids, plain))
    assert not isinstance(cache.layers[0], Blocked)


@pytest.mark.parametrize("count", [1, 4])
@torch.inference_mode()
@pytest.mark.usefixtures("short")
def test_a_layer_in_a_step_takes_in_what_the_layer_itself_does(count: int, pairs: Pairs) -> None:
    model = load_model(pairs("llama").folder)
    caches = model.new_cache(), model.new_cache()
    new = [torch.randn(1, model.config.num_kv_heads, count, model.config.head_dim) for _ in range(2)]
    for cache in caches:
        prefill(model, cache, ids_of(30))
    expected = [layer.append(*new) for layer in caches[0].layers]
    step = caches[1].step(count)
    for layer, wanted in zip(step.layers, expected, strict=True):
        assert isinstance(layer, Blocked)
        for append in (layer.append, recorded(layer.append, tuple(new), [])):
            found = append(*new)
            assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))


@pytest.mark.usefixtures("short")
def test_a_long_cache_grows_and_is_cleared(pairs: Pairs) -> None:
    model = load_model(pairs("llama").folder)
    cache, ids = model.new_cache(), ids_of(120)
    for length in range(10, 120):
        last = decode_step(model, cache, ids[:length])
    heads = 2 * model.config.num_kv_heads * model.config.head_dim * 4 * model.config.num_layers
    assert 119 * heads <= cache.allocated_bytes <= 2 * 128 * heads
    cache.clear()
    assert_close(prefill(model, cache, ids[:119]), last, 1e-5)
    keys, values = cache.layers[1].kept()
    assert keys.shape == values.shape == (1, model.config.num_kv_heads, 119, model.config.head_dim)
