"""Drafting: who guesses what, and that no guess changes an id."""

import random
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from model.variants import VARIANTS
from tiny import BOS, scripted, write_model
from tiny_families import pair, some_ids

from llmcli.draft import LONGEST, Lookup, Pace, SmallModel, generate_drafted
from llmcli.errors import UsageError
from llmcli.generation import Sequence, generate
from llmcli.model.checkpoint import load_model
from llmcli.pipeline import Pipeline
from llmcli.sampling_params import SamplingParams

VOCAB = 101


class Knowing:
    """Guesses from the true continuation, with a mistake now and then."""

    def __init__(self, ids, mistakes, seed=0):
        self.ids, self.mistakes, self.random = ids, mistakes, random.Random(seed)

    def propose(self, sequence, count):
        true = self.ids[len(sequence.ids) : len(sequence.ids) + count]
        return [(each + 1) % VOCAB if self.random.random() < self.mistakes else each for each in true]


class Passes:
    """Counts the tokens of each forward pass of a model."""

    def __init__(self, model, monkeypatch):
        self.sizes = []
        forward = model.forward

        def counting(ids, *rest, **options):
            self.sizes.append(ids.shape[1])
            return forward(ids, *rest, **options)

        monkeypatch.setattr(model, "forward", counting)


def sequence(prompt, *, max_tokens=50, seed=None, eos=(), context=128, watch=None, **params):
    params.setdefault("temperature", 0 if seed is None else 0.7)
    params.setdefault("ignore_eos", not eos)
    chosen = SamplingParams(max_tokens=max_tokens, **params)
    return Sequence(prompt, chosen, seed=seed, eos_ids=eos, context=context, watch=watch)


def plain(model, made):
    list(generate(model, made))
    return made.ids


def drafted(model, made, source):
    steps = list(generate_drafted(model, made, source))
    assert made.ids[made.prompt_length :] == [step.choice.id for step in steps]
    assert [step.finish_reason for step in steps[:-1]] == [None] * (len(steps) - 1)
    return made.ids


@pytest.mark.parametrize("seed", [None, 5])
@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_no_draft_changes_an_id(name, seed):
    model = pair(name).pipeline.model
    prompt = some_ids(12, seed=1)
    expected = plain(model, sequence(prompt, seed=seed))
    for source in (Knowing(expected, 0.0), Knowing(expected, 0.15), Knowing(expected, 0.5), Lookup()):
        made = sequence(prompt, seed=seed)
        assert drafted(model, made, source) == expected
    small = SmallModel(pair("llama").pipeline.model, VOCAB)
    assert drafted(model, sequence(prompt, seed=seed), small) == expected


@pytest.mark.parametrize("name", ["gpt2", "mistral", "gemma3", "phi3-longrope"])
def test_right_guesses_save_passes(name, monkeypatch):
    model = pair(name).pipeline.model
    prompt = some_ids(12, seed=1)
    expected = plain(model, sequence(prompt))
    passes = Passes(model, monkeypatch)
    made = sequence(prompt)
    drafted(model, made, Knowing(expected, 0.0))
    assert len(passes.sizes) <= 14
    assert max(passes.sizes[1:]) <= model.config.context_length
    assert made.drafts.accepted == made.drafts.drafted
    assert made.drafts.drafted + len(passes.sizes) == 50  # each pass draws one token beside the drafted ones


def test_where_angles_depend_on_the_length_tokens_are_fed_one_by_one(monkeypatch):
    model = pair("llama-dynamic").pipeline.model  # made for 32 tokens
    prompt = some_ids(20)
    expected = plain(model, sequence(prompt))
    passes = Passes(model, monkeypatch)
    assert drafted(model, sequence(prompt), Knowing(expected, 0.0)) == expected
    fed = 0
    for size in passes.sizes:
        fed += size
        assert size == 1 or fed <= 32
    assert max(passes.sizes[1:]) > 1


