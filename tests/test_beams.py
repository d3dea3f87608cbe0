"""Beam search finds what `transformers` finds."""

import math

import pytest
import torch
from tiny import EOS, write_model
from tiny_families import EVERY, pair, some_ids

from llmcli.batch_run import BatchPrompt, run_batch
from llmcli.errors import LlmcliError, UsageError
from llmcli.pipeline import Pipeline

MANY = list(range(3, 21))  # so many ends that beams end all the time


def ours(pipeline, ids, *, beams, penalty, best, eos, length=14, **params):
    pipeline.eos_ids = frozenset(eos)
    run = run_batch(
        pipeline,
        [BatchPrompt(ids)],
        beams=beams,
        length_penalty=penalty,
        num_samples=best,
        max_tokens=length,
        **params,
    )
    return [each.result() for each in run.finished()]


def theirs(reference, ids, *, beams, penalty, best, eos, length=14, **options):
    found = reference.generate(
        torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids)),
        num_beams=beams,
        length_penalty=penalty,
        num_return_sequences=best,
        max_new_tokens=length,
        do_sample=False,
        eos_token_id=eos,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_scores=True,
        **options,
    )
    rows = [row[len(ids) :] for row in found.sequences.tolist()]
    cut = [row[: next((i + 1 for i, each in enumerate(row) if each in eos), len(row))] for row in rows]
    return cut, found.sequences_scores.tolist()


def assert_found(results, expected):
    ids, scores = expected
    assert [each.ids for each in results] == ids
    assert [each.score for each in results] == pytest.approx(scores, rel=1e-4)


@pytest.mark.parametrize("name", [*EVERY, "gemma2-caps", "qwen2-sliding"])
@pytest.mark.parametrize(("eos", "penalty"), [([7], 1.0), (MANY, 0.0), (MANY, 2.0), (MANY, -1.0)])
def test_every_family(name, eos, penalty):
    loaded = pair(name)
    asked = {"beams": 4, "penalty": penalty, "best": 3, "eos": eos}
    ids = some_ids(9, 1)
    assert_found(ours(loaded.pipeline, ids, **asked), theirs(loaded.reference, ids, **asked))


@pytest.mark.parametrize("beams", [1, 2, 7])
def test_any_number_of_beams(beams):
    loaded = pair("llama")
    for seed in range(4):
        ids = some_ids(5, seed)
        asked = {"beams": beams, "penalty": 1.0, "best": beams, "eos": MANY, "length": 10}
        results = ours(loaded.pipeline, ids, **asked)
        assert [each.score for each in results] == sorted((each.score for each in results), reverse=True)
        # Of one beam alone `transformers` makes a greedy search, which goes on where a beam that ended is not kept.
        if beams > 1:
            assert_found(results, theirs(loaded.reference, ids, **asked))


def test_penalties_and_bans_act_on_the_log_probabilities():
    loaded = pair("llama")
    ids = some_ids(6, 2)
    asked = {"beams": 3, "penalty": 1.0, "best": 2, "eos": [7]}
    results = ours(loaded.pipeline, ids, **asked, repetition_penalty=1.7, no_repeat_ngram=2)
    assert_found(results, theirs(loaded.reference, ids, **asked, repetition_penalty=1.7, no_repeat_ngram_size=2))
    assert results[0].ids != ours(loaded.pipeline, ids, **asked)[0].ids


def test_ends():
    pipeline = pair("llama").pipeline
    ids = some_ids(6, 2)
    asked = {"beams": 3, "penalty": 1.0, "best": 3}
    assert {each.finish_reason for each in ours(pipeline, ids, **asked, eos=[7])} == {"length"}
    assert "eos" in {each.finish_reason for each in ours(pipeline, ids, **asked, eos=MANY)}
    assert "eos" not in {each.finish_reason for each in ours(pipeline, ids, **asked, eos=MANY, ignore_eos=True)}
    long = some_ids(122, 2)
    assert {each.finish_reason for each in ours(pipeline, long, **asked, eos=[7])} == {"context"}
    assert [each.finish_reason for each in ours(pipeline, some_ids(128), **asked, eos=[7])] == ["context"] * 3
    assert {each.score for each in ours(pipeline, some_ids(128), **asked, eos=[7])} == {None}


def test_a_longer_text_is_computed_again_where_its_angles_change():
    """longrope, past its original length, against the scores of each found text as a whole."""
    pipeline = pair("phi3-longrope").pipeline
    ids = some_ids(28)
    for each in ours(pipeline, ids, beams=3, penalty=1.0, best=3, eos=[7], length=12):
        whole = torch.from_numpy(pipeline.logits(ids + each.ids)).log_softmax(-1)
        # From the first token past the original length of 32 on, all is computed as for the whole text.
        logits = [float(whole[len(ids) - 1 + i, token]) for i, token in enumerate(each.ids)]
        steps = math.fsum(logits[5:])
        assert each.score * len(each.ids) - math.fsum(_short(pipeline, ids, each.ids[:5])) == pytest.approx(
            steps, abs=1e-3
        )


def _short(pipeline, ids, new):
    for i in range(len(new)):
        text = ids + new[:i]
        yield float(torch.from_numpy(pipeline.logits(text)).log_softmax(-1)[-1, new[i]])


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return Pipeline.load(write_model(tmp_path_factory.mktemp("tiny")))


def found(pipeline, count=2, beams=3, prompts=("ab", "cd"), **params):
    asked = [BatchPrompt(pipeline.prompt_ids(each), each) for each in prompts]
    return list(run_batch(pipeline, asked, beams=beams, num_samples=count, **params).finished())


def test_prompts_are_searched_one_by_one(texts):
    both = found(texts, max_tokens=6)
    assert [(each.index, each.sample) for each in both] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    [first, _] = found(texts, prompts=["cd"], max_tokens=6)
    assert both[2].result().ids == first.result().ids
    assert both[0].result().seed is None


def test_a_stop_string_ends_a_beam(texts):
    plain = found(texts, count=1, prompts=["ab"], max_tokens=8, ignore_eos=True)[0].result()
    stop = plain.text[2:4]
    for each in found(texts, count=3, prompts=["ab"], max_tokens=8, ignore_eos=True, stop=stop):
        result = each.result()
        assert stop not in result.text
        assert (result.finish_reason == "stop") == (stop in texts.decode(result.ids, skip_special=True))


def test_min_tokens_holds_ends_back(texts):
    for each in found(texts, min_tokens=5, max_tokens=9, logit_bias={EOS: 50.0}):
        assert len(each.result().ids) == 6


def test_there_may_be_fewer_texts_than_asked_for(texts):
    pytest.importorskip("llguidance")
    results = found(texts, count=3, beams=3, choice=("x", "y"))
    assert [(each.index, each.sample) for each in results] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert {each.result().text for each in results} == {"x", "y"}


def test_wrong_requests(texts):
    for asked, word in (
        ({"beams": 0}, "--beams"),
        ({"beams": 2, "num_samples": 3}, "--num-samples"),
        ({"beams": 2, "length_penalty": math.nan}, "--length-penalty"),
    ):
        with pytest.raises(UsageError, match=word):
            run_batch(texts, [], **asked)


def test_logits_that_are_not_finite_are_said(texts, monkeypatch):
    monkeypatch.setattr(texts.model, "logits", lambda hidden: torch.full((*hidden.shape[:-1], 259), math.nan))
    with pytest.raises(LlmcliError, match="not finite"):
        found(texts)
