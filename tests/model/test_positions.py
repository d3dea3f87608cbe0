"""RoPE: the rotation's own properties, and the frequencies of every scaling against `transformers` at real sizes."""

from typing import Any

import pytest
import torch

from llmcli.model.config import FULL, RopeConfig
from llmcli.model.families.keys import Keys
from llmcli.model.families.rope import read_rope
from llmcli.model.positions import base_frequencies, frequencies, paired, rotate, rotation

LONG = [1.0 + 0.9 * i for i in range(48)]
SHORT = [1.0 + 0.01 * i for i in range(48)]

# max_position_embeddings, head_dim, rope_theta and rope_scaling of published models
REAL: dict[str, tuple[int, int, float, dict[str, Any]]] = {
    "plain": (4096, 128, 10_000.0, {"rope_type": "default"}),
    "linear": (16_384, 128, 10_000.0, {"rope_type": "linear", "factor": 4.0}),
    "dynamic": (4096, 128, 10_000.0, {"rope_type": "dynamic", "factor": 2.0}),
    "llama-3.1": (
        131_072,
        128,
        500_000.0,
        {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
        | {"original_max_position_embeddings": 8192},
    ),
    "qwen2.5": (32_768, 128, 1e6, {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32_768}),
    "deepseek": (
        163_840,
        64,
        10_000.0,
        {"rope_type": "yarn", "factor": 40.0, "beta_fast": 32, "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 0.707}
        | {"original_max_position_embeddings": 4096},
    ),
    "yarn-exact": (
        65_536,
        64,
        150_000.0,
        {"rope_type": "yarn", "factor": 32.0, "truncate": False, "original_max_position_embeddings": 4096},
    ),
    "phi-3-128k": (
        131_072,
        96,
        10_000.0,
        {"rope_type": "longrope", "short_factor": SHORT, "long_factor": LONG}
        | {"original_max_position_embeddings": 4096},
    ),
}


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("length", [1, 4096, 4097, 100_000])
def test_frequencies_are_those_of_transformers(name: str, length: int) -> None:
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    context, head_dim, theta, scaling = REAL[name]
    sizes = {"max_position_embeddings": context, "head_dim": head_dim, "hidden_size": 4 * head_dim}
    reference = LlamaConfig(num_attention_heads=4, rope_parameters=scaling | {"rope_theta": theta}, **sizes)
    function = ROPE_INIT_FUNCTIONS.get(scaling["rope_type"], LlamaRotaryEmbedding.compute_default_rope_parameters)
    wanted, wanted_factor = function(reference, device="cpu", seq_len=length)
    rope = read_rope(Keys({"rope_theta": theta, "rope_scaling": scaling}), head_dim, context)[FULL]
    found, factor = frequencies(rope, length)
    torch.testing.assert_close(found, wanted, rtol=2e-6, atol=0)
    assert factor == pytest.approx(wanted_factor, rel=1e-12)


def test_theta_i() -> None:
    """theta_i = base^(-2i/d)."""
    expected = [10_000 ** (-2 * i / 8) for i in range(4)]
    assert base_frequencies(RopeConfig(8)).tolist() == pytest.approx(expected, rel=1e-6)


def rotation_matrix(cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """The sparse d x d matrix of [[cos, -sin], [sin, cos]] blocks, channel i paired with i + d/2."""
    half = len(cos)
    matrix = torch.zeros(2 * half, 2 * half)
    for i in range(half):
        matrix[i, i], matrix[i, i + half] = cos[i], -sin[i]
        matrix[i + half, i], matrix[i + half, i + half] = sin[i], cos[i]
    return matrix


def test_the_hadamard_form_is_the_matrix_product() -> None:
    positions = torch.tensor([0, 1, 7, 500])
    cos, sin = rotation(RopeConfig(8), positions, 501)
    x = torch.randn(1, 2, 4, 8, generator=torch.Generator().manual_seed(3))
    turned = rotate(x, *paired(cos, sin))
    for m in range(4):
        torch.testing.assert_close(turned[0, :, m], x[0, :, m] @ rotation_matrix(cos[m], sin[m]).T)
    assert torch.equal(turned[..., 0, :], x[..., 0, :])
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))


def test_scores_depend_on_the_distance_alone_and_other_channels_stay() -> None:
    rope = RopeConfig(6)
    generator = torch.Generator().manual_seed(4)
    q, k = torch.randn(2, 1, 1, 1, 10, generator=generator)

    def score(m: int, n: int) -> torch.Tensor:
        return (rotate(q, *at(m)) * rotate(k, *at(n))).sum()

    def at(m: int) -> tuple[torch.Tensor, torch.Tensor]:
        return paired(*rotation(rope, torch.tensor([m]), 600))

    torch.testing.assert_close(score(3, 1), score(503, 501), atol=1e-4, rtol=0)
    assert abs(score(3, 1) - score(3, 2)) > 1e-3
    assert torch.equal(rotate(q, *at(9))[..., 6:], q[..., 6:])
