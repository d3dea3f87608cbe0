"""What each sampling filter leaves of the next-token distribution, by the very filters that a draw uses."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llmcli.errors import LlmcliError
from llmcli.sampling import CHANCES, NO_RULES, Place, Sampler, TokenRules, Uniforms, draw
from llmcli.sampling_params import SamplingParams


@dataclass(frozen=True)
class Stage:
    """The distribution after one filter.

    value       what the filter was set to; None before the first one, and where no number says it
    candidates  tokens that can still be drawn
    mass        the share that they hold of the distribution before anything was cut, all that moves logits applied
    model_mass  the share that they hold of the model's own distribution
    entropy     of the distribution over them, bits
    """

    name: str
    value: float | None
    candidates: int
    mass: float
    model_mass: float
    entropy: float


@dataclass(frozen=True)
class Candidate:
    """A token that can be drawn: its probability in the model's own distribution, and in the one drawn from."""

    id: int
    model_prob: float
    prob: float


@dataclass(frozen=True)
class Funnel:
    """The stages in order, the candidates left, most probable first, and the token drawn.

    `seed` and `uniform`, the random number of this position, are None for greedy, which uses none.
    """

    stages: tuple[Stage, ...]
    candidates: tuple[Candidate, ...]
    drawn: Candidate
    seed: int | None
    uniform: float | None


def funnel(
    logits: Tensor,
    ids: Sequence[int],
    params: SamplingParams,
    *,
    seed: int | None,
    position: int = 0,
    limit: int = 10,
    rules: TokenRules = NO_RULES,
) -> Funnel:
    """Runs the filters one by one and draws. logits (vocab) float32 that follow `ids`; `position` counts the tokens
    drawn before in this text; `limit` candidates are told at most. `seed` is needed unless the parameters are greedy.

    Raises `LlmcliError` where logits are not finite, or rules forbid every token.
    """
    if params.greedy:
        seed = None
    uniform = None if seed is None else Uniforms(seed)[position]
    chance = 0.0 if seed is None else Uniforms(seed, CHANCES)[position]
    sampler = Sampler(params, rules)
    place = Place(ids, position, chance, sampler.mu)
    return follow(sampler, logits, place, uniform, seed=seed, limit=limit)


def follow(
    sampler: Sampler, logits: Tensor, place: Place, uniform: float | None, *, seed: int | None, limit: int
) -> Funnel:
    """What a sampler's filters do with the logits at one place of a text, and what it draws with `uniform` then; the
    sampler itself is left as it is. logits (vocab) float32. Raises as `funnel` does."""
    logits = logits.detach().float().cpu()
    own = logits.double().softmax(0)
    if not bool(torch.isfinite(own).all()):
        raise LlmcliError("the model computed logits that are not finite numbers", "its weights are damaged")
    stages = [_stage("model", None, logits, own, own)]
    moved, whole, left = own, logits, logits
    for each in sampler.filters:
        left = each(left, place)
        if each.moves:
            whole = each(whole, place)  # as if nothing had been cut before
            moved = whole.double().softmax(0)
        stages.append(_stage(each.name, each.value, left, moved, own))
    if sampler.params.greedy:
        chosen = int(left.numpy().argmax())
        best = torch.full_like(left, -math.inf)
        best[chosen] = left[chosen]
        left = best
        stages.append(_stage("greedy", None, left, moved, own))
    else:
        chosen, _ = draw(left, uniform or 0.0)
    final = left.double().softmax(0)
    count = min(limit, stages[-1].candidates)
    order = sorted(final.topk(count).indices.tolist(), key=lambda i: (-float(final[i]), i))
    candidates = tuple(Candidate(i, float(own[i]), float(final[i])) for i in order)
    drawn = Candidate(chosen, float(own[chosen]), float(final[chosen]))
    return Funnel(tuple(stages), candidates, drawn, seed, uniform)


def _stage(name: str, value: float | None, left: Tensor, moved: Tensor, own: Tensor) -> Stage:
    kept = torch.isfinite(left)
    return Stage(
        name,
        None if value is None else float(value),
        int(kept.sum()),
        min(1.0, float(moved[kept].sum())),
        min(1.0, float(own[kept].sum())),
        entropy_bits(left),
    )


def entropy_bits(logits: Tensor) -> float:
    """-sum p log2 p of softmax(logits), where p log p is 0 for a candidate that is cut."""
    p = logits.double().softmax(-1)
    return float(-torch.xlogy(p, p).sum() / math.log(2)) + 0.0
