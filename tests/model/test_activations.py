"""Activations beside their formulas, computed anew in float64."""

import numpy as np
import pytest
import torch

from llmcli.model.activations import ACTIVATIONS, gelu_tanh

NUMBERS = torch.cat([torch.linspace(-30, 30, 20001), torch.logspace(-30, 18, 500), -torch.logspace(-30, 18, 500)])


def by_formula(x: np.ndarray) -> np.ndarray:
    """0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), by way of exp, so that nothing cancels far below zero."""
    with np.errstate(over="ignore"):
        return x / (1 + np.exp(-2 * np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


@pytest.mark.parametrize("rows", [1, 2, 40])
@torch.inference_mode()
def test_gelu_by_tanh(rows: int) -> None:
    x = NUMBERS.repeat(rows, 1)
    kept = x.clone()
    found = gelu_tanh(x)
    np.testing.assert_allclose(found.numpy(), by_formula(x.double().numpy()), rtol=1e-6, atol=5e-7)
    assert torch.equal(x, kept)


@torch.inference_mode()
def test_gelu_of_many_rows_is_exact_far_below_zero() -> None:
    x = torch.linspace(-5, -2, 1000).repeat(2, 1)
    np.testing.assert_allclose(gelu_tanh(x).numpy(), by_formula(x.double().numpy()), rtol=2e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_gelu_has_a_gradient_and_other_dtypes(dtype: torch.dtype) -> None:
    x = torch.linspace(-3, 3, 64).repeat(2, 1).to(dtype).requires_grad_()
    gelu_tanh(x).sum().backward()
    assert x.grad is not None
    y = torch.linspace(-3, 3, 64, dtype=torch.float64).requires_grad_()
    (y * torch.sigmoid(np.sqrt(8 / np.pi) * (y + 0.044715 * y**3))).sum().backward()
    assert y.grad is not None
    np.testing.assert_allclose(
        x.grad[1].double().numpy(), y.grad.numpy(), atol=0.03 if dtype == torch.bfloat16 else 1e-5
    )
    with torch.inference_mode():
        assert gelu_tanh(x.detach()).dtype == dtype


def test_each_is_computed_of_one_row_as_of_many() -> None:
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        for activation in ACTIVATIONS.values():
            torch.testing.assert_close(activation(x)[3:4], activation(x[3:4]))
