"""The published greedy ids of two real checkpoints; the built-in models beside `transformers`."""

import json
from pathlib import Path

import pytest
import torch

from llmcli.model.checkpoint import load_model
from llmcli.resolve import BUILTIN, builtin_names

from .test_parity import greedy


@torch.inference_mode()
def test_stories260k(shared: Path) -> None:
    folder = shared / "models" / "stories260K"
    golden = json.loads((folder / "golden.json").read_text())
    prompt, wanted = golden["prompt_ids"], golden["greedy_ids"]
    assert greedy(load_model(folder), prompt, len(wanted) - len(prompt)) == wanted


@torch.inference_mode()
def test_tiny_random_gpt2(shared: Path) -> None:
    folder = shared / "models" / "tiny-random-gpt2"
    golden = json.loads((folder / "golden.json").read_text())
    model = load_model(folder)
    for wanted in golden["greedy_ids"]:
        prompt = wanted[: golden["prompt_len"]]
        assert greedy(model, prompt, len(wanted) - len(prompt)) == wanted


@pytest.mark.parametrize("name", builtin_names())
@torch.inference_mode()
def test_built_in_models(name: str) -> None:
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    theirs = AutoModelForCausalLM.from_pretrained(BUILTIN / name, dtype=torch.float32)
    prompt = PreTrainedTokenizerFast.from_pretrained(BUILTIN / name).encode("Once upon a time")
    wanted = theirs.generate(torch.tensor([prompt]), max_new_tokens=64, min_new_tokens=64, do_sample=False)[0].tolist()
    assert len(wanted) == len(prompt) + 64
    assert greedy(load_model(BUILTIN / name), prompt, 64) == wanted
