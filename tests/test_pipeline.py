"""Text to text: what is shown, what is held back, and when it ends."""

import json
import math

import numpy as np
import pytest
import torch
from tiny import BOS, EOS, USER, scripted, write_model, write_tokenizer

from llmcli.errors import ContextLengthError, LlmcliError, ModelNotFoundError, TokenizerError, UsageError
from llmcli.pipeline import Pipeline
from llmcli.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def pipeline(folder):
    return Pipeline.load(folder)


def texts(pipeline, **params):
    run = pipeline.stream("", **{"greedy": True, "ignore_eos": True, **params})
    return [step.text for step in run], run.result()


def test_pieces_joined_are_the_text_and_characters_come_whole(tmp_path):
    said = "né 😀 end".encode()
    pieces, result = texts(scripted(tmp_path, said), max_tokens=len(said))
    assert "".join(pieces) == result.text == "né 😀 end"
    assert pieces[:3] == ["n", "", "é"]
    assert result.ids == list(said)
    assert str(result) == result.text
    assert result.finish_reason == "length"


def test_an_incomplete_character_comes_at_the_end(tmp_path):
    pieces, result = texts(scripted(tmp_path, "ab😀".encode()), max_tokens=4)
    assert pieces == ["a", "b", "", "�"]
    assert result.text == "ab�"


def test_text_is_the_whole_decode_less_the_prompt(pipeline):
    for seed in range(20):
        result = pipeline.generate("Hé", seed=seed, temperature=1.5, max_tokens=40, ignore_eos=True)
        whole = pipeline.decode(result.prompt_ids + result.ids, skip_special=True)
        assert whole == "Hé" + result.text
        steps = pipeline.stream("Hé", seed=seed, temperature=1.5, max_tokens=40, ignore_eos=True)
        assert "".join(step.text for step in steps) == result.text


def test_a_stop_string_over_several_tokens_is_never_shown(tmp_path):
    pipeline = scripted(tmp_path, b"one\n \n\ntwo")
    pieces, result = texts(pipeline, stop=["\n\n"], max_tokens=20)
    assert pieces == ["o", "n", "e", "", "\n ", "", ""]
    assert result.text == "one\n "
    assert result.finish_reason == "stop"
    assert result.ids == list(b"one\n \n\n")
    assert len(pipeline.model.calls) == len(result.ids)  # nothing was computed after the stop


def test_what_was_held_for_a_stop_comes_at_the_end(tmp_path):
    pieces, result = texts(scripted(tmp_path, b"aEN"), stop="END", max_tokens=3)
    assert pieces == ["a", "", "EN"]
    assert result.finish_reason == "length"


def test_a_stop_on_the_last_token_wins_over_the_length(tmp_path):
    assert texts(scripted(tmp_path, b"ab"), stop="b", max_tokens=2)[1].finish_reason == "stop"


def test_end_of_text_is_among_the_ids_and_not_in_the_text(tmp_path):
    run = scripted(tmp_path, [*b"hi", EOS, *b"more"]).stream("", greedy=True)
    assert [step.finish_reason for step in run] == [None, None, "eos"]
    assert run.result().text == "hi"
    assert run.result().ids == [*b"hi", EOS]


def test_special_tokens_in_the_middle_are_not_shown(tmp_path):
    assert texts(scripted(tmp_path, [*b"a", USER, *b"b"]), max_tokens=3)[1].text == "ab"


def test_an_interrupted_run_tells_what_it_has(tmp_path):
    run = scripted(tmp_path, b"abENDE").stream("", greedy=True, stop="ENDX")
    for _ in range(4):
        next(run)
    with pytest.raises(LlmcliError, match="not finished"):
        run.result()
    assert run.interrupt() == "EN"
    assert run.result().text == "abEN"
    assert run.result().finish_reason == "interrupt"
    assert run.interrupt() == ""
    assert list(run) == []


def test_timings_are_numbers(tmp_path):
    result = scripted(tmp_path, b"abc").generate("", greedy=True, max_tokens=3)
    assert 0 < result.timings.first_token <= result.timings.total
    assert result.timings.tokens_per_second > 0
    empty = scripted(tmp_path, b"abc").generate("", greedy=True, max_tokens=0)
    assert (empty.text, empty.ids, empty.finish_reason) == ("", [], "length")
    assert empty.timings.first_token is empty.timings.tokens_per_second is None


def test_probabilities_are_the_models(pipeline):
    run = pipeline.stream("ab", seed=1, temperature=0.7, top_k=5, top_p=1.0, max_tokens=5, ignore_eos=True)
    steps = list(run)
    rows = pipeline.logits(run.prompt_ids + [step.id for step in steps]).astype(float)
    for step in steps:
        row = rows[len(run.prompt_ids) - 1 + step.index]
        model = np.exp(row - row.max())
        assert step.logprob == pytest.approx(math.log(model[step.id] / model.sum()), abs=1e-4)
        best = np.sort(row)[-5:]
        drawn = np.exp((row[step.id] - best.max()) / 0.7) / np.exp((best - best.max()) / 0.7).sum()
        assert step.prob == pytest.approx(drawn, rel=1e-3)


