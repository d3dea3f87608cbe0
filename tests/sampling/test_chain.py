"""The order of the filters, and all of them together."""

import itertools
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcli.sampling import Ban, Breakers, Place, Sampler, TokenRules, filters
from llmcli.sampling_params import SAMPLERS, SamplingParams

SIZE = 24
SETTINGS = {
    "temperature": {"temperature": 0.7},
    "top-k": {"top_k": 5},
    "typical": {"typical_p": 0.6},
    "top-p": {"top_p": 0.8},
    "min-p": {"min_p": 0.1},
    "top-n-sigma": {"top_n_sigma": 1.0},
    "xtc": {"xtc_probability": 0.5, "xtc_threshold": 0.05},
    "repetition-penalty": {"repetition_penalty": 1.5},
    "presence-penalty": {"presence_penalty": 1.0},
    "frequency-penalty": {"frequency_penalty": -0.5},
    "dry": {"dry_multiplier": 2.0},
    "mirostat": {"mirostat": 2, "mirostat_tau": 1.0},
    "no-repeat-ngram": {"no_repeat_ngram": 2},
    "min-tokens": {"min_tokens": 4},
    "logit-bias": {"logit_bias": ((3, 2.0),)},
    "ban": {"ban": ("ab",)},
}
PIECES = [bytes([97 + i]) for i in range(SIZE)]


def made(names):
    values = {"temperature": 1.0, "top_p": 1.0}
    for name in names:
        values |= SETTINGS[name]
    rules = TokenRules(
        bias={3: 2.0} if "logit-bias" in names else {},
        bans=(Ban(b"ab", PIECES),) if "ban" in names else (),
        breakers=Breakers({4: ((),)}),
        ends=frozenset({7}) if "min-tokens" in names else frozenset(),
    )
    return SamplingParams(**values), rules


@settings(max_examples=400)
@given(
    st.sampled_from(list(itertools.combinations_with_replacement(SETTINGS, 2))),
    st.lists(st.integers(-12, 12).map(lambda n: n / 2), min_size=SIZE, max_size=SIZE),
    st.lists(st.integers(0, SIZE - 1), max_size=12),
    st.floats(0, 1, exclude_max=True),
    st.floats(0, 1, exclude_max=True),
)
def test_every_pair_combines(names, logits, ids, uniform, chance):
    check(names, logits, ids, uniform, chance)


def test_every_pair_combines_without_luck():
    logits = torch.randn(SIZE, generator=torch.Generator().manual_seed(1)).tolist()
    for names in itertools.combinations(SETTINGS, 2):
        check(names, logits, [0, 1, 2, 0, 1, 2, 0], 0.6, 0.1)
    check(tuple(SETTINGS), logits, [0, 1, 2, 0, 1, 2, 0], 0.6, 0.1)


def check(names, logits, ids, uniform, chance):
    """The filters run, in order; what is drawn is left by all, with the probability that it has among them."""
    params, rules = made(names)
    sampler = Sampler(params, rules)
    values = torch.tensor(logits)
    assert {each.name for each in sampler.filters} == set(names)
    left = values
    place = Place(ids, 0, chance, sampler.mu)
    for each in sampler.filters:
        before = left
        left = each(left, place)
        assert left.shape == values.shape
        assert not left.isnan().any()
        assert left.amax() > -math.inf
        assert (left.isinf() | before.isfinite()).all()  # what was cut stays cut
        if each.moves:
            assert torch.equal(left.isinf(), before.isinf())
    choice = sampler.choose(values, ids, uniform, chance=chance)
    p = left.double().softmax(0)
    assert choice.prob == pytest.approx(float(p[choice.id]), rel=1e-4)
    assert 0 < choice.prob <= 1
    ends = p.cumsum(0)
    start = float(ends[choice.id] - p[choice.id])
    assert start - 1e-5 <= uniform <= float(ends[choice.id]) + 1e-5
    assert choice.filtered_logprobs().exp().tolist() == pytest.approx(p.tolist(), abs=1e-6)
    assert torch.equal(values, torch.tensor(logits))


