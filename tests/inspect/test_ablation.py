"""Ablation beside copies of the reference whose weights of the same parts are zero."""

import copy
import math

import pytest
import torch
from tiny_families import pair, reference_logits, some_ids

from llmcli.errors import UsageError
from llmcli.inspect.ablation import ablation, parse_parts

IDS = some_ids(10, seed=5)
LLAMA_LIKE = ("llama", "gemma2", "qwen3", "olmo2", "gemma3")


def zeroed_reference(name: str, layer: int, head: int | None) -> torch.Tensor:
    """Logits of a copy whose projection of one head, or whose feed-forward output, is zero."""
    reference = copy.deepcopy(pair(name).reference)
    config = pair(name).pipeline.model.config
    width = config.head_dim
    with torch.inference_mode():
        if name == "gpt2":
            block = reference.transformer.h[layer]
            if head is None:
                block.mlp.c_proj.weight.data.zero_()
                block.mlp.c_proj.bias.data.zero_()
            else:
                block.attn.c_proj.weight.data[head * width : (head + 1) * width] = 0
        else:
            block = reference.model.layers[layer]
            if head is None:
                block.mlp.down_proj.weight.data.zero_()
            else:
                block.self_attn.o_proj.weight.data[:, head * width : (head + 1) * width] = 0
        return reference(torch.tensor([IDS])).logits[0].double()


@pytest.mark.parametrize("head", [0, 3, None])
@pytest.mark.parametrize("name", [*LLAMA_LIKE, "gpt2"])
def test_a_part_that_adds_nothing_is_one_with_zero_weights(name, head):
    found = ablation(pair(name).pipeline, IDS, "L1.ffn" if head is None else f"L1.H{head}", limit=101)
    before, after = reference_logits(name, IDS), zeroed_reference(name, 1, head)
    assert float((before - after).abs().max()) > 1e-2  # it matters at all
    p, q = before.log_softmax(-1), after.log_softmax(-1)
    kl = ((p.exp() * (p - q)).sum(-1) / math.log(2)).tolist()
    assert [each.kl for each in found.tokens] == pytest.approx(kl, abs=1e-4, rel=1e-3)
    assert found.kl == found.tokens[-1].kl
    for each in found.next:
        assert each.before.prob == pytest.approx(float(p[-1, each.before.token.id].exp()), abs=1e-5)
        assert each.after.prob == pytest.approx(float(q[-1, each.after.token.id].exp()), abs=1e-5)
    surprisals = [(-float(p[i, t]) / math.log(2), -float(q[i, t]) / math.log(2)) for i, t in enumerate(IDS[1:])]
    for each, (first, second) in zip(found.tokens[1:], surprisals, strict=True):
        assert each.surprisal_before == pytest.approx(first, abs=1e-4)
        assert each.surprisal_after == pytest.approx(second, abs=1e-3)
    assert found.bits_after == pytest.approx(sum(second for _, second in surprisals), abs=1e-2)
    assert found.largest_change == pytest.approx(float((before - after).abs().max()), rel=1e-3)


def test_all_heads_are_the_whole_attention_where_nothing_else_is_added():
    pipeline = pair("llama").pipeline
    heads, whole = ablation(pipeline, IDS, "L1.H0-3"), ablation(pipeline, IDS, "L1.attention")
    assert [each.kl for each in heads.tokens] == [each.kl for each in whole.tokens]


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2"])
def test_nothing_changes_without_parts(name):
    found = ablation(pair(name).pipeline, IDS, "")
    assert found.parts == []
    assert found.largest_change == 0
    assert all(each.kl == 0 for each in found.tokens)
    assert all(each.surprisal_before == each.surprisal_after for each in found.tokens)
    assert all(each.before == each.after for each in found.next)


def test_parts_take_ranges_and_negatives_each_part_once():
    config = pair("llama").pipeline.model.config
    names = [str(part) for part in parse_parts(" L-1.ffn,L0-1.H-1,L0.H3,L2.attention", config)]
    assert names == ["L0.H3", "L1.H3", "L2.attention", "L2.ffn"]
    assert parse_parts("L0.ffn,L0.H0", config)[0].head == 0


@pytest.mark.parametrize("text", ["L3.ffn", "L0.H4", "L0", "H1", "L0.H", "L1-0.ffn", "L0.mlp", "L--1.ffn", "l0.ffn"])
def test_parts_that_are_not_there(text):
    with pytest.raises(UsageError):
        parse_parts(text, pair("llama").pipeline.model.config)
