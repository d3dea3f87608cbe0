"""Attention weights of a text, or of a generation as it runs: maps of chosen heads, and a summary of every head."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from llmcli.errors import ContextLengthError, UsageError
from llmcli.generation import Sequence as IdSequence
from llmcli.generation import generate as generate_ids
from llmcli.inspect.document import ShownToken
from llmcli.inspect.maps import AttentionTap, Wanted
from llmcli.inspect.patterns import Pattern
from llmcli.inspect.running import Floats, batch_of, fitting_ids, shown_tokens
from llmcli.model.config import ModelConfig
from llmcli.sampling_params import SamplingParams, merged

if TYPE_CHECKING:
    from llmcli.pipeline import Pipeline, Prompt

Mean = Literal["heads", "layers"]

TOLERANCE = 1e-4
"""Largest difference between the maps of a cached generation and of one uncached pass that counts as none."""


@dataclass(frozen=True)
class HeadSummary:
    """One head over the whole text.

    entropy   mean over all queries of the entropy of their weights, bits
    pattern   the pattern that it matches best; None for a text of fewer than 3 tokens
    strength  share of the weights that this pattern explains, 0 to 1
    """

    layer: int
    head: int
    kv_head: int
    entropy: float
    pattern: Pattern | None
    strength: float


@dataclass(frozen=True)
class AttentionMap:
    """One map. layer None: a mean over layers; head None: a mean over heads, and then kv_head is None too.

    weights  (queries, keys) float32; rows sum to 1, what a query may not see is exactly 0
    visible  (queries, keys) bool: what a query may see
    scores   (queries, keys) float32, scaled (and soft-capped), before mask and softmax; None where not asked for
    sink     (queries) float32: the first token's weight, where it was taken out of `weights`; else None
    grouped  whether heads of the model share key/value heads
    """

    layer: int | None
    head: int | None
    kv_head: int | None
    weights: Floats
    visible: NDArray[np.bool_]
    scores: Floats | None = None
    sink: Floats | None = None
    grouped: bool = False

    @property
    def row_sums(self) -> NDArray[np.float64]:
        """(queries): what each row of `weights` adds up to."""
        sums: NDArray[np.float64] = self.weights.sum(axis=1, dtype=np.float64)
        return sums

    @property
    def name(self) -> str:
        """`L3.H5→kv1`; the arrow only where several heads share a key/value head."""
        if self.head is None:
            return f"L{self.layer} mean of heads"
        head = f"H{self.head}→kv{self.kv_head}" if self.grouped else f"H{self.head}"
        return f"{head} mean of layers" if self.layer is None else f"L{self.layer}.{head}"


@dataclass(frozen=True)
class Attention:
    """Attention of one model on one text.

    tokens         all of them; of a generation the last one was drawn and never fed: it has no row and no column
    prompt_length  tokens that were given; the others were generated
    heads          every head of the model, by layer and head
    strengths      pattern -> (layers, heads): how much of every head's weights each pattern explains
    maps           those that were chosen
    seed           of a generation that drew its tokens; else None
    """

    tokens: list[ShownToken]
    prompt_length: int
    heads: list[HeadSummary]
    strengths: dict[Pattern, NDArray[np.float64]]
    maps: list[AttentionMap]
    seed: int | None = None

    @property
    def generated(self) -> bool:
        return len(self.tokens) > self.prompt_length

    @property
    def fed(self) -> list[ShownToken]:
        """The tokens that have a row: all that went into the model."""
        return self.tokens[:-1] if self.generated else self.tokens


def choose_maps(
    config: ModelConfig, layers: Sequence[int] | None, heads: Sequence[int] | None, mean: Mean | None = None
) -> list[Wanted]:
    """The maps that a choice of layers and heads means, None standing for all of them.

    Nothing chosen at all: the mean over heads of the last layer. `mean` makes one map of a layer's heads, or of a
    head's layers.
    """
    if layers is None and heads is None and mean is None:
        layers, mean = [config.num_layers - 1], "heads"
    layers = range(config.num_layers) if layers is None else layers
    heads = range(config.num_heads) if heads is None else heads
    if mean == "heads":
        return [Wanted(layer, None, tuple((layer, head) for head in heads)) for layer in layers]
    if mean == "layers":
        return [Wanted(None, head, tuple((layer, head) for layer in layers)) for head in heads]
    return [Wanted(layer, head, ((layer, head),)) for layer in layers for head in heads]


@torch.inference_mode()
def attention(
    pipeline: "Pipeline",
    text: "Prompt",
    *,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    mean: Mean | None = None,
    scores: bool = False,
    drop_sink: bool = False,
    max_tokens: int = 0,
    **params: Any,
) -> Attention:
    """Attention weights of a text, or with `max_tokens` of its continuation, generated with a KV cache.

    layers, heads: see `choose_maps`. `params` are fields of `SamplingParams`; greedy unless they say otherwise. Raises
    `UsageError`, and `ContextLengthError` for a text that is too long.
    """
    config = pipeline.model.config
    _check("layer", layers, config.num_layers)
    _check("head", heads, config.num_heads)
    ids = fitting_ids(pipeline, text)
    prompt_length = len(ids)
    wanted = choose_maps(config, layers, heads, mean)
    seed: int | None = None
    if max_tokens:
        sampling = merged(pipeline.defaults, {"max_tokens": max_tokens, **(params or {"greedy": True})})
        seed = None if sampling.greedy else _seed(sampling)
        tap = _run_generation(pipeline, ids, wanted, sampling, seed, scores)
        ids = tap.ids
    else:
        tap = AttentionTap(config, ids, wanted, len(ids), keep_scores=scores)
        pipeline.model(batch_of(pipeline, ids), tap=tap, last_only=True)
    fed = len(ids) - 1 if len(ids) > prompt_length else len(ids)
    maps = [_finished(config, tap, i, fed) for i in range(len(wanted))]
    return Attention(
        tokens=shown_tokens(pipeline, ids),
        prompt_length=prompt_length,
        heads=_summaries(config, tap),
        strengths=tap.sums.strengths,
        maps=[without_sink(each) for each in maps] if drop_sink else maps,
        seed=seed,
    )


def _seed(params: SamplingParams) -> int:
    from llmcli.pipeline import fresh_seed

    return fresh_seed() if params.seed is None else params.seed


def _check(what: str, numbers: Sequence[int] | None, count: int) -> None:
    for number in numbers or ():
        if not 0 <= number < count:
            raise UsageError(f"there is no {what} {number}", f"this model has {count}, counted from 0")


def _run_generation(
    pipeline: "Pipeline", ids: list[int], wanted: list[Wanted], params: SamplingParams, seed: int | None, scores: bool
) -> AttentionTap:
    """A real generation, read as it runs; the tap's ids end as those of the whole text."""
    config = pipeline.model.config
    sequence = IdSequence(
        ids,
        params,
        seed=seed,
        eos_ids=pipeline.eos_ids,
        context=pipeline.context_length,
        rules=pipeline.rules(params),
    )
    if sequence.finish_reason is not None:
        raise ContextLengthError(
            f"the prompt of {len(ids)} tokens fills the context of {pipeline.context_length}", "shorten the prompt"
        )
    size = min(len(ids) + params.max_tokens - 1, pipeline.context_length)
    cache = pipeline.model.new_cache()
    tap = AttentionTap(config, sequence.ids, wanted, size, cache, keep_scores=scores)
    for _ in generate_ids(pipeline.model, sequence, cache, tap):
        pass
    return tap


