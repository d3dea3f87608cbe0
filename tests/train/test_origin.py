"""Runs that begin with a model: its numbers, its tokenizer, its shape; and what is not trained further."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny import BOS, EOS, VOCAB, write_model, write_tokenizer

from llmcli.errors import UsageError
from llmcli.model.config import FULL, ModelConfig, RopeConfig
from llmcli.model.families import read_config
from llmcli.resolve import resolve
from llmcli.tokenizer import Tokenizer
from llmcli.train.export import take_tokenizer
from llmcli.train.origin import find_origin
from llmcli.train.recipe import Shape
from llmcli.train.shape import model_config, shape_of
from train.small import log_lines, losses, story, train, write_corpus, write_recipe

ONE_STEP = ("--set", "schedule.lengths=[[0, 32]]", "--until", 1)
UNLIKE_THE_RECIPE = {"rms_norm_eps": 1e-2, "rope_theta": 500.0, "intermediate_size": 40, "num_key_value_heads": 1}


def write_gpt2(folder: Path) -> Path:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 48, "n_inner": 40, "vocab_size": VOCAB}
    ids = {"bos_token_id": BOS, "eos_token_id": EOS}
    GPT2LMHeadModel(GPT2Config(**sizes, **ids, layer_norm_epsilon=1e-2, initializer_range=0.6)).save_pretrained(folder)
    (folder / "generation_config.json").unlink()
    write_tokenizer(folder)
    return folder


def write_llama(folder: Path) -> Path:
    return write_model(folder, **UNLIKE_THE_RECIPE)


def their_loss(folder: Path, ids: list[int], length: int) -> float:
    """Nats per token in rows of that length, each row on its own, as `transformers` computes them."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    rows = [ids[start : start + length + 1] for start in range(0, len(ids) - 1, length)]
    with torch.no_grad():
        surprises = [
            -model(torch.tensor([row[:-1]])).logits[0].double().log_softmax(-1)[range(len(row) - 1), row[1:]]
            for row in rows
        ]
    return float(torch.cat(surprises).mean())


@pytest.mark.parametrize("write", [write_llama, write_gpt2])
def test_the_first_loss_is_the_models_own(tmp_path: Path, write: Any) -> None:
    model, out, text = write(tmp_path / "model"), tmp_path / "run", story(1, 90)[:256]
    (tmp_path / "text.txt").write_text(text)
    recipe = write_recipe(tmp_path / "small.toml")
    begin = (tmp_path / "text.txt", "--valid", tmp_path / "text.txt", "--init", model)
    done = train(*begin, "--recipe", recipe, "--out", out, *ONE_STEP)
    assert done.returncode == 0, done.stderr
    ids = [BOS, *text.encode()]
    assert losses(out) == pytest.approx([their_loss(model, ids, 32)], abs=2e-5)
    # Before the first step the validation text, here the same, is read in rows of the whole context.
    bits = their_loss(model, ids, read_config(model).context_length) / math.log(2) * len(ids) / len(text)
    first = log_lines(out, "valid")[0]
    assert (first["step"], first["bits_per_byte"]) == (0, pytest.approx(bits, abs=2e-5))
    assert (out / "tokenizer.json").read_bytes() == (model / "tokenizer.json").read_bytes()
    facts = log_lines(out, "run")[0]
    assert (facts["init"], facts["ends"]) == (str(model), [EOS])
    before, after = read_config(model), read_config(out)
    assert after == replace(before, eos_token_ids=(BOS, EOS))
    assert facts["parameters"] == sum(each.numel() for each in load_file(out / "model.safetensors").values())


