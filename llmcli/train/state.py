"""A run's checkpoint: one safetensors file with weights, optimizer state and step, whole or not there at all."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from llmcli.errors import CheckpointError, UsageError
from llmcli.model.export import save_tensors
from llmcli.model.transformer import CausalLM

NAME = "checkpoint.safetensors"


def save_state(path: Path, model: CausalLM, optimizers: Sequence[torch.optim.Optimizer], facts: dict[str, Any]) -> None:
    """Whole, or the old one stays as it was: through a full disk or a kill. Raises `LlmcliError`."""
    tensors = {f"model.{name}": p.detach().contiguous() for name, p in model.named_parameters()}
    tensors |= {name: value.contiguous() for name, value in _optimizer_tensors(optimizers).items()}
    for left in path.parent.glob(f".{path.name}.*.part"):
        left.unlink()  # by a process that was killed while it saved: a run has its folder to itself
    remedy = "make room, then go on with --resume from the last checkpoint"
    save_tensors(tensors, path, {"facts": json.dumps(facts)}, remedy=remedy)


def read_facts(path: Path) -> dict[str, Any]:
    """What was saved beside the tensors: `step`, and in newer files `recipe` and `corpus`. Raises CheckpointError."""
    try:
        with safe_open(path, framework="pt") as file:
            facts: dict[str, Any] = json.loads(file.metadata()["facts"])
            facts["step"] = int(facts["step"])
    except Exception as error:
        raise CheckpointError(f"cannot read the checkpoint {path}: {error}", "remove it to start anew") from error
    return facts


def load_state(path: Path, model: CausalLM, optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, Any]:
    """Fills model and optimizers (none: the weights alone); returns the facts that were saved with them.

    Raises CheckpointError, or UsageError where the recipe describes another model than the checkpoint's.
    """
    facts = read_facts(path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:
        raise CheckpointError(f"cannot read the checkpoint {path}: {error}", "remove it to start anew") from error
    _check_shapes(path, model, tensors)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[f"model.{name}"])
    for k, optimizer in enumerate(optimizers):
        state = optimizer.state_dict()
        prefix = f"optimizer.{k}."
        entries: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith(prefix):
                index, key = name[len(prefix) :].split(".", 1)
                entries.setdefault(int(index), {})[key] = tensor
        if facts["step"] and len(entries) != sum(len(group["params"]) for group in state["param_groups"]):
            raise UsageError(f"{path} was written under another optimizer", "resume with the recipe it began with")
        state["state"] = entries
        optimizer.load_state_dict(state)
    return facts


def _check_shapes(path: Path, model: CausalLM, tensors: dict[str, Tensor]) -> None:
    ours = {f"model.{name}": tuple(p.shape) for name, p in model.named_parameters()}
    theirs = {name: tuple(tensor.shape) for name, tensor in tensors.items() if name.startswith("model.")}
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            raise UsageError(
                f"{path} holds another model: {name} is {theirs.get(name)}, the recipe asks for {ours.get(name)}",
                "resume with the recipe it began with, or give another --out",
            )


def _optimizer_tensors(optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, Tensor]:
    return {
        f"optimizer.{k}.{index}.{key}": value
        for k, optimizer in enumerate(optimizers)
        for index, entry in optimizer.state_dict()["state"].items()
        for key, value in entry.items()
    }
