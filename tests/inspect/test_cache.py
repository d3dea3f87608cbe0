"""The KV cache's bytes and its ids, beside the cache itself and a cache that is broken."""

import pytest
import torch
from tiny_families import pair, some_ids

from llmcli.errors import ContextLengthError, UsageError
from llmcli.inspect.cache import cache_report
from llmcli.model.cache import KVCache, LayerCache
from llmcli.pipeline import Pipeline

IDS = some_ids(6, seed=9)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "mistral", "qwen3", "phi3-longrope"])
def test_both_ways_give_the_same_ids_and_prefill_equals_steps(name):
    pipeline = pair(name).pipeline
    report = cache_report(pipeline, IDS, max_tokens=12)
    assert report.same_ids
    assert report.prefill_equal
    assert report.prefill_difference <= 1e-4 * report.scale
    assert report.largest_difference <= 1e-4 * report.scale
    ids = [step.token.id for step in report.steps]
    assert ids == pipeline.generate_ids(IDS, max_tokens=12, greedy=True, ignore_eos=True)
    assert ids == [step.uncached_id for step in report.steps]
    with torch.no_grad():
        logits = pair(name).reference(torch.tensor([IDS + ids[:-1]])).logits[0]
    assert ids == logits[len(IDS) - 1 :].argmax(-1).tolist()
    assert report.scale == pytest.approx(max(1.0, float(logits[: len(IDS)].abs().max())), rel=1e-4)


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_bytes_are_predicted_and_allocated(name):
    pipeline = pair(name).pipeline
    config = pipeline.model.config
    report = cache_report(pipeline, IDS, max_tokens=20)
    cache = KVCache(config)
    each = 2 * config.num_kv_heads * config.head_dim * 4
    for step, length in zip(report.steps, range(6, 26), strict=True):
        windows = [config.window(layer) or length for layer in range(config.num_layers)]
        assert step.length == length
        assert step.predicted == sum(min(length, window) for window in windows) * each
        assert step.allocated >= step.predicted
    with torch.no_grad():
        pipeline.model(torch.tensor([IDS]), cache)
    assert report.steps[0].allocated == cache.allocated_bytes
    assert report.bytes_per_token == config.num_layers * each
    windows = [config.window(layer) or 128 for layer in range(config.num_layers)]
    assert report.full_context == sum(windows) * each


@pytest.mark.parametrize("kept", ["auto", "float32", "bfloat16", "float16"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int8"])
@pytest.mark.parametrize("amx", [False, True], ids=["", "amx"])
def test_the_prediction_is_exact_whatever_the_weights_and_the_cache_are_kept_in(dtype, kept, amx, monkeypatch):
    """What a cache takes at first has room for 256 tokens."""
    monkeypatch.setattr("llmcli.model.transformer.tiles", lambda: amx)
    monkeypatch.setattr("llmcli.model.transformer.fast_bfloat16", lambda: True)
    pipeline = Pipeline.load(pair("llama").folder, dtype=dtype, kv_dtype=kept, packed=False)
    report = cache_report(pipeline, IDS, max_tokens=2)
    fastest = "bfloat16" if amx and dtype in ("bfloat16", "int8") else "float32"
    assert report.kv_dtype == (kept if kept != "auto" else fastest)
    for step in report.steps:
        assert step.allocated == 256 * report.bytes_per_token
        assert step.predicted == step.length * report.bytes_per_token
    assert report.full_context == 128 * report.bytes_per_token


def test_the_prediction_is_exact_for_a_text_that_becomes_long(monkeypatch):
    monkeypatch.setattr("llmcli.model.blocked_cache.LONG", 8)
    monkeypatch.setattr("llmcli.model.transformer.tiles", lambda: False)
    monkeypatch.setattr("llmcli.model.transformer.fast_bfloat16", lambda: True)
    pipeline = Pipeline.load(pair("llama").folder, dtype="int8", packed=False)
    report = cache_report(pipeline, IDS, max_tokens=6)
    assert report.kv_dtype == "float16"
    for step in report.steps:
        number = 4 if step.length < 8 else 2
        assert step.predicted == step.length * report.bytes_per_token * number // 2
        assert step.allocated == 256 * report.bytes_per_token * number // 2
    assert report.full_context == 128 * report.bytes_per_token
    assert cache_report(pipeline, IDS[:1], max_tokens=2).kv_dtype == "float32"


def report_of_untraced_steps(monkeypatch, append, max_tokens):
    """The report where a layer takes in keys and values as `append` does."""
    pipeline = pair("llama").pipeline
    monkeypatch.setattr(LayerCache, "append", append)
    monkeypatch.setattr(pipeline.model.traced, "patience", 10**9)
    return cache_report(pipeline, IDS, max_tokens=max_tokens)


def test_a_cache_that_forgets_is_found_out(monkeypatch):
    append = LayerCache.append

    def forgetful(self, keys, values):
        keys, values = append(self, keys, values)
        return (keys, values) if keys.shape[2] <= len(IDS) else (keys[:, :, 1:], values[:, :, 1:])

    report = report_of_untraced_steps(monkeypatch, forgetful, max_tokens=16)
    assert report.largest_difference > 1e-2
    assert not report.same_ids
    assert not any(step.excused for step in report.steps)


def test_a_cache_that_mixes_steps_is_found_out_by_the_prompt(monkeypatch):
    append = LayerCache.append

    def late(self, keys, values):
        keys, values = append(self, keys, values)
        return keys, values.roll(1, dims=2) if values.shape[2] == 3 else values

    report = report_of_untraced_steps(monkeypatch, late, max_tokens=1)
    assert not report.prefill_equal


def test_what_does_not_fit():
    with pytest.raises(ContextLengthError, match="do not fit"):
        cache_report(pair("llama").pipeline, some_ids(100), max_tokens=30)
    assert len(cache_report(pair("llama").pipeline, some_ids(127), max_tokens=2).steps) == 2
    with pytest.raises(UsageError):
        cache_report(pair("llama").pipeline, IDS, max_tokens=0)
