"""Functions whose numbers, too, are computed anew in each run of a traced step (`model.traced`)."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

import torch

P = ParamSpec("P")
R = TypeVar("R")


def scripted(function: Callable[P, R]) -> Callable[P, R]:
    """The function itself; where a step is traced, one that TorchScript compiles from its source. A trace keeps what is
    done to tensors, but takes a number that came out of one for a constant."""
    return cast(Callable[P, R], torch.jit.script_if_tracing(function))  # type: ignore[no-untyped-call]