def test_longrope_is_computed_again_once_where_its_angles_change(monkeypatch):
    model = pair("phi3-longrope").pipeline.model  # its angles change after 32 tokens
    prompt = some_ids(20)
    expected = plain(model, sequence(prompt, max_tokens=70))
    passes = Passes(model, monkeypatch)
    assert drafted(model, sequence(prompt, max_tokens=70), Knowing(expected, 0.0)) == expected
    assert [size for size in passes.sizes[1:] if size > LONGEST + 1] == [33]


@pytest.mark.parametrize(
    "params",
    [
        {"repetition_penalty": 1.3, "penalty_window": 16},
        {"frequency_penalty": 0.4, "presence_penalty": 0.2},
        {"mirostat": 2, "mirostat_tau": 3.0},
        {"dry_multiplier": 0.8},
        {"no_repeat_ngram": 2},
        {"xtc_probability": 0.5, "xtc_threshold": 0.05},
        {"min_tokens": 20, "eos": tuple(range(30)), "ignore_eos": False},
        {"logit_bias": ((7, 4.0),), "top_k": 12, "min_p": 0.02},
    ],
    ids=lambda params: next(iter(params)),
)
def test_every_control_sees_what_it_sees_without_drafts(params):
    model = pair("qwen3").pipeline.model
    prompt = some_ids(8, seed=4)

    def made(seen):
        def watch(_, logits, place, uniform):
            seen.append((logits.argmax().item(), place.new, place.mu, place.chance, uniform))

        return sequence(prompt, seed=11, watch=watch, **params)

    before, after, guessed = [], [], []
    expected = plain(model, made(before))
    assert drafted(model, made(after), Knowing(expected, 0.2)) == expected
    assert drafted(model, made(guessed), SmallModel(model, VOCAB)) == expected
    assert [each[:2] + each[3:] for each in after] == [each[:2] + each[3:] for each in before]
    for one, other in zip(before, after, strict=True):
        assert one[2] == pytest.approx(other[2], rel=1e-3)  # mirostat's bound follows probabilities, which are rounded
    assert len(guessed) == len(before)  # guesses are not shown


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"max_tokens": 7}, "length"),
        ({"max_tokens": 1}, "length"),
        ({"max_tokens": 0}, "length"),
        ({"context": 20}, "context"),
        ({"context": 12}, "context"),
    ],
)
def test_nothing_is_computed_past_the_end(params, reason, monkeypatch):
    model = pair("gpt2").pipeline.model
    prompt = some_ids(12, seed=1)
    true = plain(model, sequence(prompt))
    expected = plain(model, sequence(prompt, **params))
    passes = Passes(model, monkeypatch)
    made = sequence(prompt, **params)
    assert drafted(model, made, Knowing(true, 0.0)) == expected
    assert made.finish_reason == reason
    assert sum(passes.sizes) <= max(0, len(expected) - 1)


def test_an_end_of_text_among_the_guesses_ends():
    model = pair("llama").pipeline.model
    prompt = some_ids(12, seed=1)
    true = plain(model, sequence(prompt, seed=2))
    end = true[12 + 9]
    expected = plain(model, sequence(prompt, seed=2, eos=(end,)))
    made = sequence(prompt, seed=2, eos=(end,))
    assert drafted(model, made, Knowing(true, 0.0)) == expected
    assert made.finish_reason == "eos"
    assert drafted(model, sequence(prompt, seed=2, eos=(end,)), SmallModel(model, VOCAB)) == expected


def test_a_stop_string_among_the_guesses_ends(tmp_path):
    pipeline = Pipeline.load(write_model(tmp_path / "m", max_position_embeddings=256, seed=4), device="cpu")
    whole = pipeline.generate([BOS], max_tokens=80, greedy=True, ignore_eos=True)
    stop = whole.text[20:23]
    options = {"max_tokens": 80, "greedy": True, "ignore_eos": True, "stop": stop}
    expected = pipeline.generate([BOS], **options)
    knowing = Knowing([BOS, *whole.ids], 0.0)
    run = pipeline.run([BOS], drive=lambda model, made: generate_drafted(model, made, knowing), **options)
    list(run)
    assert (run.result().ids, run.result().text, run.result().finish_reason) == (expected.ids, expected.text, "stop")