@settings(max_examples=150)
@given(st.permutations(list(SAMPLERS)), st.integers(1, len(SAMPLERS)), st.floats(0, 1, exclude_max=True))
def test_every_order_runs_as_it_is_given(order, count, uniform):
    names = order[:count]
    params, rules = made(["ban", "mirostat", *SAMPLERS])
    params = SamplingParams(**{**vars(params), "samplers": tuple(names)})
    chain = filters(params, rules)
    assert [each.name for each in chain] == ["ban", *names, "mirostat"]
    values = torch.randn(SIZE, generator=torch.Generator().manual_seed(3)) * 2
    ids = [0, 1, 2, 0, 1, 2, 0]
    choice = Sampler(params, rules).choose(values, ids, uniform, chance=0.3)
    left = values
    for each in chain:
        left = each(left, Place(ids, 0, 0.3, 2.0))
    assert choice.prob == pytest.approx(float(left.double().softmax(0)[choice.id]), rel=1e-4)


def test_the_order_changes_the_result():
    """Top-p after a temperature of 3 keeps more than before it."""
    values = torch.tensor([4.0, 2.0, 1.0, 0.0])
    left = {}
    for order in ("temperature,top-p", "top-p,temperature"):
        x = values
        for each in filters(SamplingParams(3.0, top_p=0.9, samplers=order)):
            x = each(x, Place([]))
        left[order] = int(x.isfinite().sum())
    assert left == {"temperature,top-p": 4, "top-p,temperature": 2}


def test_the_documented_order_of_all():
    params, rules = made(SETTINGS)
    names = [each.name for each in filters(params, rules)]
    assert names == [
        "logit-bias", "ban", "no-repeat-ngram", "min-tokens", "repetition-penalty", "frequency-penalty",
        "presence-penalty", "dry", "temperature", "top-n-sigma", "top-k", "typical", "top-p", "min-p", "xtc",
        "mirostat",
    ]  # fmt: skip
    greedy = SamplingParams(**{**vars(params), "temperature": 0.0, "mirostat": 0, "xtc_probability": 0.0})
    assert [each.name for each in filters(greedy, rules)] == names[:8]


# A constraint that allows everything but the id 0.
HELD: Any = SimpleNamespace(allowed=lambda _ids, _new: np.arange(6) > 0)


def test_every_filter_says_whether_it_moves_logits_and_reads_the_text():
    """What moves logits cuts none, and the funnel says so; what reads the text needs each id in its place."""
    held = filters(SamplingParams(1.0, top_p=1.0, regex="a"), TokenRules(constraint=HELD))
    chain = [*held, *filters(*made(SETTINGS))]
    penalties = {"repetition-penalty", "frequency-penalty", "presence-penalty", "dry"}
    moving = penalties | {"logit-bias", "temperature"}
    assert {each.name for each in chain if each.moves} == moving
    about_ids = {"regex", "logit-bias", "ban", "no-repeat-ngram", "min-tokens"}
    assert {each.name for each in chain if each.reads_text} == penalties | about_ids
    assert len(chain) == 17


def test_a_constraint_comes_first_and_cuts_what_it_does_not_allow():
    params = SamplingParams(1.0, top_p=1.0, json_schema="{}")
    first, second = filters(params, TokenRules(constraint=HELD, bias={1: 1.0}))
    assert (first.name, second.name) == ("json-schema", "logit-bias")
    assert first(torch.zeros(6), Place([])).tolist() == [-torch.inf, 0, 0, 0, 0, 0]
    [unnamed] = filters(SamplingParams(1.0, top_p=1.0), TokenRules(constraint=HELD))
    assert unnamed.name == "constraint"


def test_no_minimum_and_no_ends_are_no_filter():
    assert filters(SamplingParams(1.0, top_p=1.0), TokenRules(ends=frozenset({1}))) == []
    assert filters(SamplingParams(1.0, top_p=1.0, min_tokens=2)) == []
