"""Every family against `transformers` on tiny random checkpoints: logits, cache, greedy ids, inner tensors."""

from collections.abc import Callable

import pytest
import torch

from llmcli.model.cache import KVCache
from llmcli.model.recorder import Recorder
from llmcli.model.transformer import CausalLM

from .conftest import Pair, assert_close, text
from .variants import LENGTH_DEPENDENT, VARIANTS

Pairs = Callable[[str], Pair]
LENGTH = 48  # longer than every sliding window and every original context of the variants


@pytest.mark.parametrize("name", VARIANTS)
@torch.inference_mode()
def test_logits(pairs: Pairs, name: str) -> None:
    pair = pairs(name)
    ids = text(LENGTH, batch=2)
    assert_close(pair.ours(ids), pair.theirs(ids).logits, 1e-4)


@pytest.mark.parametrize("name", VARIANTS)
@torch.inference_mode()
def test_cached_equals_uncached(pairs: Pairs, name: str) -> None:
    """Prefill, a chunk, single steps; up to the original length where the rotation depends on the length."""
    model = pairs(name).ours
    ids = text(32 if name in LENGTH_DEPENDENT else LENGTH, batch=2)
    cache = KVCache(model.config)
    chunks = ids.split([13, 1, 7] + [1] * (ids.shape[1] - 21), dim=1)
    cached = torch.cat([model(chunk, cache) for chunk in chunks], dim=1)
    assert_close(cached, model(ids), 1e-4)
    assert cache.length == ids.shape[1]


@pytest.mark.parametrize("name", VARIANTS)
@torch.inference_mode()
def test_greedy_ids(pairs: Pairs, name: str) -> None:
    """64 steps from 8 ids, past every original length, the same ids as `transformers`' cached generation."""
    pair = pairs(name)
    prompt = text(8, seed=1)
    theirs = pair.reference.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=64, do_sample=False, eos_token_id=None
    )[0].tolist()
    ours = greedy(pair.ours, prompt[0].tolist(), 64)
    if ours != theirs:
        same = next(i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b)
        prefix = torch.tensor([ours[:same]])
        difference = (pair.ours(prefix)[0, -1] - pair.theirs(prefix).logits[0, -1]).abs().max()
        gap = pair.ours(prefix)[0, -1].topk(2).values.diff().abs()
        assert difference <= 1e-4, f"ids differ from step {same - 8} on"
        assert gap <= 2e-4, f"ids differ from step {same - 8} on"


def greedy(model: CausalLM, ids: list[int], steps: int) -> list[int]:
    ids = list(ids)
    cache = KVCache(model.config)
    for _ in range(steps):
        if model.must_recompute(cache.length, len(ids)):
            cache.clear()
        logits = model(torch.tensor([ids[cache.length :]]), cache, last_only=True)
        ids.append(int(logits[0, -1].argmax()))
    return ids


@pytest.mark.parametrize("name", VARIANTS)
@torch.inference_mode()
def test_inner_tensors(pairs: Pairs, name: str) -> None:
    """Hidden states of every layer, attention weights and scores of every head."""
    pair = pairs(name)
    layers, heads = pair.ours.config.num_layers, range(pair.ours.config.num_heads)
    recorder = Recorder({"embedding", "block", "final_norm", "weights", "scores"}, dict.fromkeys(range(layers), heads))
    ids = text(LENGTH, batch=2)
    pair.ours(ids, tap=recorder)
    theirs = pair.theirs(ids, output_hidden_states=True, output_attentions=True)
    hidden = [recorder["embedding", -1], *(recorder["block", i] for i in range(layers - 1))]
    for ours, reference in zip([*hidden, recorder["final_norm", layers]], theirs.hidden_states, strict=True):
        assert_close(ours, reference, 1e-5)
    for i in range(layers):
        weights, scores = recorder["weights", i], recorder["scores", i]
        assert_close(weights, theirs.attentions[i], 1e-5)
        assert (weights.sum(-1) - 1).abs().max() <= 1e-5
        assert not weights.triu(1).any()
        visible = weights > 0
        from_scores = scores.masked_fill(~visible, float("-inf")).softmax(-1)
        assert_close(from_scores, weights, 1e-5)
        assert scores.isfinite().all()


@torch.inference_mode()
def test_recording_changes_nothing_and_keeps_only_what_is_asked(pairs: Pairs) -> None:
    model = pairs("llama").ours
    ids = text(12)
    recorder = Recorder({"weights"}, {1: [2]})
    assert torch.equal(model(ids, tap=recorder), model(ids))
    assert list(recorder.passes) == [("weights", 1)]
    assert recorder["weights", 1].shape == (1, 1, 12, 12)
    with pytest.raises(ValueError, match="no such point: wieghts"):
        Recorder({"wieghts"})


@torch.inference_mode()
def test_longrope_recomputes_once(pairs: Pairs) -> None:
    model = pairs("phi3-longrope").ours
    crossings = [length for length in range(128) if model.must_recompute(length, length + 1)]
    assert crossings == [32]
    assert model.must_recompute(5, 40)
    assert not model.must_recompute(0, 40)
    assert not any(pairs("llama-dynamic").ours.must_recompute(n, n + 1) for n in range(100))