def test_a_model_that_drafts_for_itself_is_always_right():
    model = pair("llama").pipeline.model
    for seed in (None, 3):
        made = sequence(some_ids(9), seed=seed)
        drafted(model, made, SmallModel(model, VOCAB))
        assert made.drafts.accepted == made.drafts.drafted > 30


def test_the_random_numbers_of_the_sequence_make_better_guesses_than_the_most_probable_token():
    """A small model that is not quite the large one, at a temperature at which the best token is seldom drawn."""
    model = pair("llama").pipeline.model
    near = load_model(pair("llama").folder)
    with torch.no_grad():
        near.lm_head.weight.mul_(0.9)
    made = sequence(some_ids(9), seed=3, temperature=2.0, max_tokens=100)
    drafted(model, made, SmallModel(near, VOCAB))
    ids = made.ids
    with torch.inference_mode():
        best = near(torch.tensor([ids]))[0].argmax(-1).tolist()
    greedy = sum(best[i] == ids[i + 1] for i in range(8, len(ids) - 1)) / (len(ids) - 9)
    assert made.drafts.accepted / made.drafts.drafted > greedy + 0.3


@pytest.mark.parametrize("size", [64, 140])
def test_the_vocabularies_may_be_padded_differently(size, tmp_path):
    model = load_model(write_model(tmp_path / "large", vocab_size=VOCAB, max_position_embeddings=128))
    small = load_model(write_model(tmp_path / "small", vocab_size=size, max_position_embeddings=128, seed=1))
    prompt = [each % 60 for each in some_ids(9)]
    for seed in (None, 3):
        expected = plain(model, sequence(prompt, seed=seed))
        assert (max(expected) >= 64) or seed is None
        assert drafted(model, sequence(prompt, seed=seed), SmallModel(small, VOCAB)) == expected


def test_a_small_model_with_a_short_context_guesses_as_long_as_it_can(tmp_path):
    model = load_model(write_model(tmp_path / "large", max_position_embeddings=128))
    small = load_model(write_model(tmp_path / "small", max_position_embeddings=32))  # the same weights
    made = sequence(some_ids(9))
    expected = plain(model, sequence(some_ids(9)))
    assert drafted(model, made, SmallModel(small, 259)) == expected
    assert 0 < made.drafts.accepted < 32


def test_a_small_model_with_a_window_goes_back_over_dropped_keys():
    """Long enough that the cache of the small model moves its window to the front between two passes."""
    small = load_model(pair("mistral").folder)
    source = SmallModel(small, VOCAB)
    ids = some_ids(600, seed=3)
    small.config = replace(small.config, context_length=2000)
    for at in range(245, 275):
        made = sequence(ids[:at], context=2000)
        guesses = source.propose(made, 5)
        assert guesses == SmallModel(small, VOCAB).propose(made, 5)
        assert len(guesses) == 5


# --- lookup ---


def naive(ids, count):
    """The same by looking at every place of the text."""
    size = Lookup.SHORTEST
    best = None
    for end in range(size, len(ids)):
        agreeing = 0
        while agreeing < end and agreeing < 32 and ids[end - 1 - agreeing] == ids[-1 - agreeing]:
            agreeing += 1
        if agreeing >= size and (best is None or agreeing >= best[0]):
            best = (agreeing, end)
    if best is None:
        return []
    text = list(ids)
    for i in range(count):
        text.append(text[best[1] + i])
    return text[len(ids) :][: best[0]]


@given(st.lists(st.integers(0, 2), max_size=40), st.integers(1, 9))
def test_lookup_is_the_longest_agreement_and_the_latest(ids, count):
    assert Lookup().follow(ids, count) == naive(ids, count)


@given(st.lists(st.integers(0, 1), min_size=1, max_size=30), st.lists(st.integers(1, 5), max_size=8))
def test_lookup_reads_on_where_it_stopped(ids, steps):
    lookup, length = Lookup(), 1
    for step in steps:
        length = min(len(ids), length + step)
        assert lookup.follow(ids[:length], 4) == naive(ids[:length], 4)


