"""Several texts at once through the pipeline: the results of single runs, in order, and errors that name the prompt."""

import pytest
from tiny import BOS, EOS, write_model

from llmcli.batch_run import BatchPrompt, run_batch
from llmcli.errors import ContextLengthError, UsageError
from llmcli.pipeline import Pipeline
from llmcli.sampling_params import MAX_SEED

PROMPTS = ["ab", "", "a longer prompt", "ab", "Hé"]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    return Pipeline.load(write_model(tmp_path_factory.mktemp("tiny")))


def told(result):
    return (result.prompt, result.prompt_ids, result.text, result.ids, result.finish_reason, result.seed)


@pytest.mark.parametrize("size", [1, 2, 32])
def test_a_batch_is_its_single_runs(pipeline, size):
    ask = {"temperature": 1.3, "max_tokens": 20, "stop": list("eai(HZ\n"), "repetition_penalty": 1.1}
    results = pipeline.generate_batch(PROMPTS, num_samples=3, batch_size=size, seed=9, **ask)
    singles = [pipeline.generate(prompt, seed=9 + i, **ask) for prompt in PROMPTS for i in range(3)]
    assert [told(each) for each in results] == [told(each) for each in singles]
    assert {each.finish_reason for each in results} >= {"stop", "length"}


def test_every_control_works_in_a_batch(pipeline):
    """Those that look back at a text, remember something of it, or draw further random numbers."""
    ask = {
        "mirostat": 2, "xtc_probability": 0.5, "dry_multiplier": 0.8, "no_repeat_ngram": 3, "frequency_penalty": 0.3,
        "min_tokens": 4, "ban": "xy", "logit_bias": {EOS: 2.0}, "max_tokens": 15, "logprobs": 2,
    }  # fmt: skip
    results = pipeline.samples("ab", 5, seed=1, **ask)
    for i, each in enumerate(results):
        single = pipeline.generate("ab", seed=1 + i, **ask)
        assert told(each) == told(single)
        assert [step.id for step in each.logprobs] == each.ids
        mine, other = ([step.logprob for step in those.logprobs] for those in (each, single))
        assert mine == pytest.approx(other, abs=1e-4)


def test_samples_differ_and_a_new_seed_is_told(pipeline):
    results = pipeline.samples("ab", 4, max_tokens=12)
    assert [each.seed for each in results] == [results[0].seed + i for i in range(4)]
    assert len({tuple(each.ids) for each in results}) > 1
    again = pipeline.samples("ab", 4, max_tokens=12, seed=results[0].seed)
    assert [each.ids for each in again] == [each.ids for each in results]
    assert pipeline.samples("ab", 2, max_tokens=3).pop().seed != results[1].seed


def test_greedy_samples_are_alike(pipeline):
    first, second = pipeline.samples("ab", 2, greedy=True, max_tokens=5)
    assert first.ids == second.ids
    assert first.seed is None


def test_ids_need_no_tokenizer(pipeline):
    [result] = pipeline.generate_batch([[BOS, 5]], greedy=True, max_tokens=3)
    assert (result.prompt, result.prompt_ids) == (None, [BOS, 5])


def run(pipeline, prompts=PROMPTS, **options):
    asked = [BatchPrompt(pipeline.prompt_ids(each), each) for each in prompts]
    return run_batch(pipeline, asked, **{"greedy": True, "max_tokens": 5, "ignore_eos": True, **options})


def test_steps_come_in_turn_and_tell_whose_they_are(pipeline):
    steps = [(each.index, each.sample, step.index) for each, step in run(pipeline, ["a", "bc"], num_samples=2).steps()]
    assert sorted(steps) == [(i, k, n) for i in range(2) for k in range(2) for n in range(5)]
    assert [each for each in steps if each[2] < 2] == steps[:8]  # nobody is two ahead of anybody


def test_texts_come_in_order_or_as_they_end(pipeline):
    prompts = ["ab", "x" * 62]  # the second one has room for a single token
    assert [each.index for each in run(pipeline, prompts).finished()] == [0, 1]
    assert [each.index for each in run(pipeline, prompts).finished(ordered=False)] == [1, 0]


def test_prompts_that_leave_no_room_are_results_too(pipeline):
    full = "x" * 63
    results = pipeline.generate_batch([full, "a", full], greedy=True, max_tokens=2, ignore_eos=True, batch_size=1)
    assert [(len(each.ids), each.finish_reason) for each in results] == [(0, "context"), (2, "length"), (0, "context")]
    assert [each.ids for each in pipeline.generate_batch(PROMPTS, greedy=True, max_tokens=0)] == [[]] * len(PROMPTS)
    assert pipeline.generate_batch([]) == []


def test_what_was_finished_before_an_interrupt_is_there(pipeline, monkeypatch):
    from llmcli import batch

    real, calls = batch.decode_rows, []

    def step(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(batch, "decode_rows", step)
    under_way = run(pipeline, ["x" * 62, "a", "x" * 62, "b"])
    with pytest.raises(KeyboardInterrupt):
        list(under_way.finished(ordered=True))
    assert [each.index for each in under_way.rest()] == [2]
    assert under_way.rest() == []


def test_wrong_requests_name_the_prompt(pipeline):
    with pytest.raises(ContextLengthError, match="prompt 1: the prompt has 101 tokens"):
        pipeline.generate_batch(["a", "x" * 100])
    with pytest.raises(UsageError, match="prompt 2: token id 900"):
        pipeline.generate_batch([[5], [6], [900]])
    with pytest.raises(UsageError, match="prompt 0: there are no token ids"):
        pipeline.generate_batch([[]])
    for options, word in (
        ({"num_samples": 0}, "--num-samples"),
        ({"num_samples": True}, "--num-samples"),
        ({"batch_size": 1.5}, "--batch-size"),
        ({"seed": MAX_SEED, "num_samples": 2}, "--seed"),
        ({"top_q": 1}, "top_q"),
    ):
        with pytest.raises(UsageError, match=word):
            pipeline.generate_batch(["a"], **options)
    assert pipeline.generate_batch(["a"], seed=MAX_SEED, max_tokens=1)[0].seed == MAX_SEED


def test_truncation_tells_which_were_cut(pipeline):
    under_way = run(pipeline, ["a", "x" * 100, "b"], truncate="left", max_tokens=10)
    assert under_way.cut == [1]
    assert [len(each.result().ids) for each in under_way.finished()] == [10, 10, 10]
