"""Frequency, presence and DRY against plain references."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sampling.reference import dry_repeats

from llmcli.sampling import (
    Breakers,
    Place,
    dry,
    filters,
    frequency_penalty,
    presence_penalty,
    repetition_penalty,
)
from llmcli.sampling.penalties import _suffix_matches
from llmcli.sampling_params import SamplingParams

SIZE = 6
texts = st.lists(st.integers(0, SIZE - 1), max_size=40)


@given(texts, st.sampled_from([-1.5, 0.25, 2.0]))
def test_frequency_and_presence_by_the_published_formula(ids, penalty):
    values = torch.linspace(-2, 3, SIZE)
    counts = [ids.count(i) for i in range(SIZE)]
    expected = [x - c * penalty for x, c in zip(values.tolist(), counts, strict=True)]
    assert frequency_penalty(values, ids, penalty).tolist() == pytest.approx(expected, abs=1e-5)
    expected = [x - (c > 0) * penalty for x, c in zip(values.tolist(), counts, strict=True)]
    assert presence_penalty(values, ids, penalty).tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("penalty", [0.5, 1.3])
def test_repetition_is_that_of_transformers(penalty):
    from transformers import RepetitionPenaltyLogitsProcessor

    ids = [0, 2, 2, 3, 5, 6]
    values = torch.tensor([2.0, -2.0, 0.5, -0.5, 0.01, 0.0, -3.0])
    expected = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([ids]), values[None].clone())[0]
    assert torch.equal(repetition_penalty(values, ids, penalty), expected)


@pytest.mark.parametrize(("window", "seen"), [(-1, {1, 2, 3}), (0, set()), (1, {3}), (2, {2, 3}), (99, {1, 2, 3})])
@pytest.mark.parametrize("field", ["repetition_penalty", "presence_penalty", "frequency_penalty"])
def test_the_window_holds_the_last_tokens(window, seen, field):
    params = SamplingParams(1.0, top_p=1.0, penalty_window=window, **{field: 2.0})
    [each] = filters(params)
    moved = each(torch.ones(5), Place([1, 2, 3]))
    assert {i for i, x in enumerate(moved.tolist()) if x != 1.0} == seen


@given(texts)
def test_suffix_matches_by_comparing_everything(ids):
    expected = []
    for back in range(1, len(ids)):
        shorter = ids[: len(ids) - back]
        same = 0
        while same < len(shorter) and shorter[-1 - same] == ids[-1 - same]:
            same += 1
        expected.append(same)
    assert _suffix_matches(ids) == expected


@given(texts, st.integers(1, 4), st.sets(st.integers(0, SIZE - 1), max_size=2), st.sampled_from([1.0, 1.75, 3.0]))
def test_dry_against_a_plain_search(ids, allowed, breaking, base):
    breakers = Breakers(dict.fromkeys(breaking, ((),)))
    values = torch.linspace(-1, 1, SIZE)
    expected = values.tolist()
    for token, repeated in dry_repeats(ids, allowed, breaking).items():
        expected[token] -= 0.8 * base ** (repeated - allowed)
    assert dry(values, ids, 0.8, base, allowed, breakers).tolist() == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_dry_by_hand():
    values = torch.zeros(10)
    # "1 2 3 4 1 2 3": going on with 4 repeats three tokens.
    result = dry(values, [1, 2, 3, 4, 1, 2, 3], 0.8, 1.75, 2, Breakers())
    assert result[4] == pytest.approx(-0.8 * 1.75)
    assert result.count_nonzero() == 1
    assert dry(values, [1, 2, 3, 4, 1, 2, 3], 0.8, 1.75, 4, Breakers()).count_nonzero() == 0


def test_dry_breakers_of_several_tokens():
    ids = [1, 2, 3, 4, 9, 8, 1, 2, 3]
    longer = Breakers({9: ((8,),)})
    assert longer.since_last(ids) == 3
    assert Breakers({9: ((8,), (8, 1))}).since_last(ids) == 2  # the longest that begins there
    assert Breakers({9: ((7,),)}).since_last(ids) == len(ids)
    assert Breakers({3: ((5,),)}).since_last(ids) == len(ids)  # its rest has not come
    assert dry(torch.zeros(10), ids, 1.0, 2.0, 2, longer)[4] == pytest.approx(-2.0)
    assert dry(torch.zeros(10), ids, 1.0, 2.0, 2, Breakers({9: ((8, 1),)}))[4] == pytest.approx(-1.0)
    assert not longer.breaks(9)


def test_dry_looks_at_its_window_only():
    params = SamplingParams(1.0, top_p=1.0, dry_multiplier=1.0, dry_penalty_last_n=5)
    [each] = filters(params)
    assert each(torch.zeros(9), Place([1, 2, 3, 4, 1, 2, 3])).count_nonzero() == 0
    [each] = filters(SamplingParams(1.0, top_p=1.0, dry_multiplier=1.0, dry_penalty_last_n=7))
    assert each(torch.zeros(9), Place([1, 2, 3, 4, 1, 2, 3])).count_nonzero() == 1


@pytest.mark.parametrize("base", [1.0, 1.75, 1e6])
def test_dry_of_an_endless_repetition_stays_finite(base):
    result = dry(torch.zeros(3), [1] * 3000, 1e6, base, 2, Breakers())
    assert torch.isfinite(result).all()
    assert result[1] < 0
    assert not math.isnan(float(result.softmax(0)[0]))
