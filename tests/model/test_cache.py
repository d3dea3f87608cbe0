"""The KV cache: how it grows, goes back, and in which number format it keeps things."""

from collections.abc import Callable

import pytest
import torch

from llmcli.model.cache import KV_DTYPES, KVCache, LayerCache, Room
from llmcli.model.loading import load
from llmcli.model.processor import fast_bfloat16
from llmcli.model.recorder import Recorder

from .conftest import Pair, assert_close, text

Pairs = Callable[[str], Pair]
needs_bfloat16 = pytest.mark.skipif(not fast_bfloat16(), reason="this processor has no fast products in bfloat16")


def appended(cache: LayerCache, count: int, first: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Appends `count` keys that are numbered from `first` on, with their negatives as values."""
    numbers = torch.arange(first, first + count, dtype=torch.float32)
    keys = numbers[None, None, :, None].expand(1, 2, count, 4)
    return cache.append(keys, -keys)


def of_one(window: int | None) -> LayerCache:
    return LayerCache(Room(window))


def numbers(keys: torch.Tensor) -> list[int]:
    assert torch.equal(keys, keys[:, :1, :, :1].expand_as(keys))
    return [int(each) for each in keys[0, 0, :, 0].tolist()]


def test_appending_copies_seldom_and_never_takes_much_more_than_it_needs() -> None:
    cache = of_one(None)
    each = 2 * 2 * 4 * 4
    moves, place = 0, None
    for i in range(5000):
        keys, values = appended(cache, 1, i)
        moves += keys.data_ptr() != place
        place = keys.data_ptr()
        assert (i + 1) * each <= cache.allocated_bytes <= (2 * i + 256) * each
    assert moves == 6  # 256, 512, ... 8192
    assert numbers(keys) == [-n for n in numbers(values)] == list(range(5000))


def test_a_prompt_takes_what_it_needs_and_no_whole_context() -> None:
    cache = of_one(None)
    appended(cache, 1000)
    assert cache.allocated_bytes == 1024 * 2 * 2 * 4 * 4


@pytest.mark.parametrize("window", [None, 9])
def test_going_back_over_the_last_append_is_as_if_it_never_was(window: int | None) -> None:
    generator = torch.Generator().manual_seed(0)
    room, fresh = Room(window), of_one(window)
    cache, length = LayerCache(room), 0
    for _ in range(300):
        drafted = int(torch.randint(1, 9, (), generator=generator))
        kept = int(torch.randint(1, drafted + 1, (), generator=generator))
        seen, _ = appended(cache, drafted, length)
        assert numbers(seen)[-drafted:] == list(range(length, length + drafted))
        assert room.can_forget(drafted - kept, length + drafted)
        room.forget(drafted - kept)
        appended(fresh, kept, length)
        length += kept
        assert [numbers(each) for each in cache.kept()] == [numbers(each) for each in fresh.kept()]
        assert numbers(cache.kept()[0])[-1] == length - 1


def test_a_sliding_layer_does_not_go_back_to_what_it_dropped() -> None:
    room = Room(9)
    cache = LayerCache(room)
    appended(cache, 256)
    assert room.can_forget(200, 256)
    appended(cache, 1, 256)  # the buffer is full: the last 8 keys move to its front
    assert room.can_forget(1, 257)
    assert not room.can_forget(2, 257)
    with pytest.raises(ValueError, match="empty"):
        of_one(9).kept()


@pytest.mark.parametrize("window", [None, 9])
def test_layers_that_share_a_room_hold_what_each_would_hold_alone(window: int | None) -> None:
    room = Room(window, layers=3)
    shared, alone = [LayerCache(room, place) for place in range(3)], [of_one(window) for _ in range(3)]
    length = 0
    for count in (5, 1, 250, 1, 1, 300, 2, 700):
        for i, (one, other) in enumerate(zip(shared, alone, strict=True)):
            found, wanted = (appended(each, count, 1000 * i + length) for each in (one, other))
            assert [numbers(each) for each in found] == [numbers(each) for each in wanted]
        length += count
    assert [one.allocated_bytes for one in shared] == [other.allocated_bytes for other in alone]
    assert [numbers(one.kept()[0]) for one in shared] == [numbers(other.kept()[0]) for other in alone]


@torch.inference_mode()
@pytest.mark.parametrize("name", ["gpt2", "llama", "mistral", "gemma3", "phi3-partial-sliding"])
def test_a_cropped_cache_goes_on_like_one_that_never_saw_more(pairs: Pairs, name: str) -> None:
    model = pairs(name).ours
    ids = text(60)
    expected = model(ids)
    cache = model.new_cache()
    model(ids[:, :30], cache)
    for start in range(30, 52, 3):
        wrong = (ids[:, start : start + 8] + 1) % 101
        wrong[:, :3] = ids[:, start : start + 3]
        assert_close(model(wrong, cache)[:, :3], expected[:, start : start + 3], 1e-5)
        cache.crop(start + 3)
        assert cache.length == start + 3


def test_what_cannot_be_cropped_is_refused(pairs: Pairs) -> None:
    cache = KVCache(pairs("mistral").ours.config)
    for length in (-1, 1):
        with pytest.raises(ValueError, match=f"0 tokens cannot go back to {length}"):
            cache.crop(length)


@torch.inference_mode()
@pytest.mark.parametrize("computed", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", list(KV_DTYPES))
def test_keys_are_kept_as_asked_for(name: str, computed: torch.dtype) -> None:
    cache = LayerCache(Room(None, KV_DTYPES[name]))
    given = torch.full((1, 2, 3, 4), 1 / 3, dtype=computed)
    keys, values = cache.append(given, given)
    stored = KV_DTYPES[name] or torch.float32
    assert cache.allocated_bytes == 256 * 2 * 2 * 4 * stored.itemsize
    assert keys.dtype == values.dtype == cache.kept()[0].dtype == stored
    assert torch.equal(keys, given.to(stored))


@needs_bfloat16
@pytest.mark.parametrize("amx", [False, True], ids=["", "amx"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2-caps", "gemma3"])
def test_which_models_keep_keys_in_bfloat16(
    pairs: Pairs, name: str, amx: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmcli.model.transformer.tiles", lambda: amx)
    for dtype in ("float32", "auto", "float16", "float16-packed", "bfloat16", "int8", "int4"):
        model, _, _ = load(pairs(name).folder, dtype)
        rounded = dtype in ("bfloat16", "int8", "int4") and name != "gemma2-caps"
        assert model.new_cache().dtype == (torch.bfloat16 if amx and rounded else None), dtype
        model.kv_dtype = torch.float32
        assert model.new_cache().dtype == torch.float32


@torch.inference_mode()
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2-caps"])
def test_a_cache_of_16_bits_changes_little(pairs: Pairs, name: str) -> None:
    model = pairs(name).ours
    ids = text(40)
    expected = model(ids)[:, 20:]
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float16, 1e-2), (torch.bfloat16, 8e-2)):
        cache = KVCache(model.config, dtype)
        model(ids[:, :20], cache)
        found = torch.cat([model(ids[:, i : i + 1], cache) for i in range(20, 40)], dim=1)
        assert_close(found, expected, tolerance)
        assert dtype == torch.float32 or float((found - expected).abs().max()) > 1e-4


@torch.inference_mode()
@pytest.mark.parametrize("amx", [False, True], ids=["", "amx"])
@pytest.mark.parametrize("dtype", ["int8", "int4", "bfloat16"])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_keys_in_bfloat16_show_weights_in_float32(
    pairs: Pairs, name: str, dtype: str, amx: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With AMX the keys of models whose activations are rounded anyway are read as they are kept; without, they would
    be read in float32."""
    for name_of, value in (("transformer.tiles", True), ("transformer.fast_bfloat16", True), ("attend.tiles", amx)):
        monkeypatch.setattr(f"llmcli.model.{name_of}", lambda value=value: value)
    model, _, _ = load(pairs(name).folder, dtype)
    ids, cache = text(40), model.new_cache()
    model(ids[:, :39], cache)
    heads = range(model.config.num_heads)
    recorder = Recorder({"rotated_query", "scores", "weights", "heads"}, {1: heads})
    model(ids[:, 39:], cache, tap=recorder)
    keys, values = (kept.float() for kept in cache.layers[1].kept())
    assert cache.layers[1].kept()[0].dtype == torch.bfloat16
    group = len(heads) // keys.shape[1]
    q = recorder["rotated_query", 1]
    q = q.bfloat16().float() if amx else q
    scores = torch.stack([q[0, h] @ keys[0, h // group].T for h in heads])[None] * model.config.scale(1)
    assert_close(recorder["scores", 1], scores, 1e-6)
    assert recorder["weights", 1].dtype == torch.float32
    assert_close(recorder["weights", 1], scores.softmax(-1), 1e-6)
    attended = torch.stack([scores.softmax(-1)[0, h] @ values[0, h // group] for h in heads])[None]
    assert_close(recorder["heads", 1].float(), attended, 1e-2)


@torch.inference_mode()
@pytest.mark.parametrize("dtype", ["float32", "auto", "float16", "float16-packed"])
def test_what_keeps_more_than_8_bits_reads_keys_in_float32(
    pairs: Pairs, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmcli.model.transformer.tiles", lambda: True)
    model, _, _ = load(pairs("llama").folder, dtype)
    cache = model.new_cache()
    model(text(5), cache)
    assert cache.layers[0].kept()[0].dtype == torch.float32
