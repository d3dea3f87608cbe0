"""Perplexity: equal to predicting every token on its own, whatever the windows, the batches and the files."""

import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from train.small import story

import llmcli
from llmcli.errors import UsageError
from llmcli.inspect.perplexity import _windows, measure
from llmcli.pipeline import Pipeline

TEXTS = [story(1, 40), "A.", story(2, 9), story(3, 70)]


@pytest.fixture(scope="module")
def pipeline(shared: Path) -> Pipeline:
    return llmcli.load(shared / "models" / "stories260K")


def naive(pipeline: Pipeline, texts: list[str], context: int, stride: int) -> tuple[float, int]:
    """Each token's own window, one at a time: the first, of those that start every `stride` tokens, that holds it."""
    total, count = 0.0, 0
    for text in texts:
        ids = [pipeline.tokenizer.bos_id, *pipeline.encode(text)]
        for place in range(1, len(ids)):
            start = max(0, math.ceil((place - context) / stride)) * stride
            assert place - start >= min(place, context - stride)
            logits = pipeline.logits(ids[start:place])[-1]
            total -= float(torch.log_softmax(torch.from_numpy(logits).double(), -1)[ids[place]])
            count += 1
    return total, count


@pytest.mark.parametrize(("context", "stride"), [(512, 256), (32, 16), (32, 1), (16, 16), (20, 7)])
def test_equal_to_a_naive_computation(pipeline: Pipeline, context: int, stride: int) -> None:
    nats, tokens = naive(pipeline, TEXTS, context, stride)
    found = measure(pipeline, (iter([text]) for text in TEXTS), context=context, stride=stride)
    assert found.tokens == tokens
    assert found.nats_per_token == pytest.approx(nats / tokens, abs=1e-4)
    assert found.bytes == sum(len(text.encode()) for text in TEXTS)
    assert found.documents == 4
    assert found.perplexity == pytest.approx(math.exp(nats / tokens), rel=1e-4)
    assert found.bits_per_byte == pytest.approx(nats / math.log(2) / found.bytes, rel=1e-4)


def test_pieces_make_no_difference(pipeline: Pipeline) -> None:
    whole = measure(pipeline, [iter([TEXTS[3]])], context=32, stride=16)
    pieces = measure(pipeline, [iter([TEXTS[3][:7], "", TEXTS[3][7:]])], context=32, stride=16)
    assert (pieces.nats, pieces.tokens, pieces.bytes) == (whole.nats, whole.tokens, whole.bytes)


@settings(max_examples=200)
@given(
    parts=st.lists(st.lists(st.integers(0, 9), max_size=9), max_size=12),
    context=st.integers(1, 12),
    data=st.data(),
)
def test_every_token_but_the_first_is_predicted_once_with_enough_before_it(
    parts: list[list[int]], context: int, data: st.DataObject
) -> None:
    stride = data.draw(st.integers(1, context))
    numbers = [i for part in parts for i in part]
    # Places instead of ids, so that what each window covers is seen.
    places, start = [], 0
    for part in parts:
        places.append(list(range(start, start + len(part))))
        start += len(part)
    predicted: list[int] = []
    for window in _windows(places, context, stride):
        assert len(window.ids) <= context + 1
        assert all(b == a + 1 for a, b in pairwise(window.ids))
        assert window.scored >= min(1 + context - stride, window.ids[window.scored])
        predicted += window.ids[window.scored :]
    assert predicted == list(range(1, len(numbers)))


def test_a_model_without_a_beginning_id_does_not_predict_the_first_token(shared: Path) -> None:
    bare = llmcli.load(shared / "models" / "stories260K")
    bare.tokenizer.bos_id = None
    whole = measure(bare, [iter([TEXTS[0]])], context=512, stride=256)
    assert whole.tokens == len(bare.encode(TEXTS[0])) - 1
    with pytest.raises(UsageError, match="no token that could be predicted"):
        measure(bare, [iter([""])], context=512, stride=256)


@pytest.mark.parametrize(
    ("context", "stride", "said"), [(8, 9, "--stride is 9"), (8, 0, "--stride"), (0, 1, "--context")]
)
def test_windows_that_cannot_be(pipeline: Pipeline, context: int, stride: int, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        measure(pipeline, [iter(["x"])], context=context, stride=stride)


def test_progress_hears_of_growing_sums(pipeline: Pipeline) -> None:
    heard: list[int] = []
    texts = (iter([story(i, 30)]) for i in range(300))
    found = measure(pipeline, texts, context=32, stride=16, progress=lambda sums: heard.append(sums.tokens))
    assert len(heard) > 2
    assert heard == sorted(heard)
    assert heard[-1] == found.tokens
