"""The published greedy ids of two real checkpoints."""

import json
from pathlib import Path

import torch

from llmcli.model.checkpoint import load_model

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
