"""Saved prompts: what is reused, that it changes no id, and which files are refused."""

import json
import os
import shutil

import pytest
import torch
from model.folders import edit_config, edit_tensors
from model.variants import VARIANTS
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_families import pair, some_ids

import llmcli.prompt_cache
from llmcli.errors import CheckpointError, LlmcliError, UsageError
from llmcli.pipeline import Pipeline
from llmcli.prompt_cache import PromptCache, weights_of


def roomy(name):
    """A variant that takes 128 tokens, whatever it declares."""
    pipeline = Pipeline.load(pair(name).folder, device="cpu")
    pipeline.set_context(128)
    return pipeline


def generated(pipeline, ids, file=None, **params):
    """The new ids, and how many tokens of the prompt were reused."""
    options = {"max_tokens": 20, "ignore_eos": True, "greedy": True} | params
    if file is None:
        return pipeline.generate(ids, **options).ids
    run = pipeline.run(ids, drive=pipeline.decoder(prompt_cache=file), **options)
    list(run)
    return run.result().ids, run.result().timings.reused


@pytest.fixture
def copy(tmp_path):
    """A model folder of its own, settled long ago."""
    folder = tmp_path / "copy"
    shutil.copytree(pair("llama").folder, folder)
    for each in folder.iterdir():
        os.utime(each, (1, 1))
    return folder


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_ids_are_the_same_with_and_without(name, tmp_path):
    pipeline = roomy(name)
    file = tmp_path / "prompt"
    long = some_ids(60, seed=2)
    # first, the same, longer, with another end, shorter, and another text
    for ids in (long[:20], long[:20], long[:45], [*long[:40], 7, 8, 9], long[:25], some_ids(18, seed=8)):
        for params in ({}, {"greedy": False, "seed": 4, "temperature": 0.7}):
            expected = generated(pipeline, ids, **params)
            assert generated(pipeline, ids, file, **params)[0] == expected


def test_what_is_shared_is_reused_and_only_more_is_written(tmp_path):
    pipeline = pair("llama").pipeline
    file = tmp_path / "prompt"
    long = some_ids(60, seed=2)

    def reused(ids):
        before = file.stat().st_mtime_ns if file.exists() else None
        os.utime(file, ns=(1, 1)) if before else None
        _, count = generated(pipeline, ids, file)
        return count, file.stat().st_mtime_ns != 1

    assert reused(long[:20]) == (0, True)
    assert reused(long[:20]) == (19, False)
    assert reused(long[:12]) == (11, False)
    assert reused(long[:45]) == (19, True)
    assert reused([*long[:40], 7, 8]) == (40, True)
    assert reused(some_ids(9, seed=8)) == (0, True)
    assert reused([5]) == (0, False)


def test_only_the_rest_is_computed(tmp_path, monkeypatch):
    pipeline = pair("qwen3").pipeline
    ids = some_ids(40)
    generated(pipeline, ids[:30], tmp_path / "prompt")
    sizes = []
    forward = pipeline.model.forward
    monkeypatch.setattr(
        pipeline.model,
        "forward",
        lambda new, *rest, **named: (sizes.append(new.shape[1]), forward(new, *rest, **named))[1],
    )
    generated(pipeline, ids, tmp_path / "prompt", max_tokens=2)
    assert sizes == [10, 1, 1]


def test_sliding_layers_reuse_what_they_still_hold(tmp_path):
    pipeline = pair("mistral").pipeline  # a window of 9
    file = tmp_path / "prompt"
    ids = some_ids(40)
    generated(pipeline, ids[:30], file)
    assert generated(pipeline, ids, file) == (generated(pipeline, ids), 29)
    other = [*ids[:20], *some_ids(10, seed=7)]
    assert generated(pipeline, other, file) == (generated(pipeline, other), 0)


def test_nothing_is_reused_where_angles_depend_on_the_length(tmp_path):
    pipeline = roomy("llama-dynamic")  # made for 32 tokens
    ids = some_ids(50)
    for length, reused in ((20, 0), (32, 19), (40, 0), (50, 0)):
        found = generated(pipeline, ids[:length], tmp_path / "prompt", max_tokens=5)
        assert found == (generated(pipeline, ids[:length], max_tokens=5), reused)


