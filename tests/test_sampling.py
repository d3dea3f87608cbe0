"""Every filter against a plain reference in Python's own floats, and the draw against what it is made from."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcli import sampling
from llmcli.errors import LlmcliError
from llmcli.sampling import Place, Sampler, Uniforms, draw, filters
from llmcli.sampling_params import SamplingParams

# A grid of values, so that ties are common and no sum lies within rounding of a threshold by accident.
logits_lists = st.lists(st.integers(-40, 40).map(lambda n: n / 4), min_size=1, max_size=40)


def softmax(logits):
    top = max(logits)
    parts = [math.exp(x - top) for x in logits]
    total = math.fsum(parts)
    return [part / total for part in parts]


def ranked(keys):
    """Positions, smallest key first, equals in order of position."""
    return sorted(range(len(keys)), key=lambda i: (keys[i], i))


def fewest(order, p, mass):
    """The first of `order` until their mass reaches `mass`; and whether some sum lies too near to tell."""
    kept, total, close = set(), 0.0, False
    for i in order:
        kept.add(i)
        total += p[i]
        close |= abs(total - mass) < 1e-6
        if total >= mass:
            break
    return kept, close


def kept(logits):
    return {i for i, x in enumerate(logits.tolist()) if x > -math.inf}


def unchanged_where_kept(before, after):
    return all(y == x for x, y in zip(before, after.tolist(), strict=True) if y > -math.inf)


@given(logits_lists, st.integers(0, 45))
def test_top_k_keeps_exactly_k_and_the_first_of_equals(values, k):
    result = sampling.top_k(torch.tensor(values), k)
    assert kept(result) == set(ranked([-x for x in values])[: k or None])
    assert unchanged_where_kept(values, result)


@given(logits_lists, st.floats(0, 1))
def test_top_p_is_the_smallest_set_that_reaches_p(values, mass):
    result = sampling.top_p(torch.tensor(values), mass)
    expected, close = fewest(ranked([-x for x in values]), softmax(values), mass)
    assert unchanged_where_kept(values, result)
    if mass >= 1:
        assert kept(result) == set(range(len(values)))
    elif not close:
        assert kept(result) == expected


@pytest.mark.parametrize("spread", [0.0, 0.01, 0.5, 3.0, 12.0])
@pytest.mark.parametrize("mass", [0.0, 0.1, 0.5, 0.95, 0.999])
def test_top_p_on_a_large_vocabulary(spread, mass):
    values = torch.randn(50_257, generator=torch.Generator().manual_seed(1)) * spread
    result = sampling.top_p(values, mass)
    p = values.double().softmax(0).numpy()
    order = np.argsort(-values.numpy(), kind="stable")
    sums = np.cumsum(p[order])
    count = int(np.searchsorted(sums, mass)) + 1
    got = np.flatnonzero(result.numpy() > -np.inf)
    assert abs(len(got) - count) <= 1  # a sum within rounding of the mass
    assert set(got) == set(order[: len(got)])


@given(logits_lists, st.floats(0.01, 1))
def test_typical_keeps_what_is_nearest_the_entropy(values, mass):
    result = sampling.typical(torch.tensor(values), mass)
    p = softmax(values)
    entropy = -math.fsum(x * math.log(x) for x in p if x > 0)
    distance = [round(abs(-math.log(x) - entropy), 9) if x > 0 else math.inf for x in p]
    expected, close = fewest(ranked(distance), p, mass)
    gaps = np.diff(sorted(set(distance)))
    if mass < 1 and not close and (len(gaps) == 0 or gaps.min() > 1e-6):
        # Equal logits are equally far, whichever side of rounding they fall.
        assert Counter(values[i] for i in kept(result)) == Counter(values[i] for i in expected)
    assert unchanged_where_kept(values, result)


@given(logits_lists, st.integers(0, 20).map(lambda n: n / 20))
def test_min_p_is_relative_to_the_best(values, fraction):
    result = sampling.min_p(torch.tensor(values), fraction)
    p = softmax(values)
    sure = {i for i, x in enumerate(p) if x >= fraction * max(p) * (1 + 1e-5)}
    possible = {i for i, x in enumerate(p) if x >= fraction * max(p) * (1 - 1e-5)}
    assert sure <= kept(result) <= possible
    assert kept(result)


@given(logits_lists, st.sampled_from([0.05, 0.3, 0.8, 1.0, 1.7, 50.0]))
def test_temperature_divides_the_logits(values, temperature):
    result = sampling.temperature(torch.tensor(values), temperature)
    expected = softmax([x / temperature for x in values])
    np.testing.assert_allclose(result.double().softmax(0), expected, rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize("temperature", [1e-45, 1e-30, 1e30])
def test_extreme_temperatures_stay_finite(temperature):
    result = sampling.temperature(torch.tensor([1.0, 5.0, 5.0, -3.0]), temperature)
    assert not result.isnan().any()
    assert draw(result, 0.99)[1] > 0


def test_repetition_penalty_pushes_both_signs_down_once_each():
    result = sampling.repetition_penalty(torch.tensor([2.0, -2.0, 1.0, 0.0]), [0, 1, 1, 3], 2.0)
    assert result.tolist() == [1.0, -4.0, 1.0, 0.0]


def test_filters_that_are_off_change_nothing():
    values = torch.tensor([0.0, -200.0, -torch.inf])
    for each in (sampling.top_p, sampling.typical):
        assert each(values, 1.0) is values
    assert sampling.min_p(values, 0.0) is sampling.top_k(values, 0) is values


def test_what_one_filter_cut_no_later_one_brings_back():
    values = torch.tensor([1.0, 0.5, -torch.inf, -torch.inf])
    for result in (sampling.typical(values, 0.999999), sampling.top_p(values, 0.999999), sampling.min_p(values, 0.01)):
        assert kept(result) == {0, 1}


def test_filters_leave_their_input_alone():
    values = torch.randn(100, generator=torch.Generator().manual_seed(0))
    before = values.clone()
    params = SamplingParams(0.7, top_k=30, top_p=0.9, min_p=0.05, typical_p=0.9, repetition_penalty=1.2)
    for each in filters(params):
        each(values, Place([1, 2, 3]))
    assert torch.equal(values, before)


def test_the_documented_order():
    params = SamplingParams(0.7, top_k=30, top_p=0.9, min_p=0.05, typical_p=0.9, repetition_penalty=1.2)
    names = [each.name for each in filters(params)]
    assert names == ["repetition-penalty", "temperature", "top-k", "typical", "top-p", "min-p"]
    assert [each.name for each in filters(SamplingParams(0, repetition_penalty=1.2))] == ["repetition-penalty"]
    assert filters(SamplingParams(1.0, top_p=1.0)) == []


@settings(max_examples=200)
@given(
    logits_lists,
    st.sampled_from([0.3, 0.8, 1.0, 2.0]),
    st.integers(0, 10),
    st.sampled_from([0.2, 0.5, 0.9, 1.0]),
    st.floats(0, 1, exclude_max=True),
)
def test_alone_and_together_against_a_naive_sampler(values, temperature, k, mass, uniform):
    """Temperature, then top-k, then top-p on what top-k left, then a walk through the ids."""
    scaled = [x / temperature for x in values]
    rest = set(ranked([-x for x in scaled])[: k or None])
    p = softmax([x if i in rest else -math.inf for i, x in enumerate(scaled)])
    final, close = fewest(ranked([-x for x in p]), p, mass) if mass < 1 else (rest, False)
    total = math.fsum(p[i] for i in final)
    end, expected, near = 0.0, None, False
    for i in sorted(final):
        end += p[i] / total
        near |= abs(end - uniform) < 1e-5
        if expected is None and uniform < end:
            expected = i
    choice = Sampler(SamplingParams(temperature, top_k=k, top_p=mass)).choose(torch.tensor(values), [], uniform)
    if close or near or expected is None:
        return
    assert choice.id == expected
    assert choice.prob == pytest.approx(p[expected] / total, rel=1e-4)
    assert choice.logprob == pytest.approx(math.log(softmax(values)[expected]), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(1.0, top_p=1.0),
        SamplingParams(0.7, top_p=1.0),
        SamplingParams(1.3, top_k=7, top_p=1.0),
        SamplingParams(1.0, top_p=0.8),
        SamplingParams(0.8, top_k=9, top_p=0.9),
    ],
    ids=["plain", "temperature", "top-k", "top-p", "together"],
)
@pytest.mark.parametrize("vocabulary", [12, 700])
def test_drawn_frequencies_by_chi_squared(params, vocabulary):
    values = torch.randn(vocabulary, generator=torch.Generator().manual_seed(3)) * 2
    filtered = values
    for each in filters(params):
        filtered = each(filtered, Place([]))
    expected = filtered.double().softmax(0).tolist()
    sampler, uniforms, n = Sampler(params), Uniforms(11), 4000
    counts = Counter(sampler.choose(values, [], uniforms[i]).id for i in range(n))
    assert set(counts) <= kept(filtered)
    # Cells of fewer than five expected draws are taken together.
    large = [i for i, p in enumerate(expected) if p * n >= 5]
    cells = [(counts[i], expected[i] * n) for i in large]
    cells.append((n - sum(c for c, _ in cells), n - sum(e for _, e in cells)))
    cells = [(c, e) for c, e in cells if e >= 1]
    statistic = sum((c - e) ** 2 / e for c, e in cells)
    freedom = len(cells) - 1
    assert statistic < freedom + 4 * math.sqrt(2 * freedom)  # the seed is fixed: no luck is involved


@given(st.lists(st.sampled_from([-math.inf, -200.0, 0.0, 1.0]), min_size=1, max_size=600), st.floats(0, 1))
def test_the_draw_never_takes_what_is_impossible(values, uniform):
    if all(x == -math.inf for x in values):
        values = [*values, 0.0]
    index, share = draw(torch.tensor(values), min(uniform, math.nextafter(1, 0)))
    assert math.exp(values[index] - max(values)) > 0
    assert 0 < share <= 1


def test_the_draw_walks_in_order_of_ids():
    values = torch.tensor([0.25, 0.5, 0.25]).log()
    assert [draw(values, u)[0] for u in (0.0, 0.24, 0.26, 0.74, 0.76, 0.999999)] == [0, 0, 1, 1, 2, 2]


def test_greedy_takes_the_first_of_the_best_and_no_random_number():
    sampler = Sampler(SamplingParams(0))
    values = torch.tensor([1.0, 3.0, 3.0])
    assert {sampler.choose(values, [], u).id for u in (0.0, 0.5, 0.99)} == {1}
    choice = sampler.choose(values, [], 0.0)
    assert choice.prob == pytest.approx(softmax([1, 3, 3])[1], rel=1e-5)


def test_greedy_after_the_penalty():
    assert Sampler(SamplingParams(0, repetition_penalty=2.0)).choose(torch.tensor([3.0, 2.0]), [0], 0.0).id == 1


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("params", [SamplingParams(0), SamplingParams()])
def test_logits_that_are_no_numbers_are_an_error(bad, params):
    with pytest.raises(LlmcliError, match="not finite"):
        Sampler(params).choose(torch.tensor([1.0, bad, 2.0]), [], 0.5)


def test_uniforms_depend_on_seed_and_position_alone():
    first = Uniforms(5)
    backwards = [first[i] for i in reversed(range(200))]
    again = Uniforms(5)
    assert [again[i] for i in range(200)] == backwards[::-1]
    assert Uniforms(6)[0] != again[0]
    assert all(0 <= u < 1 for u in backwards)
    assert 0.4 < sum(backwards) / 200 < 0.6


def test_uniforms_leave_the_global_generator_alone():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    Uniforms(9)[100]
    assert torch.equal(torch.rand(1), expected)
