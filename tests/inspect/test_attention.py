"""Maps and summaries beside `transformers`, generations beside one uncached pass, memory."""

import os
import subprocess
import sys

import numpy as np
import pytest
import tiny
import torch
from tiny_families import EVERY, pair, some_ids

from llmcli.errors import ContextLengthError, UsageError
from llmcli.inspect import maps
from llmcli.inspect.attention import TOLERANCE, attention, largest_difference, rank_heads
from llmcli.inspect.patterns import entropies
from llmcli.model.recorder import Recorder
from llmcli.pipeline import Pipeline

IDS = some_ids(24, seed=5)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    return Pipeline.load(tiny.write_model(tmp_path_factory.mktemp("tiny")))


def everything(pipeline):
    return {"layers": range(pipeline.model.config.num_layers)}


@pytest.mark.parametrize("name", EVERY)
@torch.inference_mode()
def test_weights_and_scores_equal_the_reference(name):
    ours = pair(name).pipeline
    config = ours.model.config
    found = attention(ours, IDS, scores=True, **everything(ours))
    theirs = pair(name).reference(torch.tensor([IDS]), output_attentions=True).attentions
    recorder = Recorder({"scores"}, {i: range(config.num_heads) for i in range(config.num_layers)})
    ours.model(torch.tensor([IDS]), tap=recorder)
    assert len(found.maps) == config.num_layers * config.num_heads == len(found.heads)
    for each in found.maps:
        reference = theirs[each.layer][0, each.head].numpy()
        assert np.abs(each.weights - reference).max() <= 1e-5
        assert np.abs(each.weights.sum(axis=1, dtype=np.float64) - 1).max() <= 1e-5
        assert not np.triu(each.weights, 1).any()
        assert not each.weights[~each.visible].any()
        assert (reference[each.visible] > 0).mean() > 0.99
        scores = recorder["scores", each.layer][0, each.head].numpy()
        assert np.abs(each.scores - scores).max() <= 1e-5 * max(1, np.abs(scores).max())
        assert each.kv_head == each.head * config.num_kv_heads // config.num_heads
        assert ("→kv" in each.name) == (config.num_kv_heads < config.num_heads)
        summary = found.heads[each.layer * config.num_heads + each.head]
        assert summary.entropy == pytest.approx(entropies(reference).mean(), abs=1e-4)


@pytest.mark.parametrize("name", EVERY)
@torch.inference_mode()
def test_hidden_states_equal_the_reference(name):
    """All but the last, which `transformers` hands out after the final norm."""
    ours = pair(name).pipeline.hidden_states(IDS)
    theirs = pair(name).reference(torch.tensor([IDS]), output_hidden_states=True).hidden_states
    assert ours.shape == (len(theirs), len(IDS), theirs[0].shape[-1])
    for mine, reference in zip(ours[:-1], theirs[:-1], strict=True):
        reference = reference[0].numpy()
        assert np.abs(mine - reference).max() <= 1e-5 * max(1, np.abs(reference).max())


def test_small_blocks_give_the_same(pipeline, monkeypatch):
    chosen = {"layers": [1], "heads": [0, 3], "scores": True}
    whole = attention(pipeline, IDS, **chosen)
    monkeypatch.setattr(maps, "_CELLS", 100)
    parts = attention(pipeline, IDS, **chosen)
    for ours, theirs in zip(parts.maps, whole.maps, strict=True):
        assert np.abs(ours.weights - theirs.weights).max() <= 1e-6
        assert np.abs(ours.scores - theirs.scores).max() <= 1e-5
    assert [each.pattern for each in parts.heads] == [each.pattern for each in whole.heads]
    assert np.allclose([each.entropy for each in parts.heads], [each.entropy for each in whole.heads], atol=1e-5)


def test_means_are_means(pipeline):
    each = attention(pipeline, IDS, **everything(pipeline)).maps
    stacked = np.stack([one.weights for one in each]).reshape(2, 4, len(IDS), len(IDS))
    (last,) = attention(pipeline, IDS).maps
    assert (last.layer, last.head, last.kv_head, last.name) == (1, None, None, "L1 mean of heads")
    assert np.abs(last.weights - stacked[1].mean(axis=0)).max() <= 1e-6
    by_head = attention(pipeline, IDS, mean="layers").maps
    assert [one.name for one in by_head[:2]] == ["H0→kv0 mean of layers", "H1→kv0 mean of layers"]
    assert np.abs(by_head[2].weights - stacked[:, 2].mean(axis=0)).max() <= 1e-6
    (some,) = attention(pipeline, IDS, mean="heads", layers=[0], heads=[1, 3]).maps
    assert np.abs(some.weights - stacked[0, [1, 3]].mean(axis=0)).max() <= 1e-6