def test_a_prompt_can_be_read_ahead(tmp_path):
    pipeline = pair("llama").pipeline
    ids = some_ids(30)
    assert generated(pipeline, ids, tmp_path / "prompt", max_tokens=0) == ([], 0)
    assert generated(pipeline, ids, tmp_path / "prompt")[1] == 29


def test_drafts_and_saved_prompts_go_together(tmp_path):
    pipeline = pair("llama").pipeline
    ids = some_ids(30)
    expected = generated(pipeline, ids)
    for reused in (0, 29):
        run = pipeline.run(
            ids,
            drive=pipeline.decoder(draft=pipeline, prompt_cache=tmp_path / "prompt"),
            max_tokens=20,
            ignore_eos=True,
            greedy=True,
        )
        list(run)
        assert run.result().ids == expected
        assert run.result().timings.reused == reused
        assert run.result().timings.accepted > 10


@pytest.mark.parametrize("kv_dtype", ["float32", "bfloat16", "float16"])
def test_it_is_saved_as_the_cache_keeps_it(kv_dtype, copy, tmp_path):
    pipeline = Pipeline.load(copy, device="cpu", kv_dtype=kv_dtype)
    ids = some_ids(30)
    expected = generated(pipeline, ids)
    for reused in (0, 29):
        assert generated(pipeline, ids, tmp_path / "prompt") == (expected, reused)
    saved = load_file(tmp_path / "prompt")
    assert saved["keys.0"].dtype == getattr(torch, kv_dtype)
    assert saved["keys.0"].shape == (1, 2, 29, 12)


@pytest.mark.parametrize(("dtype", "kept"), [("float32", "float32"), ("int8", "float16")])
def test_a_long_prompt_is_saved_out_of_its_blocks(dtype, kept, copy, tmp_path, monkeypatch):
    monkeypatch.setattr("llmcli.model.blocked_cache.LONG", 16)
    monkeypatch.setattr("llmcli.model.transformer.tiles", lambda: False)
    monkeypatch.setattr("llmcli.model.transformer.fast_bfloat16", lambda: True)
    pipeline = Pipeline.load(copy, device="cpu", dtype=dtype)
    ids = some_ids(40)
    for length, reused in ((30, 0), (30, 29), (40, 29), (40, 39), (20, 19)):
        found, again = generated(pipeline, ids[:length], tmp_path / "prompt")
        assert again == reused
        assert dtype == "int8" or found == generated(pipeline, ids[:length])
    saved = load_file(tmp_path / "prompt")
    assert saved["keys.0"].dtype == getattr(torch, kept)
    assert saved["keys.0"].shape == (1, 2, 39, 12)


def test_it_comes_to_where_the_model_is(copy, tmp_path):
    pipeline, ids = Pipeline.load(copy, device="cpu"), some_ids(30)
    generated(pipeline, ids, tmp_path / "prompt")
    cache, reused = PromptCache(tmp_path / "prompt", copy, pipeline.dtype).fill(pipeline.model.to("meta"), ids)
    assert reused == cache.length == 29
    assert {each.device.type for each in cache.layers[0].kept()} == {"meta"}


def test_a_file_of_another_model_is_refused(copy, tmp_path):
    file = tmp_path / "prompt"
    ids = some_ids(20)
    generated(Pipeline.load(copy, device="cpu"), ids, file)
    edit_tensors(copy, lambda tensors: tensors["model.norm.weight"].mul_(1.01))
    with pytest.raises(CheckpointError, match=r"of another model: model\.safetensors differs") as raised:
        generated(Pipeline.load(copy, device="cpu"), ids, file)
    assert raised.value.exit_code == 3
    assert "delete it" in raised.value.remedy


def test_a_file_of_the_same_weights_with_another_config_is_refused(copy, tmp_path):
    file = tmp_path / "prompt"
    generated(Pipeline.load(copy, device="cpu"), some_ids(20), file)
    edit_config(copy, rms_norm_eps=1e-3)
    with pytest.raises(CheckpointError, match=r"config\.json differs"):
        generated(Pipeline.load(copy, device="cpu"), some_ids(20), file)


def test_the_same_model_elsewhere_is_the_same(copy, tmp_path):
    file = tmp_path / "prompt"
    generated(Pipeline.load(copy, device="cpu"), some_ids(20), file)
    moved = tmp_path / "elsewhere"
    shutil.copytree(copy, moved)
    assert generated(Pipeline.load(moved, device="cpu"), some_ids(20), file)[1] == 19


