"""Attention over given queries, keys and values: step by step for the views, and by the fastest way for each case.

On a CPU, PyTorch's own kernel is best for few queries, unless the text is long (`model.bags`). For many it takes as
long in bfloat16 as in float32: 512 queries against as many keys, 12 heads of 64 channels, 2 threads: 5.8 milliseconds,
and 2.9 in blocks of products in bfloat16.
With the gradient, 16 rows of 256 tokens, 6 heads on 2, 1 thread: 86 milliseconds and 38. That is an AMD EPYC (Zen 4).
With AMX, 2 cores of an Intel Xeon (Sapphire Rapids), the kernel takes 2.3 milliseconds in bfloat16 and 4.6 in float32,
and blocks 3.7 (2,048 queries, 9 heads on 3: 14, 34 and 29); with the gradient, as above, 75 and blocks 42.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from llmcli.model.cast import as_dtype
from llmcli.model.processor import fast_bfloat16, tiles
from llmcli.model.scripted import scripted

_BLOCK = 128
"""Queries of a block in bfloat16: few enough that keys behind them are left out, enough for a product to be fast."""


def read_as(kept: Tensor, queries: int, dtype: torch.dtype, *, rounded: bool) -> torch.dtype:
    """What attention reads keys as, given as a cache has `kept` them: off the CPU in the hidden states' `dtype`.

    On a CPU in float32, even keys of 16 bits. One query against 1,024 keys, 12 heads of 64 channels, 2 threads,
    microseconds: float32 96, bfloat16 1,120, float16 1,910; 9 heads on 3: 75, 105 and 820. From main memory, 12 layers
    in turn, float32 takes 238, and 16-bit keys read as float32 take 210: half the memory, hardly faster. That is an AMD
    EPYC (Zen 4). On an Intel Xeon with AMX, 12 layers in turn against 900 keys: float32 253, bfloat16 136 (9 heads on
    3: 165 and 105; against 50 keys 21 and 32). So where activations are `rounded` to 16 bits or fewer anyway, keys in
    bfloat16 are read as they are with AMX, and by one query of several texts wherever products in it are fast, see
    `_one_each`. Not of one text: oneDNN makes a kernel for each length, which takes 1.4 to 1.9 milliseconds.
    """
    if kept.device.type != "cpu":
        return dtype
    if not rounded or kept.dtype != torch.bfloat16:
        return torch.float32
    products = fast_bfloat16() and bool(queries == 1) and bool(kept.shape[0] > 1)
    return torch.bfloat16 if products or tiles() else torch.float32


def attention_scores(q: Tensor, k: Tensor, scale: float, softcap: float) -> Tensor:
    """QK^T * scale, soft-capped: what enters the softmax before the mask.

    q (batch, heads, queries, d), k (batch, heads, keys, d) -> (batch, heads, queries, keys).
    """
    scores = (q @ k.transpose(-1, -2)) * scale
    return softcap * torch.tanh(scores / softcap) if softcap else scores


def attention_weights(scores: Tensor, mask: Tensor) -> Tensor:
    """Softmax over each query's row after the mask; where `mask` is False the weight is exactly 0."""
    return scores.masked_fill(~mask, float("-inf")).softmax(dim=-1)


def causal_mask(queries: int, keys: int, window: int | None, device: torch.device) -> Tensor | None:
    """(queries, keys) bool, True where a query may look: at itself and before, at most `window` keys in all.

    The last query stands at the last key. None where a kernel's own rule says the same: one query that sees every
    key, or as many queries as keys and no window in the way.
    """
    reach = keys if window is None else window
    if keys <= reach and queries in (1, keys):
        return None
    mask = torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)
    return mask.triu(keys - queries - reach + 1) if reach < keys else mask


def full_mask(mask: Tensor | None, q: Tensor, k: Tensor) -> Tensor:
    """A mask as bool, with the one that `causal_mask` leaves to the kernel written out."""
    if mask is not None:
        return mask == 0 if mask.is_floating_point() else mask
    queries, keys = q.shape[2], k.shape[2]
    return torch.ones(queries, keys, dtype=torch.bool, device=q.device).tril(keys - queries)


def attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *, scale: float, softcap: float, rounded: bool
) -> Tensor:
    """softmax(QK^T * scale) V under the mask: bool, True where a query may look, or float32, added to the scores (0 or
    -inf); None: the causal rule alone, as `causal_mask` says.

    q (batch, heads, queries, d); k, v (batch, kv_heads, keys, d), a kv head for each group of heads -> (batch, heads,
    queries, d), in bfloat16 perhaps where the model's activations are `rounded` to 16 bits or fewer anyway, or the
    matrix products of a training step are.
    """
    queries = q.shape[2]
    if softcap:
        return _softcapped(q, k, v, mask, scale, softcap)
    if mask is None and queries >= _BLOCK and q.device.type == "cpu" and (rounded or _autocast()) and fast_bfloat16():
        if torch.is_grad_enabled() or not tiles():
            return _blocks(q, k, v, scale)
        q, k, v = q.bfloat16(), k.bfloat16(), v.bfloat16()
    if queries == 1 and q.device.type == "cpu" and _slow_for_one(q, k):
        return _one_each(q, k, v, None if mask is None else added_mask(mask), scale)
    mask = as_dtype(mask, q.dtype) if mask is not None and mask.is_floating_point() else mask
    if queries == 1 and q.device.type == "cpu" and _faster_as_rows(q, k):
        return _as_rows(q, k, v, mask, scale)
    grouped = bool(q.shape[1] != k.shape[1])  # where a step is traced, sizes and what they give are tensors
    causal = bool(mask is None and queries > 1)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, scale=scale, enable_gqa=grouped)