def test_the_seed_is_told_and_gives_the_same_again(pipeline):
    first = pipeline.generate("x", max_tokens=10)
    assert first.seed is not None
    assert pipeline.generate("x", max_tokens=10, seed=first.seed).ids == first.ids
    assert pipeline.generate("x", max_tokens=10).seed != first.seed
    assert pipeline.generate("x", max_tokens=2, greedy=True, seed=4).seed is None


def test_prompts(pipeline):
    assert pipeline.prompt_ids("") == [BOS]
    assert pipeline.prompt_ids("a") == [BOS, 97]
    assert pipeline.prompt_ids([5, 6]) == [5, 6]
    assert pipeline.prompt_ids("<|eos|>", parse_special=True) == [BOS, EOS]
    assert EOS not in pipeline.prompt_ids("<|eos|>")
    assert pipeline.encode("a") == [97]
    assert pipeline.encode("a", special=True) == [BOS, 97]


def test_an_empty_prompt_needs_a_beginning(tmp_path, folder):
    write_tokenizer(tmp_path, bos=False)
    bare = Pipeline(Pipeline.load(folder).model, Tokenizer.from_folder(tmp_path), tmp_path, "bare", "float32")
    assert bare.prompt_ids("a") == [97]
    with pytest.raises(UsageError, match="empty"):
        bare.generate("")


def test_a_prompt_that_does_not_fit(pipeline):
    with pytest.raises(ContextLengthError, match=r"65 tokens.* 64") as caught:
        pipeline.generate("x" * 64)
    assert "--truncate" in caught.value.remedy
    assert pipeline.generate("x" * 63).finish_reason == "context"
    assert len(pipeline.generate("x" * 61, seed=1, ignore_eos=True).ids) == 2


@pytest.mark.parametrize(("max_tokens", "kept"), [(10, 54), (256, 32)])
def test_truncate_keeps_the_beginning_id_and_room_to_go_on(pipeline, max_tokens, kept):
    text = "".join(chr(97 + i % 26) for i in range(100))
    ids = [BOS, *text.encode()]
    left = pipeline.stream(text, truncate="left", max_tokens=max_tokens).prompt_ids
    right = pipeline.stream(text, truncate="right", max_tokens=max_tokens).prompt_ids
    assert left == [BOS, *ids[-(kept - 1) :]]
    assert right == ids[:kept]
    assert pipeline.stream("fits", truncate="left").prompt_ids == pipeline.prompt_ids("fits")


def test_context(folder):
    pipeline = Pipeline.load(folder)
    assert pipeline.set_context(100)
    result = pipeline.generate("x" * 90, seed=1, ignore_eos=True)
    assert (len(result.prompt_ids) + len(result.ids), result.finish_reason) == (100, "context")
    assert not pipeline.set_context(16)
    with pytest.raises(ContextLengthError):
        pipeline.generate("x" * 20)
    for bad in (0, True, 2.5):
        with pytest.raises(UsageError, match="--context"):
            pipeline.set_context(bad)


def test_a_learned_table_has_an_end(shared):
    pipeline = Pipeline.load(shared / "models" / "tiny-random-gpt2")
    assert not pipeline.set_context(512)
    with pytest.raises(UsageError, match="512"):
        pipeline.set_context(513)


def test_logits(pipeline):
    logits = pipeline.logits("ab")
    assert logits.shape == (3, 259)
    assert logits.dtype == np.float32
    with torch.inference_mode():
        expected = pipeline.model(torch.tensor([[BOS, 97, 98]]))[0].numpy()
    np.testing.assert_array_equal(logits, expected)


def test_the_models_own_sampling_parameters(tmp_path):
    folder = write_model(tmp_path / "m", generation={"temperature": 0.5, "top_k": 4, "eos_token_id": [EOS, 65]})
    pipeline = Pipeline.load(folder)
    run = pipeline.stream("a")
    assert (run.params.temperature, run.params.top_k, run.params.top_p) == (0.5, 4, 0.95)
    assert pipeline.stream("a", temperature=1.0).params.temperature == 1.0
    assert pipeline.eos_ids == {EOS, 65}


def test_ids_alone_need_no_tokenizer(folder, tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    pipeline = Pipeline.load(tmp_path)
    assert not pipeline.has_tokenizer
    assert len(pipeline.generate_ids([1, 2], max_tokens=5, seed=1, ignore_eos=True)) == 5
    for call in (lambda: pipeline.generate("text"), lambda: pipeline.generate([1], stop="x")):
        with pytest.raises(TokenizerError, match="no tokenizer"):
            call()


def test_what_cannot_be_loaded(folder):
    with pytest.raises(ModelNotFoundError):
        Pipeline.load(folder / "absent")
    with pytest.raises(UsageError, match="device"):
        Pipeline.load(folder, device="tpu")
    for count in (0, 2**63):
        with pytest.raises(UsageError, match="--threads"):
            Pipeline.load(folder, threads=count)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_device_that_is_not_there(folder):
    with pytest.raises(UsageError, match=r"--device cuda.*no such device"):
        Pipeline.load(folder, device="cuda")


def test_the_published_text_of_a_trained_model(shared):
    folder = shared / "models" / "stories260K"
    result = Pipeline.load(folder).generate("", greedy=True, max_tokens=200)
    assert result.text == json.loads((folder / "golden.json").read_text())["text"]


def test_a_leading_space_survives(shared):
    pipeline = Pipeline.load(shared / "models" / "stories260K")
    assert pipeline.generate("Once", greedy=True, max_tokens=2).text == " upon a"
