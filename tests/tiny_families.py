"""Tiny random checkpoints of every family as pipelines, beside the models of `transformers` that they came from."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from model.conftest import make_reference
from model.variants import GPT2, VARIANTS
from tiny import VOCAB, write_tokenizer

from llmcli.pipeline import Pipeline

# One of each family, and those whose positions or windows differ.
EVERY = (
    "gpt2",
    "gpt_neox",
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "phi3",
    "gemma2",
    "gemma3",
    "olmo2",
    "smollm3",
)


class Pair(NamedTuple):
    pipeline: Pipeline
    reference: Any
    folder: Path


_folders: list[TemporaryDirectory[str]] = []


@cache
def pair(name: str) -> Pair:
    """A variant of `model.variants`; or `gpt2-bytes`, a GPT-2 whose tokens are bytes and which adds none to a text."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    _folders.append(TemporaryDirectory())
    folder = Path(_folders[-1].name)
    kind, keys = ("gpt2", GPT2 | {"vocab_size": VOCAB}) if name == "gpt2-bytes" else VARIANTS[name]
    reference = make_reference(kind, keys)
    reference.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    if name == "gpt2-bytes":
        write_tokenizer(folder, bos=False)
    return Pair(Pipeline.load(folder, device="cpu"), reference, folder)


def some_ids(length: int, seed: int = 0) -> list[int]:
    """Random ids of the tiny vocabularies."""
    return torch.randint(3, 101, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


@torch.inference_mode()
def reference_logits(name: str, ids: list[int]) -> torch.Tensor:
    """(tokens, vocab) of the reference."""
    return pair(name).reference(torch.tensor([ids])).logits[0].double()
