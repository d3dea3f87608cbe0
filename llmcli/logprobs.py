"""Log-probabilities of a chosen token and of the most probable ones, before and after the filters."""

import math
from collections.abc import Callable

from torch import Tensor

from llmcli.results import TokenLogprob, TokenLogprobs
from llmcli.sampling import Choice, top_k


def token_logprobs(choice: Choice, count: int, bytes_of: Callable[[int], bytes | None]) -> TokenLogprobs:
    """Those of the chosen token, and of the `count` best of each of the two distributions, equals by id."""
    raw, filtered = choice.raw_logprobs(), choice.filtered_logprobs()

    def told(token_id: int) -> TokenLogprob:
        data = bytes_of(token_id)
        return TokenLogprob(
            token_id,
            None if data is None else list(data),
            _finite(float(raw[token_id])),
            _finite(float(filtered[token_id])),
        )

    own = told(choice.id)
    return TokenLogprobs(
        own.id,
        own.bytes,
        own.logprob,
        own.filtered_logprob,
        [told(each) for each in _best(raw, count)],
        [told(each) for each in _best(filtered, count)],
    )


def _best(logprobs: Tensor, count: int) -> list[int]:
    """The ids of the largest, in order; those of probability 0 are never among them."""
    if count == 0:
        return []
    kept = top_k(logprobs, count).isfinite().nonzero()[:, 0]
    order = logprobs[kept].argsort(descending=True, stable=True)
    best: list[int] = kept[order].tolist()
    return best


def _finite(value: float) -> float | None:
    """The number, or None for the logarithm of 0. Adding 0 turns -0.0 into 0.0."""
    return value + 0.0 if math.isfinite(value) else None
