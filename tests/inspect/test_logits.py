"""The next-token distribution, surprisal and the funnel, beside independent computations."""

import math

import numpy as np
import pytest
import torch
from tiny_families import EVERY, pair, reference_logits, some_ids

from llmcli.errors import ContextLengthError, LlmcliError, UsageError
from llmcli.inspect.funnel import funnel
from llmcli.inspect.logits import distribution, text_funnel, text_score
from llmcli.pipeline import Pipeline
from llmcli.sampling_params import SamplingParams

IDS = some_ids(12)


@pytest.mark.parametrize("name", EVERY)
def test_distribution_equals_the_reference(name):
    ours = distribution(pair(name).pipeline, IDS, limit=5)
    theirs = reference_logits(name, IDS)[-1].softmax(0)
    best = theirs.topk(5)
    assert [each.token.id for each in ours.top] == best.indices.tolist()
    assert [each.prob for each in ours.top] == pytest.approx(best.values.tolist(), abs=1e-5)
    assert [each.rank for each in ours.top] == list(range(5))
    assert ours.entropy == pytest.approx(float(-(theirs * theirs.log2()).sum()), abs=1e-4)
    assert ours.shown_mass == pytest.approx(float(best.values.sum()), abs=1e-5)
    assert ours.actual is None


def test_distribution_at_a_position_ignores_what_follows_and_names_it():
    pipeline = pair("llama").pipeline
    ours = distribution(pipeline, IDS, position=4)
    assert np.array_equal(ours.logits, distribution(pipeline, IDS[:5]).logits)
    assert ours.actual is not None
    assert ours.actual.token.id == IDS[5]
    assert ours.actual.rank == int((ours.logits > ours.logits[IDS[5]]).sum())
    assert distribution(pipeline, IDS, position=-8).position == 4


@pytest.mark.parametrize("position", [12, -13])
def test_position_outside_the_text(position):
    with pytest.raises(UsageError, match="there are 12 tokens"):
        distribution(pair("llama").pipeline, IDS, position=position)


def test_text_too_long():
    with pytest.raises(ContextLengthError):
        distribution(pair("llama").pipeline, some_ids(129))


@pytest.mark.parametrize("name", EVERY)
def test_surprisal_equals_the_reference(name):
    ours = text_score(pair(name).pipeline, IDS)
    logp = reference_logits(name, IDS).log_softmax(-1)
    surprisals = [-float(logp[i, token]) / math.log(2) for i, token in enumerate(IDS[1:])]
    assert ours.tokens[0].surprisal is None
    assert [each.surprisal for each in ours.tokens[1:]] == pytest.approx(surprisals, abs=1e-4)
    assert [each.prob for each in ours.tokens[1:]] == pytest.approx([2**-s for s in surprisals], abs=1e-5)
    assert ours.bits == pytest.approx(sum(surprisals), abs=1e-3)
    with torch.no_grad():
        loss = pair(name).reference(torch.tensor([IDS]), labels=torch.tensor([IDS])).loss
    assert ours.perplexity == pytest.approx(math.exp(float(loss)), rel=1e-4)
    ranks = [int((row > row[token]).sum()) for row, token in zip(logp, IDS[1:], strict=False)]
    assert [each.rank for each in ours.tokens[1:]] == ranks


def test_bits_per_byte_is_over_the_bytes_that_were_predicted(shared):
    with_bos = Pipeline.load(shared / "models" / "stories260K", device="cpu")
    text = "Once upon a time, Zoë sat."
    score = text_score(with_bos, text)
    assert score.bytes == len(text.encode())
    assert score.bits_per_byte == pytest.approx(score.bits / len(text.encode()))
    without = text_score(pair("gpt2-bytes").pipeline, "Zoë")
    assert (without.predicted, without.bytes) == (3, 3)  # four bytes, and nothing predicts the first
    assert text_score(pair("llama").pipeline, IDS).bits_per_byte is None  # no tokenizer, so no bytes


def test_one_token_predicts_nothing():
    score = text_score(pair("llama").pipeline, [5])
    assert (score.predicted, score.bits, score.perplexity) == (0, 0.0, None)


PARAMS = SamplingParams(temperature=0.7, top_k=40, top_p=0.9, min_p=0.05, typical_p=0.97, repetition_penalty=1.3)


