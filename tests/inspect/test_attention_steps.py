"""One head step by step, beside an independent computation."""

import numpy as np
import pytest
import torch
from tiny_families import EVERY, pair, some_ids

from llmcli.errors import UsageError
from llmcli.inspect.steps import head_steps
from llmcli.model.recorder import Recorder

IDS = some_ids(9, seed=2)


def softmax(scores):
    scores = np.where(np.isnan(scores), -np.inf, scores)
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("name", EVERY)
@torch.inference_mode()
def test_each_step_follows_from_those_before(name):
    ours = pair(name).pipeline
    config = ours.model.config
    n, d, hidden = len(IDS), config.head_dim, config.hidden_size
    found = head_steps(ours, IDS, layer=1, head=config.num_heads - 1)
    shapes = {step.name: step.values.shape for step in found.steps}
    assert shapes["hidden states"] == shapes["output"] == (n, hidden)
    assert shapes["Q"] == shapes["K"] == shapes["V"] == shapes["weighted sum"] == (n, d)
    assert shapes["QK^T"] == shapes["scores"] == shapes["weights"] == (n, n)
    assert ("rotated Q" in shapes) == config.rotates(1)
    q, k = (found.values(f"rotated {each}" if config.rotates(1) else each) for each in "QK")
    products = found.values("QK^T")
    assert np.allclose(products, q @ k.T, atol=1e-4)
    scores = products * config.scale(1)
    cap = config.attention_softcap
    scores = cap * np.tanh(scores / cap) if cap else scores
    assert np.allclose(found.values("scores"), scores, atol=1e-4)
    masked = found.values("masked scores")
    assert np.isnan(masked[np.triu_indices(n, 1)]).all()
    assert np.allclose(found.values("weights"), softmax(masked), atol=1e-5)
    assert np.allclose(found.values("weighted sum"), found.values("weights") @ found.values("V"), atol=1e-4)
    assert np.isfinite(found.values("output")).all()


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2", "gpt_neox", "olmo2"])
@torch.inference_mode()
def test_the_outputs_of_all_heads_and_the_bias_are_the_attention(name):
    ours = pair(name).pipeline
    config = ours.model.config
    block = ours.model.blocks[1]
    recorder = Recorder({"heads"})
    ours.model(torch.tensor([IDS]), tap=recorder)
    merged = recorder["heads", 1][0].transpose(0, 1).reshape(len(IDS), -1)
    expected = block.attention.o(merged).numpy()
    total = sum(head_steps(ours, IDS, layer=1, head=h).values("output") for h in range(config.num_heads))
    total = total + block.attention.o(torch.zeros_like(merged[:1])).numpy()  # the bias alone
    assert np.abs(total - expected).max() <= 1e-4 * max(1, np.abs(expected).max())


def test_scaling_narrows_the_scores_and_spreads_the_weights():
    found = head_steps(pair("llama").pipeline, IDS, layer=0, head=1)
    visible = ~np.isnan(found.values("masked scores"))
    products = found.values("QK^T").astype(np.float64)
    assert found.unscaled.std == pytest.approx(products[visible].std(), rel=1e-5)
    assert found.scaled.std == pytest.approx(found.unscaled.std * found.scale, rel=1e-5)
    raw = softmax(np.where(visible, products, np.nan))
    bits = -np.where(raw > 0, raw * np.log2(np.where(raw > 0, raw, 1)), 0).sum(axis=1).mean()
    assert found.unscaled.entropy == pytest.approx(bits, abs=1e-4)
    assert found.scaled.entropy > found.unscaled.entropy


def test_there_must_be_such_a_head():
    with pytest.raises(UsageError, match="no head 99"):
        head_steps(pair("llama").pipeline, IDS, layer=0, head=99)
