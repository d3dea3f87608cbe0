"""Top-n-sigma, XTC and mirostat against plain references."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sampling.reference import only, ranked, softmax, top_n_sigma, xtc

from llmcli import sampling
from llmcli.sampling import CHANCES, Sampler, Uniforms
from llmcli.sampling.cuts import next_mu
from llmcli.sampling_params import SamplingParams

logits_lists = st.lists(st.integers(-40, 40).map(lambda n: n / 4), min_size=1, max_size=40)


def kept(logits):
    return {i for i, x in enumerate(logits.tolist()) if x > -math.inf}


@given(logits_lists, st.integers(1, 16).map(lambda n: n * 0.1701))
def test_top_n_sigma_keeps_what_is_near_the_best(values, n):
    result = sampling.top_n_sigma(torch.tensor(values), n)
    sure = top_n_sigma(values, n * (1 - 1e-9))
    assert sure <= kept(result) <= top_n_sigma(values, n * (1 + 1e-9))


def test_top_n_sigma_by_hand_and_whatever_the_temperature():
    values = torch.tensor([3.0, 1.0, 1.0, -1.0, -math.inf])  # mean 1, deviation sqrt(2)
    for scale in (1.0, 0.3, 7.0):
        assert kept(sampling.top_n_sigma(values * scale, 1.4)) == {0}
        assert kept(sampling.top_n_sigma(values * scale, 1.42)) == {0, 1, 2}
    assert sampling.top_n_sigma(values, 0) is values


@given(logits_lists, st.sampled_from([0.0101, 0.0503, 0.1007, 0.2003, 0.4999]))
def test_xtc_leaves_the_last_of_the_top_choices(values, threshold):
    result = sampling.xtc(torch.tensor(values), 0.5, threshold, 0.49)
    p = softmax(values)
    if min(abs(x - threshold) for x in p) > 1e-6:
        assert kept(result) == xtc(values, threshold)
    assert kept(sampling.xtc(torch.tensor(values), 0.5, threshold, 0.5)) == set(range(len(values)))


def test_xtc_by_hand():
    p = torch.tensor([0.15, 0.4, 0.05, 0.3, 0.1])
    assert kept(sampling.xtc(p.log(), 1.0, 0.12, 0.9)) == {0, 2, 4}
    assert kept(sampling.xtc(p.log(), 1.0, 0.35, 0.9)) == {0, 1, 2, 3, 4}  # one alone is no choice too many
    assert kept(sampling.xtc(torch.zeros(4), 1.0, 0.2, 0.0)) == {3}  # of equals the first rank highest
    assert kept(sampling.xtc(p.log(), 0.0, 0.12, 0.0)) == {0, 1, 2, 3, 4}


def test_xtc_happens_as_often_as_it_is_told_and_moves_no_other_number():
    chances, uniforms = Uniforms(5, CHANCES), Uniforms(5)
    assert 0.2 < sum(chances[i] < 0.25 for i in range(2000)) / 2000 < 0.3
    assert all(chances[i] != uniforms[i] for i in range(200))
    again = Uniforms(5, CHANCES)
    assert [again[i] for i in reversed(range(100))] == [chances[i] for i in reversed(range(100))]
    # The two streams are not shifts of each other, nor of other seeds' streams.
    seen = {Uniforms(seed, stream)[0] for seed in range(50) for stream in (0, 1)}
    assert len(seen) == 100


@given(logits_lists, st.floats(0.01, 12))
def test_mirostat_cuts_what_is_more_surprising_than_its_bound(values, mu):
    result = sampling.mirostat(torch.tensor(values), mu)
    p = softmax(values)
    best = ranked([-x for x in values])[0]
    surprise = [-math.log2(x) if x > 0 else math.inf for x in p]
    sure = {i for i, x in enumerate(surprise) if x < mu - 1e-5} | {best}
    assert sure <= kept(result) <= {i for i, x in enumerate(surprise) if x < mu + 1e-5} | {best}


@pytest.mark.parametrize(("tau", "eta"), [(2.0, 0.1), (3.0, 0.5)])
def test_mirostat_against_a_plain_run_of_algorithm_2(tau, eta):
    rows = torch.randn(60, 80, generator=torch.Generator().manual_seed(2)) * 2
    params = SamplingParams(1.0, top_p=1.0, mirostat=2, mirostat_tau=tau, mirostat_eta=eta)
    sampler, uniforms = Sampler(params), Uniforms(9)
    mu = 2 * tau
    for position, row in enumerate(rows):
        assert sampler.mu == pytest.approx(mu, abs=1e-5)
        p = softmax(row.tolist())
        left = {i for i, x in enumerate(p) if -math.log2(x) <= mu} or {ranked([-x for x in p])[0]}
        final = only(p, left)
        end, expected = 0.0, None
        for i, x in enumerate(final):
            end += x
            if uniforms[position] < end:
                expected = i
                break
        choice = sampler.choose(row, [], uniforms[position])
        assert choice.id == expected
        assert choice.prob == pytest.approx(final[expected], rel=1e-4)
        mu -= eta * (-math.log2(final[expected]) - tau)


def test_mirostat_brings_the_surprise_to_its_target():
    row = torch.randn(2000, generator=torch.Generator().manual_seed(4)) * 1.5
    for tau in (2.0, 4.0):
        sampler, uniforms = Sampler(SamplingParams(1.0, top_p=1.0, mirostat=2, mirostat_tau=tau)), Uniforms(1)
        surprises = [-math.log2(sampler.choose(row, [], uniforms[i]).prob) for i in range(600)]
        assert sum(surprises[100:]) / 500 == pytest.approx(tau, abs=0.3)


def test_the_bound_moves_against_the_error():
    assert next_mu(4.0, 0.25, 2.0, 0.1) == 4.0
    assert next_mu(4.0, 0.125, 2.0, 0.1) == pytest.approx(3.9)
    assert next_mu(4.0, 1.0, 2.0, 0.1) == pytest.approx(4.2)


def test_the_bound_stays_where_it_is_without_mirostat():
    sampler = Sampler(SamplingParams(1.0, top_p=1.0, mirostat_tau=3.0))
    sampler.choose(torch.zeros(4), [], 0.5)
    assert sampler.mu == 6.0


@pytest.mark.parametrize("size", [30, 5000])
def test_top_k_takes_the_first_of_many_equals(size):
    """Also where just one of those at the edge fits, and where all do."""
    values = torch.randint(0, 4, (size,), generator=torch.Generator().manual_seed(1)).float()
    best = int((values == 3).sum())
    order = (-values).argsort(stable=True).tolist()
    for k in (1, 2, best - 1, best, best + 1, best + 2, size - 1, size):
        assert kept(sampling.top_k(values, k)) == set(order[:k])


@pytest.mark.parametrize("k", [1, 7, 40, 100, 155, 157, 1200, 4999])
def test_top_k_of_many_different_values(k):
    for seed in range(5):
        values = torch.randn(5000, generator=torch.Generator().manual_seed(seed))
        assert kept(sampling.top_k(values, k)) == set(values.argsort(descending=True)[:k].tolist())


def test_typical_takes_the_first_of_many_equals():
    left = kept(sampling.typical(torch.zeros(5000), 0.5))
    assert left == set(range(len(left)))
    assert abs(len(left) - 2500) <= 1


def test_a_bound_that_is_met_exactly_is_met():
    halves = torch.tensor([0.6931472, 0.0, 0.0])  # probabilities 1/2, 1/4, 1/4 to the last bit
    assert kept(sampling.top_p(halves, 0.5)) == {0}
    quarters = torch.zeros(4)
    assert kept(sampling.xtc(quarters, 1.0, 0.25, 0.0)) == {3}
    assert kept(sampling.mirostat(quarters, 2.0)) == {0, 1, 2, 3}
