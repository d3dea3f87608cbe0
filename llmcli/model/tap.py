"""Taps: the one way to see, or to change, what happens inside a forward pass.

The model calls a tap at named points. A tap that is not there costs one comparison; a tap that wants nothing of a
layer leaves that layer on its fast path.
"""

from collections.abc import Collection
from typing import Protocol

from torch import Tensor

# The points, in the order of the computation. Shapes: b batch, n queries, m keys, h heads, g kv heads, d head_dim.
POINTS = (
    "embedding",  # (b, n, hidden)     hidden states that enter block 0 (layer -1)
    "attention_norm",  # (b, n, hidden)     what the attention reads
    "query",  # (b, h, n, d)       before the rotation
    "key",  # (b, g, n, d)
    "value",  # (b, g, n, d)
    "rotated_query",  # (b, h, n, d)       after the rotation (the same where nothing rotates)
    "rotated_key",  # (b, g, n, d)
    "scores",  # (b, heads, n, m)   scaled, soft-capped, before the mask; of the heads asked for
    "weights",  # (b, heads, n, m)   after mask and softmax; of the heads asked for
    "heads",  # (b, h, n, d)       weighted sums of the values, before the output projection
    "attention_out",  # (b, n, hidden)     what the attention adds to the residual
    "ffn_norm",  # (b, n, hidden)     what the feed-forward network reads
    "ffn_hidden",  # (b, n, intermediate) after the activation (and the gate)
    "ffn_out",  # (b, n, hidden)     what the feed-forward network adds to the residual
    "block",  # (b, n, hidden)     hidden states that leave the block
    "final_norm",  # (b, n, hidden)     what lm_head reads (layer = number of layers)
)


class Tap(Protocol):
    """Called at each point with its layer; the tensor that it returns goes on."""

    def __call__(self, point: str, layer: int, value: Tensor) -> Tensor: ...

    def heads(self, layer: int) -> Collection[int] | None:
        """The query heads of this layer whose `scores` and `weights` are wanted; None or empty: none."""
