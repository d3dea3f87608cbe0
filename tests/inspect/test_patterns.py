"""Pattern labels on maps built by hand, strengths, entropies."""

import numpy as np
import pytest

from llmcli.inspect.patterns import PATTERNS, PatternSums, entropies, target_keys

TEXT = [5, 1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3]  # after token 0 a row of period 4


def sums(weights, ids=TEXT, reach=None):
    found = PatternSums(list(ids), 1, 1)
    found.add(0, slice(0, 1), weights[None].astype(np.float32), 0, reach)
    return found


def looking_at(key_of):
    """A map in which query i looks at key_of(i) alone, or at itself where that is None."""
    n = len(TEXT)
    weights = np.zeros((n, n))
    for query in range(n):
        key = key_of(query)
        weights[query, query if key is None else key] = 1
    return weights


def uniform(n=12, reach=None):
    seen = np.tri(n) if reach is None else np.tri(n) - np.tri(n, k=-reach)
    return seen / seen.sum(axis=1, keepdims=True)


def earlier(query, offset):
    """The key `offset` after the last earlier occurrence of the query's token."""
    found = [key for key in range(query) if TEXT[key] == TEXT[query]]
    return found[-1] + offset if found else None


BUILT = {
    "previous token": looking_at(lambda i: max(0, i - 1)),
    "first-token sink": looking_at(lambda _: 0),
    "induction": looking_at(lambda i: earlier(i, 1)),
    "same token": looking_at(lambda i: earlier(i, 0)),
    "uniform": uniform(),
    "diagonal": looking_at(lambda i: i),
}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_map_built_for_a_pattern_gets_its_label(pattern):
    found = sums(BUILT[pattern])
    ((label, strength),) = found.best()[0]
    assert label == pattern
    assert strength == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_map_of_one_pattern_and_noise_keeps_its_label(pattern):
    noise = np.tril(np.random.default_rng(0).random((len(TEXT), len(TEXT))) ** 4)
    noise /= noise.sum(axis=1, keepdims=True)
    share = 0.6 if pattern == "uniform" else 0.7
    assert sums(share * BUILT[pattern] + (1 - share) * noise).best()[0][0][0] == pattern


def test_what_is_near_or_first_is_no_induction_and_no_same_token():
    """In a text of one token over and over, looking back by one is the previous token and nothing else."""
    ids = [7] * 8
    n = len(ids)
    weights = np.eye(n, k=-1)
    weights[0, 0] = 1
    found = sums(weights, ids)
    assert found.best()[0][0] == ("previous token", 1.0)
    assert found.strengths["induction"] == 0
    assert found.strengths["same token"] == 0
    targets = target_keys(ids, 2, n - 2, n)
    assert sum(each.astype(int) for each in targets.values()).max() == 1


def test_a_pattern_seen_in_one_row_alone_is_no_pattern():
    ids = [1, 2, 3, 4, 5, 2]
    weights = np.eye(6)
    weights[5] = [0, 1, 0, 0, 0, 0]  # the same token, once
    found = sums(weights, ids)
    assert found.strengths["same token"] == 0
    assert found.best()[0][0][0] == "diagonal"


def test_uniform_counts_the_visible_tokens_of_a_sliding_layer():
    found = sums(uniform(reach=3), reach=3)
    assert found.best()[0][0] == ("uniform", pytest.approx(1, abs=1e-6))
    assert sums(uniform(reach=3)).strengths["uniform"][0, 0] < 0.6


def test_short_texts_have_no_pattern():
    found = sums(np.array([[1.0, 0], [0.5, 0.5]]), [1, 2])
    assert found.best()[0][0] == (None, 0.0)
    assert found.entropy[0, 0] == pytest.approx(0.5)


def test_rows_may_come_in_parts_and_heads_one_by_one():
    weights = np.stack([BUILT["induction"], uniform()]).astype(np.float32)
    whole, parts = PatternSums(TEXT, 1, 2), PatternSums(TEXT, 1, 2)
    whole.add(0, slice(0, 2), weights, 0, None)
    for head in (0, 1):
        for first, last in ((0, 1), (1, 5), (5, 12)):
            rows = weights[head : head + 1, first:last, :last]
            parts.add(0, slice(head, head + 1), rows, first, None)
    assert (
        [label for label, _ in whole.best()[0]] == [label for label, _ in parts.best()[0]] == ["induction", "uniform"]
    )
    assert np.allclose(whole.entropy, parts.entropy)
    for pattern in PATTERNS:
        assert np.allclose(whole.strengths[pattern], parts.strengths[pattern])


def test_entropy_is_in_bits_and_zero_weights_add_nothing():
    assert entropies(np.array([[0.25] * 4, [1.0, 0, 0, 0], [0.5, 0.5, 0, 0]])).tolist() == [2, 0, 1]
