"""Bias, bans, rows that may not come twice, and tokens that end a text."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmcli.errors import LlmcliError
from llmcli.sampling import Ban, Place, TokenRules, filters, forbid, logit_bias, repeated_ngram_ends
from llmcli.sampling_params import SamplingParams

PIECES = [b"a", b"b", b"ab", b"ba", b"abc", b"c", b"bc", b"", b"cab"]


def test_bias_is_added():
    assert logit_bias(torch.zeros(4), {1: 2.5, 3: -1.0}).tolist() == [0.0, 2.5, 0.0, -1.0]


@given(st.lists(st.integers(0, len(PIECES) - 1), max_size=6), st.sampled_from([b"a", b"ab", b"abc", b"cc", b"abab"]))
def test_a_ban_cuts_exactly_the_tokens_that_complete_the_text(ids, text):
    before = b"".join(PIECES[i] for i in ids)
    found = Ban(text, PIECES).completing(ids)
    for i, piece in enumerate(PIECES):
        # An occurrence that ends inside the new token.
        ends = [at + len(text) for at in range(len(before + piece)) if (before + piece).startswith(text, at)]
        assert (i in found) == any(end > len(before) for end in ends)


@given(st.lists(st.integers(0, 3), max_size=30), st.integers(1, 4))
def test_no_row_of_tokens_comes_twice(ids, size):
    rows = {tuple(ids[i : i + size]) for i in range(len(ids) - size + 1)}
    found = repeated_ngram_ends(ids, size)
    for token in range(4):
        row = tuple([*ids, token][-size:])
        assert (token in found) == (len(row) == size and row in rows)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_no_repeat_ngram_is_that_of_transformers(size):
    from transformers import NoRepeatNGramLogitsProcessor

    generator = torch.Generator().manual_seed(size)
    for length in (1, 2, 5, 30):
        ids = torch.randint(0, 40, (1, length), generator=generator)
        expected = NoRepeatNGramLogitsProcessor(size)(ids, torch.zeros(1, 40))[0]
        [each] = filters(SamplingParams(1.0, top_p=1.0, no_repeat_ngram=size))
        assert torch.equal(each(torch.zeros(40), Place(ids[0].tolist())), expected)


def test_ends_are_forbidden_before_so_many_tokens():
    [each] = filters(SamplingParams(1.0, top_p=1.0, min_tokens=3), TokenRules(ends=frozenset({1})))
    assert [bool(each(torch.zeros(3), Place([], new)).isinf()[1]) for new in range(5)] == [True] * 3 + [False] * 2


def test_forbidding_all_is_an_error():
    assert forbid(torch.zeros(2), [0]).tolist() == [-torch.inf, 0.0]
    with pytest.raises(LlmcliError, match="no token is left"):
        forbid(torch.tensor([0.0, -torch.inf]), [0])
