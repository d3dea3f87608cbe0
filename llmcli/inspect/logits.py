"""The next-token distribution, and how well the model predicted every token of a text."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llmcli.inspect.funnel import Candidate, Stage, entropy_bits, funnel
from llmcli.inspect.running import (
    Floats,
    ShownToken,
    each_logits,
    fitting_ids,
    last_logits,
    place,
    shown_token,
    shown_tokens,
)
from llmcli.pipeline import Pipeline, Prompt, fresh_seed
from llmcli.sampling_params import merged


@dataclass(frozen=True)
class Ranked:
    """A token with its place in a distribution: rank 0 is the most probable."""

    token: ShownToken
    rank: int
    prob: float
    logit: float


@dataclass(frozen=True)
class Distribution:
    """What follows the token at `position` of a text, by the model alone.

    top         the most probable tokens
    actual      the text's own next token with its rank; None at its end
    entropy     bits
    logits      all of them, (vocab) float32
    """

    tokens: list[ShownToken]
    position: int
    top: list[Ranked]
    actual: Ranked | None
    entropy: float
    logits: Floats

    @property
    def shown_mass(self) -> float:
        """The probability of all tokens in `top` together."""
        return math.fsum(each.prob for each in self.top)

    @property
    def other_mass(self) -> float:
        """The probability of all other tokens together."""
        return max(0.0, 1.0 - self.shown_mass)

    @property
    def most_entropy(self) -> float:
        """Bits: the entropy if all tokens were alike."""
        return math.log2(len(self.logits))


@dataclass(frozen=True)
class Scored:
    """How a token of the text was predicted from those before it. All None for a first token: nothing predicts it.

    surprisal  -log2 of its probability, bits
    rank       0: it was the most probable
    entropy    of the distribution that it came from, bits
    """

    token: ShownToken
    prob: float | None
    surprisal: float | None
    rank: int | None
    entropy: float | None


@dataclass(frozen=True)
class TextScore:
    """Every token's surprisal, and the sums over those that were predicted.

    perplexity     2 ** (bits / predicted)
    bytes          UTF-8 bytes of the text that the predicted tokens stand for
    bits_per_byte  bits / bytes; None where there are none
    """

    tokens: list[Scored]
    predicted: int
    bits: float
    perplexity: float | None
    bytes: int
    bits_per_byte: float | None

    @property
    def bits_per_token(self) -> float | None:
        """None where no token was predicted."""
        return self.bits / self.predicted if self.predicted else None


@dataclass(frozen=True)
class FunnelToken:
    """A token that can be drawn: its probability in the model's own distribution, and in the one drawn from."""

    token: ShownToken
    model_prob: float
    prob: float


@dataclass(frozen=True)
class TextFunnel:
    """The funnel of what follows a text, its candidates named; fields as in `Funnel`."""

    tokens: list[ShownToken]
    stages: list[Stage]
    candidates: list[FunnelToken]
    drawn: FunnelToken
    seed: int | None
    uniform: float | None


def ranked(pipeline: Pipeline, logits: Tensor, token_id: int) -> Ranked:
    """One token's place in a distribution; equals rank by id."""
    value = logits[token_id]
    rank = int((logits > value).sum()) + int((logits[:token_id] == value).sum())
    prob = float(logits.double().softmax(0)[token_id])
    return Ranked(shown_token(pipeline, token_id), rank, prob, float(value))


def most_probable(pipeline: Pipeline, logits: Tensor, limit: int) -> list[Ranked]:
    """The `limit` most probable tokens, most probable first, equals by id. logits (vocab)."""
    probs = logits.double().softmax(0)
    order = torch.sort(logits, descending=True, stable=True).indices[:limit].tolist()
    return [Ranked(shown_token(pipeline, i), rank, float(probs[i]), float(logits[i])) for rank, i in enumerate(order)]


