"""What this machine's processor is good at, where that decides how something is computed."""

from functools import cache

import torch


@cache
def fast_bfloat16() -> bool:
    """Whether there are instructions for sums of products of bfloat16 (AVX-512 BF16)."""
    return torch.cpu._is_avx512_bf16_supported()


@cache
def fast_float16() -> bool:
    """Whether oneDNN computes in float16 and converts from it (AVX-512 FP16)."""
    operator = getattr(torch.ops.mkldnn, "_is_mkldnn_fp16_supported", None)
    return operator is not None and bool(operator())


@cache
def tiles() -> bool:
    """Whether there are instructions for products of whole tiles of bfloat16 (AMX)."""
    return torch.cpu._is_amx_tile_supported()


@cache
def fast_bags() -> bool:
    """Whether there is fbgemm's kernel for embedding bags."""
    return "fbgemm" in torch.backends.quantized.supported_engines
