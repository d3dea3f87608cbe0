"""Sequences decoded together get the ids that they get alone, whatever else is in the batch and whenever they enter."""

from dataclasses import replace
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model.variants import LENGTH_DEPENDENT
from tiny_families import EVERY, pair, some_ids

from llmcli.batch import decode_rows, generate_batch, read_rows
from llmcli.errors import UsageError
from llmcli.generation import Sequence, generate
from llmcli.model.batch_cache import BatchCache
from llmcli.model.loading import load
from llmcli.model.processor import fast_bfloat16
from llmcli.model.transformer import CausalLM
from llmcli.sampling_params import SamplingParams

VARIANTS = (
    *EVERY,
    *sorted(LENGTH_DEPENDENT),
    "gemma2-caps",
    "gemma3-linear",
    "qwen2-sliding",
    "smollm3-sliding",
    "gpt_neox-odd",
    "llama-yarn",
)


class Seen(Sequence):
    """A sequence that keeps the logits it drew from."""

    def __init__(self, prompt, *, temperature=0.0, seed=3, context=128, **params):
        params = SamplingParams(temperature, **{"ignore_eos": True, **params})
        super().__init__(prompt, params, seed=seed, eos_ids=(5,), context=context)
        self.logits = []

    def advance(self, logits):
        self.logits.append(logits.clone())
        return super().advance(logits)

    @property
    def new(self):
        return self.ids[self.prompt_length :]


def alone(model, sequence):
    for _ in generate(model, sequence):
        pass
    return sequence


def together(model, make, count, size):
    """The sequences `make(0)`, `make(1)`, ... after they ran in one batch."""
    begun = {}

    def begin(number):
        begun[number] = make(number)
        return begun[number]

    drawn = [[] for _ in range(count)]
    for number, each in generate_batch(model, [make(i).ids for i in range(count)], begin, size=size):
        drawn[number].append(each.choice.id)
    assert drawn == [begun[i].new for i in range(count)]
    return [begun[i] for i in range(count)]


def assert_same(one, other):
    """Equal ids. A difference is excused only where the logits differ by at most 1e-4, and so did those before."""
    for mine, theirs, a, b in zip(one.logits, other.logits, one.new, other.new, strict=False):
        assert float((mine - theirs).abs().max()) <= 1e-4
        if a != b:
            return
    assert one.new == other.new
    assert one.finish_reason == other.finish_reason


@pytest.mark.parametrize("name", VARIANTS)
def test_every_family_gives_the_ids_of_single_runs(name):
    """Greedy and drawn ones in one batch."""
    model = pair(name).pipeline.model
    lengths, limits = [3, 1, 40, 7, 28, 2, 30], [9, 30, 20, 1, 25, 12, 17]

    def make(i):
        return Seen(some_ids(lengths[i], i), temperature=0.9 * (i % 2), seed=50 + i, max_tokens=limits[i])

    for size in (3, 32):
        for i, sequence in enumerate(together(model, make, len(lengths), size)):
            assert_same(alone(model, make(i)), sequence)


@cache
def llama():
    return pair("llama").pipeline.model


@cache
def sliding():
    return pair("gemma3").pipeline.model


REQUESTS = st.lists(st.tuples(st.integers(1, 24), st.integers(0, 14), st.booleans()), min_size=1, max_size=9)


@settings(max_examples=20)
@given(REQUESTS, st.integers(1, 5), st.sampled_from([llama, sliding]), st.sampled_from([0.0, 1.0]))
def test_any_lengths_in_any_batch_size(requests, size, which, temperature):
    """Sequences of no token, of one, that end by themselves, and equal prompts, in a row and apart."""
    model = which()

    def make(i):
        length, limit, ends = requests[i]
        return Seen(some_ids(length), temperature=temperature, seed=i, max_tokens=limit, ignore_eos=not ends)

    for i, sequence in enumerate(together(model, make, len(requests), size)):
        assert_same(alone(model, make(i)), sequence)


def test_no_prompts_give_nothing():
    assert list(generate_batch(llama(), [], lambda _: pytest.fail("begun"))) == []


def test_ids_outside_the_vocabulary_are_refused_before_anything_begins():
    with pytest.raises(UsageError, match="101"):
        next(generate_batch(llama(), [[3], [101]], lambda _: pytest.fail("begun")))


class Counting:
    """The passes of a model: (texts, columns) of each."""

    def __init__(self, monkeypatch):
        self.passes = []
        real = CausalLM.hidden_states

        def hidden_states(model, ids, *arguments, **options):
            self.passes.append(tuple(ids.shape))
            return real(model, ids, *arguments, **options)

        monkeypatch.setattr(CausalLM, "hidden_states", hidden_states)
        monkeypatch.setattr(llama().traced, "patience", 10**9)  # a graph calls nothing that could be counted


def test_a_shared_prompt_is_read_once_and_rows_shrink(monkeypatch):
    counting = Counting(monkeypatch)
    prompt = some_ids(20)
    together(llama(), lambda i: Seen(prompt, temperature=1.0, seed=i, max_tokens=4), 7, 3)
    reads = [each for each in counting.passes if each[1] > 1]
    assert reads == [(1, 20)]
    # Three at a time for three passes each, then the last alone; first tokens come from the prompt's own logits.
    assert [rows for rows, columns in counting.passes if columns == 1] == [3, 3, 3, 3, 3, 3, 1, 1, 1]


def test_prompts_of_like_length_are_read_side_by_side(monkeypatch):
    counting = Counting(monkeypatch)
    lengths = [50, 10, 9, 51, 11, 1]
    together(llama(), lambda i: Seen(some_ids(lengths[i], i), max_tokens=1), 6, 6)
    assert counting.passes == [(2, 9), (2, 11), (2, 51)]


