"""The causal language model, in the order of the computation: embedding, blocks, norm, lm_head."""

import math
from typing import cast

import torch
from torch import Tensor, nn

from llmcli.model.batch_cache import BatchCache, RowsStep
from llmcli.model.blocked_cache import LongCache
from llmcli.model.cache import KVCache, LayerStore, Store
from llmcli.model.config import ModelConfig
from llmcli.model.forms import Float16
from llmcli.model.layers import Attention, Embedding, FeedForward, Identity, make_norm
from llmcli.model.linear import Linear, Part
from llmcli.model.positions import deciding_length, paired, rotation, row_rotations
from llmcli.model.processor import fast_bags, fast_bfloat16, tiles
from llmcli.model.tap import Tap
from llmcli.model.traced import TracedSteps

Rope = tuple[Tensor, Tensor]


class Block(Part):
    """Self-attention and a feed-forward network, each with its norms and its residual connection."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.parallel = config.parallel_residual
        before, after = config.norm_placement != "post", config.norm_placement != "pre"
        self.attention_norm = make_norm(config) if before else Identity()
        self.attention = Attention(config, layer)
        self.attention_post_norm = make_norm(config) if after else Identity()
        self.ffn_norm = make_norm(config) if before else Identity()
        self.ffn = FeedForward(config, layer)
        self.ffn_post_norm = make_norm(config) if after else Identity()

    def forward(
        self,
        x: Tensor,
        rope: Rope | None,
        visible: Tensor | None,
        cache: LayerStore | None,
        tap: Tap | None,
        last_only: bool = False,
    ) -> Tensor:
        """x (batch, queries, hidden), or (batch, hidden), one query each -> the same; (batch, 1, hidden) with
        `last_only`."""
        normed = self._tapped(tap, "attention_norm", self.attention_norm(x))
        attended = self.attention_post_norm(self.attention(normed, rope, visible, cache, tap, last_only))
        attended = self._tapped(tap, "attention_out", attended)
        x = x[:, -1:] if last_only else x
        if self.parallel:
            x = x + attended + self._feed_forward(x, tap)
        else:
            x = x + attended
            x = x + self._feed_forward(x, tap)
        return self._tapped(tap, "block", x)

    def _feed_forward(self, x: Tensor, tap: Tap | None) -> Tensor:
        normed = self._tapped(tap, "ffn_norm", self.ffn_norm(x))
        return self._tapped(tap, "ffn_out", self.ffn_post_norm(self.ffn(normed, tap)))

    def _tapped(self, tap: Tap | None, point: str, value: Tensor) -> Tensor:
        return value if tap is None else tap(point, self.layer, value)


class CausalLM(Part):
    """Token ids -> logits for the next token, for every family that `ModelConfig` can describe."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = Embedding(config.vocab_size, config.hidden_size)
        if config.learned_positions:
            self.positions = Embedding(config.context_length, config.hidden_size)
        self.blocks = nn.ModuleList(Block(config, i) for i in range(config.num_layers))
        self.norm = make_norm(config)
        self.lm_head = Linear(config.hidden_size, config.vocab_size, config.lm_head_bias)
        self.kv_dtype: torch.dtype | None = None
        """That of the keys and values in new caches; None: the one that is fastest to read."""
        self.narrow: list[Float16] = []
        """The matrices that one row is multiplied by in float16."""
        self.traced = TracedSteps(self)
        if config.tied:
            self.tie()

    def new_cache(self) -> KVCache:
        """A KV cache for one text, empty. With AMX, reading keys in bfloat16 takes half the time of a long text's
        attention; elsewhere bags in float16 do (`model.bags`). Not where matrices are in float16: that keeps 11 bits of
        an activation, where bfloat16 keeps 8, and the default must not overflow."""
        half = None if self.narrow else self._half()
        if tiles() or not self._in_bags():
            return KVCache(self.config, self.kv_dtype or (half if tiles() else None))
        return LongCache(self.config, self.kv_dtype, self.kv_dtype or (torch.float16 if half else torch.float32))

    def _in_bags(self) -> bool:
        """Whether attention to a long text can be computed as embedding bags."""
        plain = not self.config.slides and not self.config.attention_softcap
        on_cpu = cast(Tensor, self.norm.weight).is_cpu
        return plain and self.kv_dtype != torch.bfloat16 and on_cpu and fast_bags()

    def new_rows(self, count: int) -> BatchCache:
        """A KV cache for so many texts that are decoded together, empty. Their keys are most of what a step reads after
        the weights."""
        return BatchCache(self.config, count, self.kv_dtype or self._half())

    def _half(self) -> torch.dtype | None:
        """bfloat16 where activations are rounded to 16 bits or fewer anyway and products in it are fast."""
        rounded = cast(Block, self.blocks[0]).attention.o.rounds and not self.config.attention_softcap
        return torch.bfloat16 if rounded and fast_bfloat16() else None

    def tie(self) -> None:
        """lm_head reads the embedding table itself."""
        self.lm_head.weight = self.embedding.weight

    def must_recompute(self, old_length: int, new_length: int) -> bool:
        """Whether a KV cache of `old_length` tokens cannot be continued to `new_length`.

        longrope turns all keys by other angles past its original length: the caller then clears the cache and runs
        all `new_length` ids again. It happens once, when the length is crossed.
        """
        ropes = self.config.rope.values()
        return any(r.kind == "longrope" and 0 < old_length <= r.original_length < new_length for r in ropes)

    def same_angles(self, length: int, other: int) -> bool:
        """Whether a key is rotated alike in texts of both lengths. Where the scaling depends on the length (dynamic,
        longrope), it is not, and tokens that could be fed together must be fed one by one."""
        return all(deciding_length(r, length) == deciding_length(r, other) for r in self.config.rope.values())

    def forward(
        self,
        ids: Tensor,
        cache: Store | None = None,
        *,
        positions: Tensor | None = None,
        visible: Tensor | None = None,
        tap: Tap | None = None,
        last_only: bool = False,
    ) -> Tensor:
        """ids (batch, queries) int64 -> logits (batch, queries, vocab) float32; (batch, 1, vocab) with `last_only`: the
        last layer then computes no more than the keys and values of the other tokens, unless a tap wants them.

        With a cache the ids continue what it holds. `positions` (queries) or (batch, queries) int64 replaces the
        count from the cache's length on; with two axes each row is a text of its own. `visible` (batch, 1, queries,
        keys) narrows the causal rule, as `Attention` says.
        """
        start = cache.length if cache is not None else 0
        plain = tap is None and (isinstance(cache, RowsStep) or (positions is None and visible is None))
        logits = self.traced(ids, cache, last_only) if plain else None
        if logits is None:
            x = self.hidden_states(ids, cache, positions=positions, visible=visible, tap=tap, last_only=last_only)
            logits = self.logits(x)
        if not self._overflowed(logits):
            return logits
        self.traced.forget()
        for form in self.narrow:
            form.wide = True
        if isinstance(cache, KVCache):
            cache.crop(start)
        elif cache is not None:
            cache.length = start  # the rows of a batch write where they did
        return self.forward(ids, cache, positions=positions, visible=visible, tap=tap, last_only=last_only)

    def _overflowed(self, logits: Tensor) -> bool:
        """Whether a product in float16 went past what float16 can hold; see `forms.Float16`."""
        return bool(self.narrow) and not self.narrow[0].wide and not math.isfinite(float(logits.sum()))

    def hidden_states(
        self,
        ids: Tensor,
        cache: Store | None = None,
        *,
        positions: Tensor | None = None,
        visible: Tensor | None = None,
        tap: Tap | None = None,
        last_only: bool = False,
    ) -> Tensor:
        """What lm_head reads: (batch, queries, hidden), after the final norm; (batch, 1, hidden) with `last_only`.
        Arguments as in `forward`."""
        start = cache.length if cache is not None else 0
        end = start + ids.shape[1] if positions is None else int(positions.max()) + 1
        if positions is None:
            positions = torch.arange(start, end, device=ids.device)
        x = self._embed(ids, positions)
        x = x if tap is None else tap("embedding", -1, x)
        if positions.dim() == 2:
            ropes = {kind: paired(*row_rotations(rope, positions)) for kind, rope in self.config.rope.items()}
        else:
            ropes = {kind: paired(*rotation(rope, positions, end)) for kind, rope in self.config.rope.items()}
        layers = [None] * len(self.blocks) if cache is None else cache.layers
        several = ids.shape[1] > 1
        alone = last_only and tap is None and several
        matrix = tap is None and not several  # without the axis of the queries: 1 to 2 % of a step are its views
        x = x.squeeze(1) if matrix else x
        for i, (block, layer) in enumerate(zip(self.blocks, layers, strict=True)):
            rope = ropes[self.config.layer_type(i)] if self.config.rotates(i) else None
            x = block(x, rope, visible, layer, tap, alone and i == self.config.num_layers - 1)
        if cache is not None:
            cache.length += ids.shape[1]
        x = self.norm(x)
        x = x.unsqueeze(1) if matrix else x
        x = x if tap is None else tap("final_norm", self.config.num_layers, x)
        # A copy of the last row: a product copies its weights where one row has the strides of many.
        return x[:, [-1]] if last_only and x.shape[1] > 1 else x

    def _embed(self, ids: Tensor, positions: Tensor) -> Tensor:
        dtype = self.norm.weight.dtype  # of all that is added up; the tables may be stored in a smaller one
        x: Tensor = self.embedding(ids).to(dtype)
        if self.config.embedding_scale != 1.0:
            x = x * torch.tensor(self.config.embedding_scale, dtype=x.dtype, device=x.device)
        return x + self.positions(positions).to(dtype) if self.config.learned_positions else x

    def logits(self, hidden: Tensor) -> Tensor:
        """Final hidden states (..., hidden) -> logits (..., vocab) float32, soft-capped where the family does so."""
        logits: Tensor = self.lm_head(hidden).float()
        cap = self.config.final_softcap
        return cap * torch.tanh(logits / cap) if cap else logits