def test_other_number_formats_are_refused(copy, tmp_path):
    file = tmp_path / "prompt"
    generated(Pipeline.load(copy, device="cpu"), some_ids(20), file)
    with pytest.raises(CheckpointError, match="kv_dtype auto, now it is bfloat16"):
        generated(Pipeline.load(copy, device="cpu", kv_dtype="bfloat16"), some_ids(20), file)
    with pytest.raises(CheckpointError, match="dtype float32, now it is bfloat16"):
        generated(Pipeline.load(copy, device="cpu", dtype="bfloat16"), some_ids(20), file)


def test_every_flipped_byte_is_found(copy, tmp_path):
    """Each byte of the header, and some of the data."""
    file = tmp_path / "prompt"
    pipeline = Pipeline.load(copy, device="cpu")
    ids = some_ids(6)
    generated(pipeline, ids, file)
    whole = file.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    cache = PromptCache(file, copy, "float32")
    for place in [*range(0, header, 7), *range(header, len(whole), 997), len(whole) - 1]:
        damaged = bytearray(whole)
        damaged[place] ^= 0x15
        file.write_bytes(damaged)
        refused = None
        try:
            reused = cache.fill(pipeline.model, ids)[1]
        except CheckpointError as error:
            refused = error
        if refused is None:  # a note of the file system was hit: the hash was computed again
            assert reused == 5
            assert place < header
        else:
            assert str(file) in str(refused)
            assert "delete it" in refused.remedy


@pytest.mark.parametrize("content", [b"", b"text", b"\x00" * 40])
def test_what_is_no_prompt_cache_is_refused(content, tmp_path):
    file = tmp_path / "prompt"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged"):
        generated(pair("llama").pipeline, some_ids(20), file)
    assert file.read_bytes() == content
    save_file({"ids": torch.zeros(3)}, file)
    with pytest.raises(CheckpointError, match="no prompt cache"):
        generated(pair("llama").pipeline, some_ids(20), file)


def test_tensors_of_another_shape_are_refused(copy, tmp_path):
    file = tmp_path / "prompt"
    pipeline = Pipeline.load(copy, device="cpu")
    generated(pipeline, some_ids(20), file)
    with safe_open(file, "pt") as opened:
        told = opened.metadata()
    tensors = load_file(file)
    tensors["keys.1"] = tensors["keys.1"][:, :, :-1].contiguous()
    told["checksum"] = llmcli.prompt_cache._checksum(tensors)
    save_file(tensors, file, told)
    with pytest.raises(CheckpointError, match="layer 1 has the shape"):
        generated(pipeline, some_ids(20), file)


def test_ids_that_the_model_does_not_have_are_refused(tmp_path):
    with pytest.raises(UsageError, match="outside the model's vocabulary"):
        PromptCache(tmp_path / "prompt", tmp_path, "float32").fill(pair("llama").pipeline.model, [1, 500])


def test_a_file_that_cannot_be_written_is_said_and_nothing_is_left(tmp_path):
    folder = tmp_path / "gone"
    with pytest.raises(LlmcliError, match="cannot be written"):
        generated(pair("llama").pipeline, some_ids(20), folder / "prompt")
    assert list(tmp_path.iterdir()) == []


def test_weights_are_hashed_once_while_they_stay_as_they_are(copy, monkeypatch):
    hashed = []
    sha256 = llmcli.prompt_cache.sha256
    monkeypatch.setattr(llmcli.prompt_cache, "sha256", lambda path: (hashed.append(path.name), sha256(path))[1])
    monkeypatch.setattr(llmcli.prompt_cache.time, "time", lambda: 1e12)  # all files are old
    known = weights_of(copy, {})
    assert sorted(hashed) == ["config.json", "model.safetensors"]
    hashed.clear()
    assert weights_of(copy, json.loads(json.dumps(known))) == {name: list(each) for name, each in known.items()}
    assert hashed == []
    os.utime(copy / "model.safetensors", (2, 2))
    assert {name: each[0] for name, each in weights_of(copy, known).items()} == {n: e[0] for n, e in known.items()}
    assert hashed == ["model.safetensors"]


def test_a_file_that_has_just_changed_is_hashed_again(copy):
    (copy / "config.json").touch()
    assert weights_of(copy, {})["config.json"][1] is None