def test_a_run_goes_on_with_the_same_numbers_without_its_model(tmp_path: Path) -> None:
    corpus, recipe = write_corpus(tmp_path / "corpus.jsonl"), write_recipe(tmp_path / "small.toml")
    model = write_llama(tmp_path / "model")
    begin = (corpus, "--recipe", recipe, "--init", model)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    # Nothing is there to be resumed yet: the run begins with the model.
    for arguments in ((*begin, "--out", whole, "--resume"), (*begin, "--out", parts, "--until", 5)):
        done = train(*arguments)
        assert done.returncode == 0, done.stderr
    again = train("--out", parts, "--resume", "--until", 7, "--init", model)
    assert again.returncode == 0, again.stderr
    assert f"going on after 5 steps; the run began with {model}" in again.stderr
    model.rename(tmp_path / "gone")
    done = train("--out", parts, "--resume", "--recipe", recipe)
    assert done.returncode == 0, done.stderr
    assert losses(parts) == pytest.approx(losses(whole), abs=1e-6)
    assert log_lines(parts, "valid") == log_lines(whole, "valid")
    assert [line["step"] for line in log_lines(parts, "valid")] == [0, 4, 8, 12]
    one, other = (load_file(out / "model.safetensors") for out in (whole, parts))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert read_config(parts) == read_config(whole)
    assert log_lines(parts, "run")[0]["init"] == str(model)
    done = train("--out", parts, "--export", tmp_path / "model")
    assert done.returncode == 0, done.stderr
    assert read_config(tmp_path / "model") == read_config(whole)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--resume", "--init", "stories"], "this run began with random weights, not with stories"),
        (["--init", "stories", "--recipe", "smoke"], "holds a run already"),
    ],
)
def test_a_run_that_goes_on_takes_no_other_model(finished: Any, arguments: list[str], said: str) -> None:
    done = train(finished.corpus, "--out", finished.out, *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_shape_describes_a_whole_model(tmp_path: Path) -> None:
    for folder in (resolve("stories"), write_llama(tmp_path / "llama"), write_gpt2(tmp_path / "gpt2")):
        config = read_config(folder)
        made = model_config(shape_of(config), config.vocab_size, 0)
        assert replace(made, bos_token_id=config.bos_token_id, eos_token_ids=config.eos_token_ids) == replace(
            config, dtype="float32"
        )
    shape = Shape(heads=4, kv_heads=2, rope_theta=77.0, norm_eps=1e-3)
    assert shape_of(model_config(shape, shape.vocab_size, 0)) == shape


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"family": "qwen2"}, "the model's family is qwen2"),
        ({"tied": False}, "tied is False, where llmcli trains with True"),
        ({"qkv_bias": True}, "qkv_bias is True"),
        ({"head_dim": 32}, "head_dim is 32, where llmcli trains with 64"),
        ({"activation": "gelu"}, "activation is gelu, where llmcli trains with silu"),
        ({"rope": {FULL: RopeConfig(64, kind="llama3", factor=8.0)}}, "rope is llama3, where llmcli trains with def"),
        ({"attention_scale": (1.0,) * 6}, "attention_scale is given, where llmcli trains with none"),
    ],
)
def test_what_no_recipe_describes_is_refused_by_name(changes: dict[str, Any], said: str) -> None:
    config: ModelConfig = read_config(resolve("stories"))
    with pytest.raises(UsageError, match=said) as caught:
        shape_of(replace(config, **changes))
    assert "two families, llama and gpt2" in caught.value.remedy


def test_a_head_of_its_own_is_found_in_the_weights(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", tie_word_embeddings=False)
    config = json.loads((folder / "config.json").read_text()) | {"tie_word_embeddings": True}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match="tied is False"):
        find_origin(str(folder))


def test_the_ends_of_both_files_are_kept(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", generation={"eos_token_id": [258, 99_999]})
    assert find_origin(str(folder)).ends == (EOS, 258)


def test_where_texts_begin_is_taken_along_with_the_tokenizer(tmp_path: Path) -> None:
    source, out = write_model(tmp_path / "model"), tmp_path / "out"
    (source / "tokenizer_config.json").unlink()
    (source / "chat_template.jinja").write_text("{{ messages }}")
    assert Tokenizer.from_folder(source).bos_id == BOS
    take_tokenizer(source, out)
    assert Tokenizer.from_folder(out).bos_id == BOS
    assert Tokenizer.from_folder(out).chat_template == "{{ messages }}"
