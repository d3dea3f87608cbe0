"""The KV cache at work: how many bytes it takes, how much time it saves, and that it changes nothing."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from llmcli.errors import ContextLengthError, UsageError
from llmcli.generation import decode_step, prefill
from llmcli.inspect.model_tree import cache_bytes
from llmcli.inspect.running import ShownToken, batch_of, fitting_ids, shown_token, shown_tokens
from llmcli.model.cache import KVCache, kv_dtype_name

if TYPE_CHECKING:
    from llmcli.pipeline import Pipeline, Prompt

TOLERANCE = 1e-4


@dataclass(frozen=True)
class CacheStep:
    """One new token.

    length          tokens of the text that the cache holds when it is computed
    predicted       bytes of keys and values that it needs, by the model's shape alone
    allocated       bytes that the cache has taken, grown ahead of need
    cached_ms       to compute it with the cache: the whole prompt for the first one, then one token
    uncached_ms     to compute it from all ids anew
    token           the most probable one with the cache
    uncached_id     the most probable one without
    difference      largest between the logits of both ways
    """

    length: int
    predicted: int
    allocated: int
    cached_ms: float
    uncached_ms: float
    token: ShownToken
    uncached_id: int
    difference: float
    excused: bool
    """The ids differ, but only because two logits lie closer together than the ways of computing them do."""


@dataclass(frozen=True)
class CacheReport:
    """Both ways side by side, step by step, and the prompt in one pass beside token by token.

    kv_dtype              the number format that keys and values are kept in at the end
    bytes_per_token       of keys and values then, before any sliding window is full
    full_context          bytes predicted for the whole context
    same_ids              greedy generation gives the same ids with and without the cache
    prefill_difference    largest between the logits of the prompt computed in one pass and token by token
    scale                 max(1, the largest logit), which the tolerance of 1e-4 is relative to
    """

    prompt: list[ShownToken]
    steps: list[CacheStep]
    kv_dtype: str
    bytes_per_token: int
    full_context: int
    context_length: int
    same_ids: bool
    largest_difference: float
    prefill_difference: float
    prefill_ms: float
    one_by_one_ms: float
    scale: float

    @property
    def cached_ms(self) -> float | None:
        """Milliseconds a token with the cache, after the first one; None where there is no other."""
        return _mean([step.cached_ms for step in self.steps[1:]])

    @property
    def uncached_ms(self) -> float | None:
        """Milliseconds a token without, after the first one; None where there is no other."""
        return _mean([step.uncached_ms for step in self.steps[1:]])

    @property
    def prefill_equal(self) -> bool:
        return self.prefill_difference <= TOLERANCE * self.scale


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def cache_report(pipeline: "Pipeline", text: "Prompt", *, max_tokens: int = 32) -> CacheReport:
    """Generates `max_tokens` greedily with a KV cache, and computes each step a second time without.

    Raises `ContextLengthError` where the text and the new tokens do not fit the context, `UsageError` for fewer than
    one new token.
    """
    if max_tokens < 1:
        raise UsageError(f"--max-tokens is {max_tokens}", "give 1 or more")
    ids = fitting_ids(pipeline, text)
    config, context = pipeline.model.config, pipeline.context_length
    if len(ids) + max_tokens - 1 > context:
        raise ContextLengthError(
            f"{len(ids)} tokens of text and {max_tokens} new ones do not fit the context length of {context}",
            f"shorten the text, or generate at most {context + 1 - len(ids)}",
        )
    _parallel(pipeline, ids)  # the first pass of a process also sets up memory and threads
    parallel, prefill_ms = _timed(lambda: _parallel(pipeline, ids))
    by_token, one_by_one_ms = _timed(lambda: _one_by_one(pipeline, ids))
    scale = max(1.0, float(parallel.abs().max()))
    steps, cache = _steps(pipeline, ids, max_tokens, scale)
    kept_in, at_last = (_kept_as(pipeline, cache, length) for length in (len(ids) + max_tokens - 1, context))
    return CacheReport(
        prompt=shown_tokens(pipeline, ids),
        steps=steps,
        kv_dtype=kv_dtype_name(kept_in),
        bytes_per_token=cache_bytes(config, 1, kept_in.itemsize),
        full_context=cache_bytes(config, context, at_last.itemsize),
        context_length=context,
        same_ids=all(step.token.id == step.uncached_id or step.excused for step in steps),
        largest_difference=max(step.difference for step in steps),
        prefill_difference=float((parallel - by_token).abs().max()),
        prefill_ms=prefill_ms,
        one_by_one_ms=one_by_one_ms,
        scale=scale,
    )


def _kept_as(pipeline: "Pipeline", cache: KVCache, length: int) -> torch.dtype:
    return cache.kept_as(length, cast(Tensor, pipeline.model.norm.weight))


def _steps(pipeline: "Pipeline", ids: list[int], count: int, scale: float) -> tuple[list[CacheStep], KVCache]:
    """Both ways go on with the cached way's ids: up to the first difference that is what each alone would do, and
    after it every later step is still compared on equal ground. With the steps comes the cache that was filled."""
    model, ids = pipeline.model, list(ids)
    cache = model.new_cache()
    steps: list[CacheStep] = []
    for _ in range(count):
        advance = decode_step if steps else prefill
        cached, cached_ms = _timed(lambda step=advance: step(model, cache, ids))  # type: ignore[misc]
        whole, uncached_ms = _timed(lambda: _uncached(pipeline, ids))
        best, other = int(cached.argmax()), int(whole.argmax())
        gap = float(max((side[best] - side[other]).abs() for side in (cached, whole)))
        difference = float((cached - whole).abs().max())
        steps.append(
            CacheStep(
                length=len(ids),
                predicted=cache_bytes(model.config, len(ids), _kept_as(pipeline, cache, len(ids)).itemsize),
                allocated=cache.allocated_bytes,
                cached_ms=cached_ms,
                uncached_ms=uncached_ms,
                token=shown_token(pipeline, best),
                uncached_id=other,
                difference=difference,
                excused=best != other and max(gap, difference) <= TOLERANCE * scale,
            )
        )
        ids.append(best)
    return steps, cache


@torch.inference_mode()
def _uncached(pipeline: "Pipeline", ids: list[int]) -> Tensor:
    logits: Tensor = pipeline.model(batch_of(pipeline, ids), last_only=True)[0, -1]
    return logits.float().cpu()


@torch.inference_mode()
def _parallel(pipeline: "Pipeline", ids: list[int]) -> Tensor:
    logits: Tensor = pipeline.model(batch_of(pipeline, ids))[0]
    return logits.float().cpu()


@torch.inference_mode()
def _one_by_one(pipeline: "Pipeline", ids: list[int]) -> Tensor:
    """The logits after each token of the text, each computed by a decode step of its own. (tokens, vocab)"""
    cache = pipeline.model.new_cache()
    rows = [decode_step(pipeline.model, cache, ids[: at + 1]) for at in range(len(ids))]
    return torch.stack(rows).float().cpu()


def _timed(work: Callable[[], Tensor]) -> tuple[Tensor, float]:
    """What `work` gives, on the CPU, and the milliseconds that it took."""
    start = time.perf_counter()
    result = work().float().cpu()
    return result, (time.perf_counter() - start) * 1000