def test_the_next_enters_as_soon_as_one_ends(monkeypatch):
    counting = Counting(monkeypatch)
    limits = [2, 9, 2, 2]
    together(llama(), lambda i: Seen(some_ids(3, i), max_tokens=limits[i]), 4, 2)
    decoding = [rows for rows, columns in counting.passes if columns == 1]
    assert decoding == [2, 2, 2, 1, 1, 1, 1, 1]


def test_a_sequence_ended_from_outside_leaves(monkeypatch):
    counting = Counting(monkeypatch)
    sequences = [Seen(some_ids(3, i), max_tokens=6) for i in range(2)]
    prompts = [list(each.ids) for each in sequences]
    for number, _ in generate_batch(llama(), prompts, sequences.__getitem__):
        if number == 0 and len(sequences[0].new) == 2:
            sequences[0].end("stop")
    assert [len(each.new) for each in sequences] == [2, 6]
    assert [rows for rows, columns in counting.passes if columns == 1] == [2, 1, 1, 1, 1]
    assert_same(alone(llama(), Seen(prompts[1], max_tokens=6)), sequences[1])


# --- the cache of rows ---


def filled(cache, rows, tokens):
    """Reads a text into each row whose keys are 10 * row + position."""
    step = cache.entering(rows, [tokens] * len(rows), torch.device("cpu"))
    for layer in step.layers:
        keys = torch.stack([10.0 * row + torch.arange(tokens) for row in rows])[:, None, :, None]
        layer.append(keys, -keys)
    return cache


def config(window=None):
    base = pair("mistral").pipeline.model.config
    kinds = () if window is None else base.layer_types
    return replace(base, num_layers=1, sliding_window=window or 0, layer_types=kinds)


def keys_of(cache, count):
    step = cache.decoding(count, torch.device("cpu"))
    keys, values = step.layers[0].append(torch.full((count, 1, 1, 1), 99.0), torch.full((count, 1, 1, 1), -99.0))
    assert torch.equal(keys, -values)
    return [keys[row, 0, :lengths, 0].tolist() for row, lengths in enumerate(cache.lengths[:count])]


def test_rows_are_put_reordered_and_continued():
    cache = filled(BatchCache(config(), 3), [0, 1], tokens=2)
    kept = cache.copy(1)
    filled(cache, [1], tokens=4)
    cache.put(2, kept)
    cache.reorder([2, 0, 1])
    assert cache.lengths == [2, 2, 4]
    assert keys_of(cache, 3) == [[10, 11, 99], [0, 1, 99], [10, 11, 12, 13, 99]]


def test_a_window_keeps_its_last_keys_and_no_more():
    cache = filled(BatchCache(config(4), 1), [0], tokens=7)
    step = cache.decoding(1, torch.device("cpu"))
    keys, _ = step.layers[0].append(torch.full((1, 1, 1, 1), 7.0), torch.zeros(1, 1, 1, 1))
    assert sorted(keys.flatten().tolist()) == [4, 5, 6, 7]
    assert cache.allocated_bytes == 2 * 4 * 4


def test_capacity_grows_a_little_at_a_time_and_loses_nothing():
    cache = filled(BatchCache(config(), 2), [0, 1], tokens=100)
    sizes = set()
    for _ in range(200):
        keys = keys_of(cache, 2)
        sizes.add(cache.allocated_bytes)
    assert 4 <= len(sizes) <= 10
    assert max(sizes) <= 340 * 2 * 2 * 4  # 300 tokens, two rows, keys and values
    assert [row[:100] for row in keys] == [[float(i) for i in range(100)], [10.0 + i for i in range(100)]]


def test_stored_keys_may_be_smaller_than_those_read():
    whole, half = (BatchCache(config(), 1, dtype) for dtype in (None, torch.bfloat16))
    assert keys_of(filled(half, [0], tokens=3), 1) == keys_of(filled(whole, [0], tokens=3), 1)
    assert half.allocated_bytes * 2 == whole.allocated_bytes


needs_bfloat16 = pytest.mark.skipif(not fast_bfloat16(), reason="this processor has no fast products in bfloat16")


@needs_bfloat16
def test_rows_are_kept_in_16_bits_where_activations_are_rounded_anyway():
    def stored(name, dtype="auto", kv_dtype=None):
        model, _, _ = load(pair(name).folder, dtype)
        model.kv_dtype = kv_dtype
        rows = model.new_rows(2)
        read_rows(model, rows, [(row, tuple(some_ids(5, row))) for row in range(2)])
        step = rows.decoding(2, torch.device("cpu"))
        return step.keys[0].dtype

    half, whole = torch.bfloat16, torch.float32
    assert stored("llama") == stored("llama", "int8") == stored("llama", "int4", half) == half
    assert stored("llama", "float32") == stored("llama", "int8", whole) == whole
    assert stored("llama", "float32", half) == half
    assert stored("gemma2") == whole  # the soft cap is computed in float32


@needs_bfloat16
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma3"])
@pytest.mark.parametrize(("dtype", "limit"), [("bfloat16", 0.03), ("int8", 0.04)])
def test_rows_in_16_bits_are_near_those_in_float32(name, dtype, limit):
    model, _, _ = load(pair(name).folder, dtype)
    found = {}
    for kv_dtype in (torch.float32, None):
        model.kv_dtype = kv_dtype
        rows = model.new_rows(3)
        read_rows(model, rows, [(row, tuple(some_ids(length, row))) for row, length in enumerate((4, 30, 11))])
        steps = [decode_rows(model, rows, some_ids(3, step)) for step in range(9)]
        found[kv_dtype] = torch.cat(steps)
    error = (found[None] - found[torch.float32]).norm() / found[torch.float32].norm()
    assert 0 < float(error) < limit