def test_without_the_sink_rows_still_sum_to_one(pipeline):
    chosen = {"layers": [0], "heads": [0, 1, 2, 3]}
    plain = attention(pipeline, IDS, **chosen).maps
    for full, rest in zip(plain, attention(pipeline, IDS, drop_sink=True, **chosen).maps, strict=True):
        assert np.abs(rest.weights.sum(axis=1) - 1).max() <= 1e-5
        assert np.array_equal(rest.sink, full.weights[:, 0])
        assert not rest.weights[1:, 0].any()
        assert rest.weights[0, 0] == 1
        expected = full.weights[5, 1:6] / full.weights[5, 1:6].sum()
        assert rest.weights[5, 1:6] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", [*EVERY, "phi3-longrope"])
def test_a_generation_has_the_maps_of_one_uncached_pass(name):
    """Across sliding windows, and where all keys are turned anew once the text outgrows its original length."""
    ours = pair(name).pipeline
    chosen = {"layers": range(ours.model.config.num_layers)}
    found = attention(ours, IDS, max_tokens=16, temperature=0.0, ignore_eos=True, scores=True, **chosen)
    assert len(found.tokens) == len(IDS) + 16
    assert found.generated
    assert len(found.fed) == len(IDS) + 15
    assert found.maps[0].weights.shape == (len(found.fed), len(found.fed))
    assert largest_difference(ours, found, **chosen) <= TOLERANCE
    again = attention(ours, [token.id for token in found.fed], **chosen)
    for cached, plain in zip(found.heads, again.heads, strict=True):
        assert cached.entropy == pytest.approx(plain.entropy, abs=1e-4)
        assert cached.strength == pytest.approx(plain.strength, abs=1e-4)


def test_a_generation_is_the_pipelines_own(pipeline):
    found = attention(pipeline, IDS, max_tokens=9, temperature=1.0, seed=3, ignore_eos=True)
    assert [token.id for token in found.tokens[24:]] == pipeline.generate_ids(
        IDS, max_tokens=9, temperature=1.0, seed=3, ignore_eos=True
    )
    assert found.seed == 3
    assert attention(pipeline, IDS, max_tokens=2).seed is None


def test_the_check_finds_a_changed_weight(pipeline):
    chosen = {"layers": [1], "heads": [2]}
    found = attention(pipeline, IDS, max_tokens=4, **chosen)
    found.maps[0].weights[25, 3] += 0.5
    assert largest_difference(pipeline, found, **chosen) > 0.4


def test_heads_are_ranked_by_what_is_asked(pipeline):
    found = attention(pipeline, IDS)
    ranked = rank_heads(found, "entropy", 3)
    entropy = sorted((head.entropy for head in found.heads), reverse=True)
    assert [value for _, value in ranked] == entropy[:3]
    head, value = rank_heads(found, "previous token", 1)[0]
    assert value == found.strengths["previous token"].max()
    assert found.strengths["previous token"][head.layer, head.head] == value


def test_errors(pipeline):
    with pytest.raises(UsageError, match="no layer 2"):
        attention(pipeline, IDS, layers=[2])
    with pytest.raises(UsageError, match="no head 4"):
        attention(pipeline, IDS, heads=[4])
    with pytest.raises(ContextLengthError):
        attention(pipeline, some_ids(65))
    with pytest.raises(ContextLengthError):
        attention(pipeline, some_ids(64), max_tokens=3)


_MEASURE = """
import sys, torch
torch.set_num_threads(1)
(torch.rand(64, 64) @ torch.rand(64, 64)).softmax(-1)
import llmcli.pipeline, llmcli.inspect.attention

def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024

before = peak()
pipeline = llmcli.pipeline.Pipeline.load(sys.argv[1])
ids = [3 + i % 90 for i in range(2000)]
heads = [0] if sys.argv[2] == "one" else None
found = pipeline.attention(ids, layers=[1], heads=heads)
assert all(abs(each.weights.sum(1) - 1).max() < 1e-5 for each in found.maps)
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak is read from /proc")
def test_memory_is_that_of_the_maps(tmp_path):
    """2,000 tokens: one head under 200 MB beside the weights, a whole layer its maps more; torch itself taken off."""
    keys = {"num_attention_heads": 8, "num_key_value_heads": 2, "hidden_size": 128, "num_hidden_layers": 3}
    folder = tiny.write_model(tmp_path, max_position_embeddings=2048, **keys)
    weights = (folder / "model.safetensors").stat().st_size

    def peak(which):
        command = [sys.executable, "-c", _MEASURE, str(folder), which]
        # A fixed threshold: freed tensors go back at once. glibc's own grows, and what it then holds back differs from
        # run to run by 28 MB, more than a map.
        env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**17)}
        return int(subprocess.run(command, check=True, capture_output=True, text=True, timeout=300, env=env).stdout)

    one, layer = peak("one"), peak("layer")
    assert one < weights + 200e6
    assert layer - one < 8 * 2000 * 2000 * 4