def distribution(pipeline: Pipeline, text: Prompt, *, position: int = -1, limit: int = 10) -> Distribution:
    """The distribution of what follows one token of a text: the last, unless `position` names another.

    Raises `UsageError` for a position that the text does not have, `ContextLengthError` for a text that is too long.
    """
    ids = fitting_ids(pipeline, text)
    at = place(position, len(ids), "--position")
    logits = last_logits(pipeline, ids[: at + 1])
    follows = ranked(pipeline, logits, ids[at + 1]) if at + 1 < len(ids) else None
    return Distribution(
        tokens=shown_tokens(pipeline, ids),
        position=at,
        top=most_probable(pipeline, logits, limit),
        actual=follows,
        entropy=entropy_bits(logits),
        logits=logits.numpy(),
    )


def text_score(pipeline: Pipeline, text: Prompt) -> TextScore:
    """The surprisal of each token given those before it. Raises `ContextLengthError` for a text that is too long."""
    ids = fitting_ids(pipeline, text)
    scored = [Scored(shown_token(pipeline, ids[0]), None, None, None, None)]
    for row, token_id in zip(each_logits(pipeline, ids), ids[1:], strict=False):
        surprisal = surprisal_bits(row, token_id)
        entry = ranked(pipeline, row, token_id)
        scored.append(Scored(entry.token, entry.prob, surprisal, entry.rank, entropy_bits(row)))
    bits = math.fsum(each.surprisal for each in scored if each.surprisal is not None)
    count = len(scored) - 1
    size = _predicted_bytes(pipeline, text, ids)
    perplexity = _power(bits / count) if count else None
    return TextScore(scored, count, bits, perplexity, size, bits / size if size else None)


def _power(bits: float) -> float | None:
    """2 ** bits; None where no float holds it."""
    return 2.0**bits if bits < 1024 else None


def text_funnel(pipeline: Pipeline, text: Prompt, *, limit: int = 10, **params: Any) -> TextFunnel:
    """What the sampling parameters leave of the distribution after the text, filter by filter, and the draw.

    `params` as for `Pipeline.stream`; without a seed a fresh one is drawn. Raises `UsageError`, `ContextLengthError`.
    """
    chosen = merged(pipeline.defaults, params)
    ids = fitting_ids(pipeline, text)
    seed = None if chosen.greedy else fresh_seed() if chosen.seed is None else chosen.seed
    found = funnel(last_logits(pipeline, ids), ids, chosen, seed=seed, limit=limit, rules=pipeline.rules(chosen))

    def named(each: Candidate) -> FunnelToken:
        return FunnelToken(shown_token(pipeline, each.id), each.model_prob, each.prob)

    return TextFunnel(
        shown_tokens(pipeline, ids),
        list(found.stages),
        [named(each) for each in found.candidates],
        named(found.drawn),
        found.seed,
        found.uniform,
    )


def surprisal_bits(logits: Tensor, token_id: int) -> float:
    """-log2 of the token's probability. logits (vocab)."""
    return -float(logits.double().log_softmax(0)[token_id]) / math.log(2) + 0.0


def divergence(before: Tensor, after: Tensor) -> float:
    """KL(softmax(before) || softmax(after)) in bits. Both (vocab)."""
    p, q = before.double().log_softmax(0), after.double().log_softmax(0)
    return max(0.0, float((p.exp() * (p - q)).sum()) / math.log(2))


def _predicted_bytes(pipeline: Pipeline, text: Prompt, ids: list[int]) -> int:
    """UTF-8 bytes of the text but for those of its first token, which nothing predicts. 0 without a tokenizer."""
    if not pipeline.has_tokenizer:
        return 0
    if isinstance(text, str):
        first = pipeline.tokenizer.tokens(text, special=True)[:1]
        return len(text.encode()) - sum(token.end - token.start for token in first)
    return len(pipeline.decode(ids, skip_special=True).encode()) - len(
        pipeline.decode(ids[:1], skip_special=True).encode()
    )