def test_funnel_equals_a_naive_computation():
    logits = torch.randn(200, generator=torch.Generator().manual_seed(1)) * 2
    ids = [3, 5, 5, 9]
    found = funnel(logits, ids, PARAMS, seed=4, limit=200)
    x = logits.double().numpy().copy()
    own = np.exp(x) / np.exp(x).sum()
    for i in {3, 5, 9}:
        x[i] = x[i] / 1.3 if x[i] > 0 else x[i] * 1.3
    penalized = np.exp(x) / np.exp(x).sum()
    x = x / 0.7
    base = np.exp(x) / np.exp(x).sum()
    kept, sets = np.ones(200, bool), []

    def current() -> np.ndarray:
        p = np.where(kept, base, 0)
        return p / p.sum()

    def keep(order: np.ndarray, p: np.ndarray, mass: float) -> None:
        count = int(np.searchsorted(np.cumsum(p[order]), mass)) + 1
        kept[:] = np.isin(np.arange(200), order[:count]) & (p > 0)

    keep(np.argsort(-base), np.where(np.argsort(np.argsort(-base)) < 40, 1.0, 0.0), 39.5)
    sets.append(kept.copy())
    p = current()
    with np.errstate(divide="ignore", invalid="ignore"):
        surprise = np.where(p > 0, -np.log(p), np.inf)
        entropy = np.nansum(np.where(p > 0, p * surprise, 0))
    keep(np.argsort(np.abs(surprise - entropy)), p, 0.97)
    sets.append(kept.copy())
    keep(np.argsort(-current()), current(), 0.9)
    sets.append(kept.copy())
    kept &= current() >= 0.05 * current().max()
    sets.append(kept.copy())

    names = ["model", "repetition-penalty", "temperature", "top-k", "typical", "top-p", "min-p"]
    assert [stage.name for stage in found.stages] == names
    assert [stage.candidates for stage in found.stages] == [200, 200, 200, *(int(each.sum()) for each in sets)]
    assert [s.mass for s in found.stages[3:]] == pytest.approx([float(base[each].sum()) for each in sets], abs=1e-6)
    assert [s.model_mass for s in found.stages[3:]] == pytest.approx(
        [float(own[each].sum()) for each in sets], abs=1e-6
    )
    assert found.stages[1].entropy == pytest.approx(float(-(penalized * np.log2(penalized)).sum()), abs=1e-5)
    assert {each.id for each in found.candidates} == set(np.flatnonzero(kept).tolist())
    assert [each.prob for each in found.candidates] == pytest.approx(sorted(current()[kept], reverse=True), abs=1e-6)


@pytest.mark.parametrize("seed", range(6))
def test_funnel_draws_what_generation_draws(seed):
    pipeline = pair("llama").pipeline
    options = {"temperature": 1.5, "top_k": 30, "top_p": 0.9, "seed": seed}
    drawn = text_funnel(pipeline, IDS, **options)
    assert drawn.drawn.token.id == pipeline.generate_ids(IDS, max_tokens=1, **options)[0]
    assert drawn.seed == seed
    assert drawn.uniform is not None
    step = next(iter(pipeline.stream(IDS, max_tokens=1, **options)))
    assert drawn.drawn.prob == pytest.approx(step.prob, rel=1e-6)
    assert math.log(drawn.drawn.model_prob) == pytest.approx(step.logprob, abs=1e-6)


def test_greedy_funnel_leaves_one_and_uses_no_random_number():
    found = text_funnel(pair("llama").pipeline, IDS, greedy=True)
    assert (found.seed, found.uniform) == (None, None)
    assert (found.stages[-1].name, found.stages[-1].candidates) == ("greedy", 1)
    assert found.drawn.token == distribution(pair("llama").pipeline, IDS).top[0].token


def test_funnel_that_filters_nothing_has_the_whole_mass():
    found = funnel(torch.zeros(8), [], SamplingParams(temperature=1, top_p=1), seed=1)
    assert [(s.name, s.candidates, s.mass) for s in found.stages] == [("model", 8, 1.0)]
    assert found.stages[0].entropy == pytest.approx(3)


def test_funnel_refuses_logits_that_are_not_finite():
    with pytest.raises(LlmcliError, match="not finite"):
        funnel(torch.tensor([0.0, math.nan]), [], SamplingParams(), seed=1)
