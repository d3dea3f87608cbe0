"""The loop over ids: what is computed, when it ends, and that it gives the published ids."""

import json

import pytest
import torch
from tiny import BOS, EOS, Scripted, write_model

from llmcli import interrupts
from llmcli.errors import UsageError
from llmcli.generation import Sequence, decode_step, generate, prefill
from llmcli.model.cache import KVCache
from llmcli.model.checkpoint import load_model
from llmcli.sampling import Uniforms
from llmcli.sampling_params import SamplingParams


def sequence(prompt, *, seed=None, eos=(EOS,), context=64, **params):
    params.setdefault("temperature", 0 if seed is None else 0.9)
    return Sequence(prompt, SamplingParams(**params), seed=seed, eos_ids=eos, context=context)


def run(model, seq, cache=None):
    steps = list(generate(model, seq, cache))
    return [step.choice.id for step in steps], steps[-1].finish_reason if steps else seq.finish_reason


def test_prefill_once_then_a_token_a_step_and_none_after_the_last():
    model = Scripted([10, 11, 12, 13], start=5)
    ids, reason = run(model, sequence([1, 2, 3, 4, 5], max_tokens=3))
    assert (ids, reason) == ([10, 11, 12], "length")
    assert model.calls == [(5, True), (1, True), (1, True)]  # lm_head on the last position only


def test_a_reader_that_stops_reading_costs_no_forward():
    model = Scripted([10, 11, 12, 13])
    steps = generate(model, sequence([1]))
    next(steps)
    steps.close()
    assert len(model.calls) == 1


@pytest.mark.parametrize(
    ("prompt", "params", "context", "expected"),
    [
        ([1], {"max_tokens": 9}, 64, ([5, 6, EOS], "eos")),
        ([1], {"max_tokens": 3}, 64, ([5, 6, EOS], "eos")),
        ([1], {"max_tokens": 2}, 64, ([5, 6], "length")),
        ([1], {"max_tokens": 5, "ignore_eos": True}, 64, ([5, 6, EOS, 7, 8], "length")),
        ([1], {"max_tokens": 5}, 3, ([5, 6], "context")),
        ([1], {"max_tokens": 2}, 3, ([5, 6], "length")),
        ([1], {"max_tokens": 0}, 64, ([], "length")),
        ([1, 1, 1], {"max_tokens": 5}, 3, ([], "context")),
    ],
)
def test_ends(prompt, params, context, expected):
    model = Scripted([5, 6, EOS, 7, 8, 9], start=len(prompt))
    assert run(model, sequence(prompt, context=context, **params)) == expected


def test_every_end_of_text_id_ends():
    for end in (8, 9):
        assert run(Scripted([5, end, 7]), sequence([1], eos=(8, 9))) == ([5, end], "eos")


def test_ids_outside_the_vocabulary_and_no_ids_are_refused():
    model = Scripted([5])
    for prompt, word in (([300], "300"), ([259], "259"), ([-1], "-1"), ([], "no token ids")):
        with pytest.raises(UsageError, match=word):
            run(model, sequence(prompt))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_model(write_model(tmp_path_factory.mktemp("llama"), max_position_embeddings=256))


def test_greedy_ids_are_those_of_transformers(tmp_path):
    from transformers import AutoModelForCausalLM

    folder = write_model(tmp_path / "m", max_position_embeddings=256, seed=4)
    prompt = [BOS, 5, 77, 130]
    ids, _ = run(load_model(folder), sequence(prompt, max_tokens=64, context=256))
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    expected = theirs.generate(
        torch.tensor([prompt]), attention_mask=torch.ones(1, 4), do_sample=False, max_new_tokens=64, pad_token_id=EOS
    )
    assert ids == expected[0, 4:].tolist()
    assert len(ids) == 64


def test_same_seed_same_ids_other_seed_other_ids(model):
    first, second, other = (run(model, sequence([BOS], seed=s, max_tokens=30, ignore_eos=True))[0] for s in (1, 1, 2))
    assert first == second
    assert first != other