def _finished(config: ModelConfig, tap: AttentionTap, index: int, fed: int) -> AttentionMap:
    kept = tap.kept[index]
    layer, head = kept.wanted.layer, kept.wanted.head
    windows = [config.window(at) for at, _ in kept.wanted.members]
    reach = None if None in windows else max(each for each in windows if each is not None)
    return AttentionMap(
        layer,
        head,
        None if head is None else kv_head(config, head),
        kept.weights[:fed, :fed],
        visible_pairs(fed, reach),
        None if kept.scores is None else kept.scores[:fed, :fed],
        grouped=config.num_kv_heads != config.num_heads,
    )


def kv_head(config: ModelConfig, head: int) -> int:
    """The key/value head that a query head reads."""
    return head // (config.num_heads // config.num_kv_heads)


def visible_pairs(length: int, reach: int | None) -> NDArray[np.bool_]:
    """(queries, keys): a query sees itself and those before it, `reach` in all."""
    mask = np.tri(length, dtype=np.bool_)
    return mask if reach is None else mask & ~np.tri(length, k=-reach, dtype=np.bool_)


def _summaries(config: ModelConfig, tap: AttentionTap) -> list[HeadSummary]:
    entropy, best = tap.sums.entropy, tap.sums.best()
    return [
        HeadSummary(layer, head, kv_head(config, head), float(entropy[layer, head]), *best[layer][head])
        for layer in range(config.num_layers)
        for head in range(config.num_heads)
    ]


def without_sink(given: AttentionMap) -> AttentionMap:
    """The first token's weights moved into `sink`, and what is left of each row divided by its sum.

    A query that looks at the first token alone, as the first one must, keeps its row: there is no rest.
    """
    sink = given.weights[:, 0].copy()
    rest = given.weights.copy()
    rest[:, 0] = 0
    sums = rest.sum(axis=1, keepdims=True)
    alone = sums[:, 0] <= 0
    rest = np.where(alone[:, None], given.weights, rest / np.where(sums > 0, sums, 1))
    return replace(given, weights=rest.astype(np.float32), sink=sink)


def largest_difference(pipeline: "Pipeline", cached: Attention, **chosen: Any) -> float:
    """The largest difference between the weights of a generation and those of one uncached pass over the same tokens.

    `chosen` are the choices of maps with which `attention` gave `cached`.
    """
    again = attention(pipeline, [token.id for token in cached.fed], **chosen)
    pairs = zip(cached.maps, again.maps, strict=True)
    return max((float(np.abs(ours.weights - theirs.weights).max()) for ours, theirs in pairs), default=0.0)


def rank_heads(found: Attention, by: str, limit: int) -> list[tuple[HeadSummary, float]]:
    """Heads by one quality, most of it first: a pattern's strength, or `entropy` in bits."""
    width = max(head.head for head in found.heads) + 1
    values = found.strengths.get(by)  # type: ignore[call-overload]
    scored = [
        (head, head.entropy if values is None else float(values[index // width, index % width]))
        for index, head in enumerate(found.heads)
    ]
    return sorted(scored, key=lambda pair: -pair[1])[:limit]