def _slow_for_one(q: Tensor, k: Tensor) -> bool:
    """Whether PyTorch's own kernel is slow for one query of each text: in batches, and in bfloat16 without AMX. With it
    a batch whose heads are not grouped is read faster by that kernel: 32 texts of 230 tokens, 12 heads, 2 cores of an
    Intel Xeon (Sapphire Rapids), a layer of 12 in turn, milliseconds: 2.5, and 3.5 by products."""
    if q.dtype == torch.bfloat16 and tiles():
        return bool(q.shape[0] > 1) and bool(q.shape[1] != k.shape[1])
    return q.dtype == torch.bfloat16 or (q.dtype == torch.float32 and bool(q.shape[0] > 1))


def _faster_as_rows(q: Tensor, k: Tensor) -> bool:
    """Whether one query's heads are computed faster as the queries of one head for each group of them: with AMX. On an
    AMD EPYC (Zen 4) they are shared out among threads worse, before reading keys once pays for it: 2 threads, against
    200 keys of 64 channels, float32, microseconds without and with: 9 heads on 3 25 and 38, 32 on 8 63 and 66, 14 on 2
    28 and 31; against 900 76 and 103, 212 and 201, 78 and 75."""
    group = int(q.shape[1]) // int(k.shape[1])
    return tiles() and group > (1 if q.dtype == torch.float32 else 3)


@scripted
def _as_rows(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """PyTorch's own kernel, which reads the keys of a group once for each head: here once for all of them. 2 cores of
    an Intel Xeon (Sapphire Rapids), 900 keys of 64 channels, float32, microseconds without and with: 9 heads on 3 127
    and 96, 32 on 8 485 and 317, 14 on 2 171 and 87; against 50 keys 15 and 17, 36 and 31, 27 and 25."""
    rows = q.reshape(q.shape[0], k.shape[1], -1, q.shape[3])
    return F.scaled_dot_product_attention(rows, k, v, mask, scale=scale).view(q.shape)


def added_mask(mask: Tensor) -> Tensor:
    """A mask as it is added to scores, which takes a third of the time that filling does, here and in `_blocks`."""
    return mask if mask.is_floating_point() else torch.where(mask, 0.0, float("-inf"))


def _blocks(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """As many queries as keys, causal, in bfloat16: blocks of queries against the keys up to each block's end. The
    heads of a group are rows of one product."""
    batch, heads, queries, width = q.shape
    group = heads // k.shape[1]
    q = (q * scale).bfloat16()
    k, v = k.bfloat16().flatten(0, 1), v.bfloat16().flatten(0, 1)
    ahead = torch.full((_BLOCK, _BLOCK), float("-inf"), dtype=q.dtype).triu(1)
    out = []
    for start in range(0, queries, _BLOCK):
        end = min(start + _BLOCK, queries)
        size = end - start
        rows = q[:, :, start:end].reshape(len(k), group * size, width)
        scores = torch.bmm(rows, k[:, :end].transpose(1, 2))
        scores.view(len(k), group, size, end)[..., start:].add_(ahead[:size, :size])
        out.append(torch.bmm(scores.softmax(-1), v[:, :end]).view(batch, heads, size, width))
    return torch.cat(out, dim=2)


@scripted
def _one_each(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """One query of each text in a batch: the heads of a group are rows of one product. Where the texts' keys follow
    one another in memory, it is read twice as fast as by PyTorch's own kernel: 32 texts of 51 tokens, 12 heads, 2
    threads, a layer of 12 in turn: 0.53 milliseconds in float32, 0.33 in bfloat16; of 230 tokens: 2.2 and 1.4."""
    batch, _, _, width = q.shape
    rows = (q * scale).reshape(batch * k.shape[1], -1, width)
    scores = torch.bmm(rows, k.flatten(0, 1).transpose(1, 2))
    if mask is not None:
        torch.unflatten(scores, 0, [batch, -1]).add_(mask)
    return torch.bmm(scores.softmax(-1), v.flatten(0, 1)).view(q.shape)


def _softcapped(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, softcap: float) -> Tensor:
    batch, heads, queries, width = q.shape
    # The query heads of one kv head as rows of one product, so that no key is copied for each of them.
    rows = q.reshape(batch, k.shape[1], -1, width)
    scores = attention_scores(rows, k, scale, softcap).view(batch, heads, queries, -1)
    weights = attention_weights(scores, full_mask(mask, q, k))
    return (weights.view(batch, k.shape[1], -1, k.shape[2]) @ v).view(batch, heads, queries, width)


def _autocast() -> bool:
    return torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
