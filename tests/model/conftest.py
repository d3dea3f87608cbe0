"""Tiny random checkpoints of every family, made and saved by `transformers` once a session."""

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch

from llmcli.model.checkpoint import load_model
from llmcli.model.transformer import CausalLM

from .variants import VARIANTS


@dataclass
class Pair:
    """A model as `transformers` made it, and the folder into which it saved it."""

    name: str
    reference: Any
    folder: Path

    def theirs(self, ids: torch.Tensor, **options: Any) -> Any:
        """The reference's forward pass. `dynamic` scaling there keeps the longest length seen until a short text
        comes, so a short one comes first."""
        self.reference(ids[:, :2])
        return self.reference(ids, **options)

    @cached_property
    def ours(self) -> CausalLM:
        return load_model(self.folder)


def make_reference(model_type: str, keys: dict[str, Any]) -> Any:
    """A `transformers` model whose weights are large enough that every part of it shows in the logits."""
    from transformers import AutoConfig, AutoModelForCausalLM

    tokens = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = AutoConfig.for_model(model_type, **copy.deepcopy(keys), **tokens)
    torch.manual_seed(20_240)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.data.add_(torch.randn_like(parameter) * 0.2)
        else:
            parameter.data.copy_(torch.randn_like(parameter) * 1.2 / parameter.shape[-1] ** 0.5)
    model.tie_weights()
    return model


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Pair]:
    """name of a variant -> Pair."""
    made: dict[str, Pair] = {}

    def pair(name: str) -> Pair:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            model = make_reference(*VARIANTS[name])
            model.save_pretrained(folder)
            made[name] = Pair(name, model, folder)
        return made[name]

    return pair


@pytest.fixture(autouse=True)
def quiet_transformers() -> None:
    """transformers logs advice on unusual rope settings and shows progress bars; neither is a warning of ours."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"transformers\..*")


def text(length: int, seed: int = 0, batch: int = 1) -> torch.Tensor:
    """(batch, length) random ids of the tiny vocabularies."""
    return torch.randint(3, 101, (batch, length), generator=torch.Generator().manual_seed(seed))


def assert_close(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float) -> None:
    """Within `tolerance` of max(1, the largest magnitude)."""
    assert ours.shape == theirs.shape
    allowed = tolerance * max(1.0, float(theirs.abs().max()))
    difference = float((ours - theirs).abs().max())
    assert difference <= allowed, f"differs by {difference:.2e}, allowed {allowed:.2e}"