def test_lookup_of_a_text_that_goes_round():
    assert Lookup().follow([9, 1, 2, 1, 2, 1, 2], 5) == [1, 2, 1, 2]
    assert Lookup().follow([1, 2, 3, 4, 5, 1, 2, 3], 9) == [4, 5, 1]
    assert Lookup().follow([1, 2, 3, 4], 5) == []
    assert Lookup().follow([], 5) == []


# --- the pace ---


def cheap(rows):
    return 1 + 0.05 * (rows - 1)


def dear(rows):
    return 5 + 0.05 * (rows - 1) if rows > 1 else 1


def test_the_pace_grows_with_right_guesses():
    pace = Pace(cheap)
    sizes = []
    for _ in range(4):
        sizes.append(pace.next())
        pace.learn(sizes[-1], sizes[-1])
    assert sizes == [4, 8, 8, 8]
    pace.learn(8, 2)
    assert pace.next() == 3


def test_where_a_pass_of_several_tokens_is_dear_only_long_drafts_pay():
    pace = Pace(dear)
    assert pace.next() >= pace.shortest == 10
    pace.learn(10, 10)
    assert pace.next() == pace.longest == 16


@pytest.mark.parametrize("cost", [cheap, dear])
@given(st.lists(st.tuples(st.integers(0, 16), st.integers(0, 16)), max_size=120), st.booleans())
def test_whatever_becomes_of_the_guesses_little_time_is_lost(cost, fates, never_right):
    pace = Pace(cost)
    time = tokens = 0.0
    for shorter, right in fates:
        size = min(pace.next(), shorter)
        size = size if size >= pace.shortest else 0
        accepted = 0 if never_right else min(size, right)
        if size:
            pace.learn(size, accepted)
        assert 0 <= size <= pace.longest
        time += cost(1 + size)
        tokens += 1 + accepted
    assert time <= (1 + Pace.EARNED) * tokens + cost(1 + pace.longest) - 1 + 1e-6


def test_after_many_right_guesses_not_many_wrong_ones_are_made():
    pace = Pace(cheap)
    for _ in range(100):
        pace.learn(pace.next(), 8)
    wrong = 0
    for _ in range(100):
        size = pace.next()
        wrong += size
        if size:
            pace.learn(size, 0)
    assert wrong <= 110


# --- through a pipeline ---


def test_a_pipeline_drafts_and_tells_how_it_went(tmp_path):
    pipeline = Pipeline.load(write_model(tmp_path / "m", max_position_embeddings=256, seed=4), device="cpu")
    options = {"max_tokens": 60, "ignore_eos": True, "seed": 6}
    expected = pipeline.generate([BOS], **options)
    assert (expected.timings.drafted, expected.timings.accepted) == (None, None)
    for draft in ("lookup", pipeline):
        run = pipeline.run([BOS], drive=pipeline.decoder(draft=draft), **options)
        list(run)
        timings = run.result().timings
        assert run.result().ids == expected.ids
        assert timings.drafted >= timings.accepted >= (30 if draft is pipeline else 0)


def test_another_vocabulary_is_refused(tmp_path):
    pipeline = scripted(tmp_path, [5])
    other = tmp_path / "other"
    other.mkdir()
    small = scripted(other, [5])
    path = other / "tokenizer.json"
    path.write_text(path.read_text().replace("<|user|>", "<|human|>"))
    assert pipeline.decoder(draft=small).draft is small.model
    small = Pipeline(small.model, type(small.tokenizer).from_folder(other), other, "small", "float32")
    with pytest.raises(UsageError, match="vocabularies differ, first at id 258"):
        pipeline.decoder(draft=small)
    ids_only = Pipeline(small.model, None, other, "ids", "float32")
    with pytest.raises(UsageError, match="vocabularies differ"):
        pipeline.decoder(draft=ids_only)


def test_a_reader_that_stops_reading_costs_no_pass(monkeypatch):
    model = pair("gpt2").pipeline.model
    passes = Passes(model, monkeypatch)
    steps = generate_drafted(model, sequence(some_ids(5)), Lookup())
    next(steps)
    steps.close()
    assert len(passes.sizes) == 1
    assert not torch.is_inference_mode_enabled()
