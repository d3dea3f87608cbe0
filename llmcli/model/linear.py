"""`Linear`: a weight matrix and what multiplies it, behind one call. `Part`: a module called without detours."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llmcli.model.activations import ACTIVATIONS
from llmcli.model.forms import Form


class Part(nn.Module):
    """A module without hooks (taps see what happens inside), found and called as a plain object: in a model of 30
    layers the detours of `nn.Module` cost a millisecond a token."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.forward(*args, **kwargs)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if isinstance(value, nn.Module):
            self.__dict__[name] = value


class Linear(Part):
    """y = x W^T + b, W (out_features, in_features), without initialisation: the weights come from a checkpoint.

    The weights are parameters, or held in a `Form`: then `weight` and `bias` are None.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.weight: nn.Parameter | None = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.empty(out_features)) if bias else None
        self.form: Form | None = None

    def hold(self, form: Form | None) -> None:
        """Multiplies by `form` from now on, and lets go of the parameters; without a form it is empty."""
        self.form = form
        self.weight = None
        self.bias = None

    @property
    def rounds(self) -> bool:
        """Whether the form rounds activations to 16 bits or fewer."""
        return self.form is not None and self.form.rounds

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features); a form may answer in 16 bits."""
        form = self.form
        if form is not None:
            return form(x)
        assert self.weight is not None
        return F.linear(x, self.weight, self.bias)

    def activated(self, x: Tensor, activation: str) -> Tensor:
        """`forward`, then the activation of that name."""
        form = self.form
        return ACTIVATIONS[activation](self.forward(x)) if form is None else form.activated(x, activation)
