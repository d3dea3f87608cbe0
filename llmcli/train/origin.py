"""The model that a run begins with, where it does not begin with weights drawn at random."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from llmcli.errors import UsageError
from llmcli.generation_config import read_generation_config
from llmcli.model.checkpoint import Source, load_model
from llmcli.model.header import quantized_dtype
from llmcli.model.transformer import CausalLM
from llmcli.resolve import resolve
from llmcli.tokenizer import Tokenizer
from llmcli.train.recipe import Shape, build_recipe
from llmcli.train.shape import shape_of


@dataclass(frozen=True)
class Origin:
    """What a run begins with, or began with. Without a name: weights drawn from the recipe's seed."""

    name: str = ""
    """As it was given."""
    ends: tuple[int, ...] = ()
    """The ids that ended the model's texts. They go on doing so, beside the one that begins each document."""
    shape: Shape | None = None
    folder: Path | None = None
    """Where weights and tokenizer lie; None for a run that goes on, which has them in its checkpoint."""


def find_origin(name: str) -> Origin:
    """The model of that name, looked at but not loaded.

    Raises ModelError where it cannot be found or read, UsageError for one that is not trained here.
    """
    folder = resolve(name)
    small = quantized_dtype(folder)
    if small is not None:
        raise UsageError(f"{name} is stored in {small}", "begin with the model that llmcli quantize made it from")
    config = Source(folder).config
    shape = shape_of(config)
    known = Tokenizer.from_folder(folder).vocab_size
    if known != config.vocab_size:
        raise UsageError(
            f"the vocab_size of {name} is {config.vocab_size}, but its tokenizer has {known} ids",
            "begin with a model whose ids are all its tokenizer's",
        )
    _, asked, _ = read_generation_config(folder)
    ends = sorted({*config.eos_token_ids, *asked})
    return Origin(name, tuple(each for each in ends if 0 <= each < known), shape, folder)


def stored_origin(facts: Mapping[str, Any]) -> Origin:
    """What a run began with, as its checkpoint says."""
    if not facts.get("init"):
        return Origin()
    return Origin(facts["init"], tuple(facts.get("ends", ())), build_recipe(facts["recipe"]).shape)


@torch.no_grad()
def load_weights(model: CausalLM, folder: Path) -> None:
    """Fills the model with the weights of the folder's, which has its shape. Raises ModelError."""
    weights = dict(load_model(folder).named_parameters())
    for name, parameter in model.named_parameters():
        parameter.copy_(weights[name])
