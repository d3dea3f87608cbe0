"""Filters that look back at the text: what it holds already becomes less probable."""

import math
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from llmcli.sampling.rules import Breakers

# Taken from a logit, it leaves a finite number of which the exponential is 0.
MOST = 1e30


def repetition_penalty(logits: Tensor, ids: Sequence[int], penalty: float) -> Tensor:
    """Logits of tokens in `ids` divided by `penalty` where positive, multiplied where negative (Keskar et al. 2019,
    CTRL, arXiv:1909.05858, with the sign handled as `transformers` does). logits (vocab), ids are indices into it."""
    seen = torch.tensor(sorted(set(ids)), dtype=torch.int64)
    scores = logits[seen]
    out = logits.clone()
    out[seen] = torch.where(scores > 0, scores / penalty, scores * penalty)
    return out


def frequency_penalty(logits: Tensor, ids: Sequence[int], penalty: float) -> Tensor:
    """Logits less `penalty` times how often the token is in `ids` (the OpenAI API's frequency_penalty, counted over
    prompt and continuation as llama.cpp does). logits (vocab), ids are indices into it."""
    counts = Counter(ids)
    out = logits.clone()
    out[torch.tensor(list(counts), dtype=torch.int64)] -= penalty * torch.tensor(list(counts.values()), dtype=out.dtype)
    return out


def presence_penalty(logits: Tensor, ids: Sequence[int], penalty: float) -> Tensor:
    """Logits less `penalty` for every token that is in `ids`, however often (the OpenAI API's presence_penalty, over
    prompt and continuation as llama.cpp does). logits (vocab), ids are indices into it."""
    out = logits.clone()
    out[torch.tensor(sorted(set(ids)), dtype=torch.int64)] -= penalty
    return out


def dry(
    logits: Tensor, ids: Sequence[int], multiplier: float, base: float, allowed_length: int, breakers: Breakers
) -> Tensor:
    """Logits less multiplier * base ** (n - allowed_length) for a token that would go on with a repetition of n tokens
    (p-e-w 2024, "Don't Repeat Yourself", github.com/oobabooga/text-generation-webui/pull/5677, as llama.cpp has it).

    The last n tokens of `ids` stand earlier in it too, followed by that token; n is the most for which this is so. No
    repetition reaches back over a breaker, and a token that is one by itself costs nothing. Repetitions shorter than
    `allowed_length` cost nothing. logits (vocab), ids are indices into it.
    """
    length = len(ids)
    limit = breakers.since_last(ids)
    if length <= allowed_length or limit < allowed_length:
        return logits
    longest: dict[int, int] = {}
    for back, match in enumerate(_suffix_matches(ids)):
        # The text without its last `back + 1` tokens ends in `match` tokens that end the whole text too.
        repeated, token = min(match, limit), ids[length - 1 - back]
        if repeated >= allowed_length and repeated > longest.get(token, -1) and not breakers.breaks(token):
            longest[token] = repeated
    # As in llama.cpp no power is taken that float32 does not hold.
    powers = math.log(torch.finfo(torch.float32).max) / math.log(base) if base > 1.000001 else math.inf
    out = logits.clone()
    for token, repeated in longest.items():
        out[token] -= min(multiplier * base ** int(min(repeated - allowed_length, powers)), MOST)
    return out


def _suffix_matches(ids: Sequence[int]) -> list[int]:
    """How many tokens the text shares at its end with itself less its last 1, 2, 3 ... tokens: the Z-function of the
    reversed text (Gusfield 1997), in time linear in its length."""
    text = ids[::-1]
    size = len(text)
    z = [0] * size
    left = right = 0
    for i in range(1, size):
        if i < right:
            z[i] = min(right - i, z[i - left])
        while i + z[i] < size and text[z[i]] == text[i + z[i]]:
            z[i] += 1
        if i + z[i] > right:
            left, right = i, i + z[i]
    return z[1:]
