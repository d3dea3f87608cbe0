"""Positions: RoPE's angles for every scaling in use, and the rotation itself.

A head's channels are rotated in pairs by the angle m * theta_i, theta_i = base^(-2i/d) (Su et al. 2021, RoFormer,
https://arxiv.org/abs/2104.09864, eq. 15 and 34). Checkpoints in Hugging Face layout pair channel i with i + d/2.
The scalings change the theta_i so that a model reads texts longer than those that it was trained on.
"""

import math
from functools import lru_cache

import torch
from torch import Tensor

from llmcli.model.cast import as_dtype
from llmcli.model.config import RopeConfig


def base_frequencies(rope: RopeConfig, theta: float | None = None) -> Tensor:
    """theta_i = base^(-2i/d) for i = 0 .. d/2 - 1, radians per position. Returns (dim / 2) float32."""
    exponents = torch.arange(0, rope.dim, 2, dtype=torch.int64).float() / rope.dim
    return 1.0 / ((rope.theta if theta is None else theta) ** exponents)


def frequencies(rope: RopeConfig, length: int) -> tuple[Tensor, float]:
    """The angles per position in force for a text of `length` tokens, and the factor on cos and sin.

    Only `dynamic` and `longrope` depend on the length, and only past the original one.
    Returns ((dim / 2) float32 in radians, attention factor).
    """
    return _frequencies(rope, deciding_length(rope, length))


def deciding_length(rope: RopeConfig, length: int) -> int:
    """What of the length of a text decides its angles: texts for which it is the same have the same angles."""
    if rope.kind == "dynamic":
        return max(length, rope.original_length)
    if rope.kind == "longrope":
        return rope.original_length + (length > rope.original_length)
    return 0


@lru_cache(maxsize=64)
def _frequencies(rope: RopeConfig, length: int) -> tuple[Tensor, float]:
    with torch.inference_mode(False), torch.device("cpu"):
        match rope.kind:
            case "default":
                return base_frequencies(rope), 1.0
            case "linear":
                # Position interpolation: m / factor (Chen et al. 2023, https://arxiv.org/abs/2306.15595, eq. 4).
                return base_frequencies(rope) / rope.factor, 1.0
            case "dynamic":
                return _dynamic(rope, length), 1.0
            case "llama3":
                return _llama3(rope), 1.0
            case "yarn":
                return _yarn(rope), _yarn_attention_factor(rope)
            case "longrope":
                return _longrope(rope, length), _longrope_attention_factor(rope)


def _dynamic(rope: RopeConfig, length: int) -> Tensor:
    """NTK-aware base that grows with the text (Peng et al. 2023, YaRN, https://arxiv.org/abs/2309.00071, section 3.1
    and appendix B.1): base' = base * (factor * length / original - (factor - 1))^(d / (d - 2)).

    Keys keep the rotation of the step that cached them, as in the cached generation of `transformers`.
    """
    stretch = rope.factor * length / rope.original_length - (rope.factor - 1)
    return base_frequencies(rope, rope.theta * stretch ** (rope.dim / (rope.dim - 2)))


def _llama3(rope: RopeConfig) -> Tensor:
    """Llama 3.1: long wavelengths are stretched by `factor`, short ones kept, those between blended
    (https://github.com/meta-llama/llama-models/blob/main/models/llama3/reference_impl/model.py, apply_scaling)."""
    base = base_frequencies(rope)
    turns = rope.original_length * base / (2 * math.pi)  # full rotations within the original length
    kept = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    kept = kept.clamp(0, 1)
    return (1 - kept) * base / rope.factor + kept * base


def _yarn(rope: RopeConfig) -> Tensor:
    """NTK-by-parts (YaRN, https://arxiv.org/abs/2309.00071, section 3.2): channels that turn more than `beta_fast`
    times within the original length keep their angle, those that turn less than `beta_slow` times are stretched by
    `factor`, the ones between are blended along a ramp over the channels."""

    def channel(turns: float) -> float:
        """The channel pair that turns so many times within the original length."""
        return rope.dim * math.log(rope.original_length / (turns * 2 * math.pi)) / (2 * math.log(rope.theta))

    low, high = channel(rope.beta_fast), channel(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rope.dim - 1)
    width = (high - low) or 0.001
    stretched = ((torch.arange(rope.dim // 2, dtype=torch.float32) - low) / width).clamp(0, 1)
    base = base_frequencies(rope)
    return base / rope.factor * stretched + base * (1 - stretched)


def _yarn_attention_factor(rope: RopeConfig) -> float:
    """1 / sqrt(t) = 0.1 ln(factor) + 1 (YaRN, eq. 22), or the ratio of two such, as DeepSeek's `mscale` asks."""

    def mscale(weight: float) -> float:
        return 0.1 * weight * math.log(rope.factor) + 1.0 if rope.factor > 1 else 1.0

    if rope.attention_factor is not None:
        return rope.attention_factor
    if rope.mscale and rope.mscale_all_dim:
        return mscale(rope.mscale) / mscale(rope.mscale_all_dim)
    return mscale(1.0)


def _longrope(rope: RopeConfig, length: int) -> Tensor:
    """Each theta_i divided by a searched factor, one set up to the original length and one past it
    (Ding et al. 2024, LongRoPE, https://arxiv.org/abs/2402.13753)."""
    factors = rope.long_factor if length > rope.original_length else rope.short_factor
    return base_frequencies(rope) / torch.tensor(factors, dtype=torch.float32)


def _longrope_attention_factor(rope: RopeConfig) -> float:
    """sqrt(1 + ln(factor) / ln(original length)), as Phi-3 computes it (https://arxiv.org/abs/2404.14219)."""
    if rope.attention_factor is not None:
        return rope.attention_factor
    if rope.factor <= 1:
        return 1.0
    return math.sqrt(1 + math.log(rope.factor) / math.log(rope.original_length))


def rotation(rope: RopeConfig, positions: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """cos and sin of m * theta_i for each position m.

    positions (..., queries) int64 -> two tensors (..., queries, dim / 2) float32.
    """
    inv_freq, factor = frequencies(rope, length)
    angles = positions[..., None].float() * inv_freq.to(positions.device)
    return angles.cos() * factor, angles.sin() * factor


def row_rotations(rope: RopeConfig, positions: Tensor) -> tuple[Tensor, Tensor]:
    """`rotation` of rows that are texts of their own, each as long as its last position says, with an axis for the
    heads: positions (batch, queries) int64 -> two tensors (batch, 1, queries, dim / 2) float32."""
    if rope.kind in ("dynamic", "longrope"):
        rows = [rotation(rope, row, int(row.max()) + 1) for row in positions]
        cos, sin = (torch.stack(each) for each in zip(*rows, strict=True))
    else:
        cos, sin = rotation(rope, positions, 0)
    return cos[:, None], sin[:, None]


def paired(cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """The tables of `rotation` written out for all channels, as `rotate` wants them: (cos, cos) and (-sin, sin), each
    (..., queries, dim)."""
    return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates the first `dim` channels of x by [[cos, -sin], [sin, cos]], pairing i with i + dim / 2.

    x (batch, heads, queries, head_dim); cos, sin as `paired` gives them, (queries, dim) or (batch, 1, queries, dim).
    Two Hadamard products: x * (cos, cos) + (second half, first half) * (-sin, sin).
    """
    dim = cos.shape[-1]
    if dim < x.shape[-1]:
        return torch.cat((rotate(x[..., :dim], cos, sin), x[..., dim:]), dim=-1)
    return as_dtype(torch.addcmul(x * cos, x.roll(dim // 2, -1), sin), x.dtype)