def test_each_position_has_its_own_random_number(model):
    """A token is the same whether its sequence ran from the start or is taken up in the middle."""
    params = SamplingParams(0.9, max_tokens=20, ignore_eos=True)
    whole = Sequence([BOS, 7], params, seed=3, eos_ids=(), context=64)
    run(model, whole)
    again = Sequence([BOS, 7], params, seed=3, eos_ids=(), context=64)
    logits = model(torch.tensor([whole.ids]))[0]  # every position at once, as a draft would be checked
    for position in range(1, len(whole.ids) - 1):
        assert again.advance(logits[position]).choice.id == whole.ids[position + 1]
    assert again.finish_reason == "length"


def test_positions_count_new_tokens_from_0():
    flat = torch.zeros(1000)
    for prompt in ([1], [1, 2, 3]):
        seq = sequence(prompt, seed=8, temperature=1.0, top_p=1.0)
        drawn = [seq.advance(flat).choice.id for _ in range(5)]
        assert drawn == [int(Uniforms(8)[i] * 1000) for i in range(5)]


def test_a_sequence_that_is_drawn_needs_a_seed():
    with pytest.raises(ValueError, match="seed"):
        Sequence([1], SamplingParams(), seed=None, eos_ids=(), context=9)


def test_a_cache_that_holds_the_beginning_gives_the_same(model):
    prompt = [BOS, 9, 8, 7, 6]
    expected = run(model, sequence(prompt, max_tokens=10))
    cache = KVCache(model.config)
    prefill(model, cache, prompt[:3])
    assert run(model, sequence(prompt, max_tokens=10), cache) == expected


def test_the_state_of_inference_mode_does_not_leak(model):
    for _ in generate(model, sequence([BOS], max_tokens=2)):
        assert not torch.is_inference_mode_enabled()


def test_longrope_computes_the_cache_again_where_its_angles_change(tmp_path):
    from transformers import Phi3Config, Phi3ForCausalLM

    scaling = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [3.0] * 4, "rope_theta": 10000.0}
    config = Phi3Config(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, original_max_position_embeddings=8,
        rope_parameters=scaling | {"original_max_position_embeddings": 8}, initializer_range=0.6,
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    Phi3ForCausalLM(config).save_pretrained(tmp_path)
    model = load_model(tmp_path)
    ids = [1, 5, 6, 7, 8, 9, 10, 11]
    cache = KVCache(model.config)
    prefill(model, cache, ids)
    with torch.inference_mode():
        for new in (12, 13):  # across the original length, then past it
            ids = [*ids, new]
            expected = model(torch.tensor([ids]))[0, -1]
            torch.testing.assert_close(decode_step(model, cache, ids), expected, atol=1e-4, rtol=1e-4)
    assert cache.length == len(ids)


def test_published_ids_of_a_trained_llama(shared):
    folder = shared / "models" / "stories260K"
    golden = json.loads((folder / "golden.json").read_text())
    prompt = golden["prompt_ids"]
    ids, _ = run(load_model(folder), sequence(prompt, max_tokens=200, eos=(2,), context=512))
    assert prompt + ids == golden["greedy_ids"]


def test_published_ids_of_a_gpt2(shared):
    folder = shared / "models" / "tiny-random-gpt2"
    golden = json.loads((folder / "golden.json").read_text())
    model = load_model(folder)
    for expected in golden["greedy_ids"]:
        prompt = expected[: golden["prompt_len"]]
        ids, _ = run(model, sequence(prompt, max_tokens=len(expected) - len(prompt), eos=(98,), context=512))
        assert prompt + ids == expected


def test_a_signal_that_was_swallowed_ends_the_next_step(monkeypatch):
    model = Scripted([10, 11, 12, 13])
    steps = generate(model, sequence([1]))
    next(steps)
    monkeypatch.setattr(interrupts, "received", [15])
    with pytest.raises(KeyboardInterrupt):
        next(steps)
