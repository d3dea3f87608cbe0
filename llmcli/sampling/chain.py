"""Which filters run, and in which order."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from llmcli.sampling.cuts import min_p, mirostat, temperature, top_k, top_n_sigma, top_p, typical, xtc
from llmcli.sampling.penalties import dry, frequency_penalty, presence_penalty, repetition_penalty
from llmcli.sampling.rules import NO_RULES, TokenRules, forbid, keep, logit_bias, repeated_ngram_ends
from llmcli.sampling_params import SAMPLERS, SamplingParams


@dataclass(slots=True)
class Place:
    """Where a token is to be drawn: what filters may look at beside the logits.

    ids     the text so far, prompt included
    new     how many of them were generated
    chance  this position's random number for filters that act by chance, in [0, 1)
    mu      the bound of mirostat, bits
    """

    ids: Sequence[int]
    new: int = 0
    chance: float = 0.0
    mu: float = 0.0


@dataclass(frozen=True, slots=True)
class Filter:
    """One step from logits to logits.

    value       what it is set to; None where no number says it
    moves       it moves logits and cuts none
    reads_text  it takes ids for indices into the logits, so all candidates must be in their places
    """

    name: str
    value: float | None
    apply: Callable[[Tensor, Place], Tensor]
    moves: bool = False
    reads_text: bool = False

    def __call__(self, logits: Tensor, place: Place) -> Tensor:
        return self.apply(logits, place)


def filters(params: SamplingParams, rules: TokenRules = NO_RULES) -> list[Filter]:
    """The filters that `params` and `rules` ask for, in order; none of them changes nothing. Greedy runs those that
    can change which token is the most probable one."""
    made = _of_the_text(params, rules) | ({} if params.greedy else _of_the_logits(params))
    names = params.samplers or tuple(SAMPLERS)
    neutral = {name: value for name, (_, value) in SAMPLERS.items()}
    chain = [made[name] for name in names if name in made and made[name].value != neutral[name]]
    if params.mirostat and not params.greedy:
        chain.append(Filter("mirostat", params.mirostat_tau, lambda x, at: mirostat(x, at.mu)))
    return _of_tokens(params, rules) + chain


def _of_tokens(params: SamplingParams, rules: TokenRules) -> list[Filter]:
    """What holds whatever the order of the others is: it decides what can be drawn at all."""
    chain: list[Filter] = []
    constraint = rules.constraint
    if constraint is not None:
        # First, so that what the others forbid comes out of what the text may be.
        chain.append(
            Filter(
                (params.constrained_by or "constraint").replace("_", "-"),
                None,
                lambda x, at: keep(x, constraint.allowed(at.ids, at.new)),
                reads_text=True,
            )
        )
    if rules.bias:
        chain.append(Filter("logit-bias", None, lambda x, _: logit_bias(x, rules.bias), moves=True, reads_text=True))
    if rules.bans:
        chain.append(
            Filter(
                "ban",
                None,
                lambda x, at: forbid(x, set().union(*(each.completing(at.ids) for each in rules.bans))),
                reads_text=True,
            )
        )
    size = params.no_repeat_ngram
    if size:
        chain.append(
            Filter("no-repeat-ngram", size, lambda x, at: forbid(x, repeated_ngram_ends(at.ids, size)), reads_text=True)
        )
    if params.min_tokens and rules.ends:
        chain.append(
            Filter(
                "min-tokens",
                params.min_tokens,
                lambda x, at: forbid(x, rules.ends) if at.new < params.min_tokens else x,
                reads_text=True,
            )
        )
    return chain


def _of_the_text(params: SamplingParams, rules: TokenRules) -> dict[str, Filter]:
    def looks_back(name: str, value: float, penalty: Callable[[Tensor, Sequence[int], float], Tensor]) -> Filter:
        window = params.penalty_window
        return Filter(name, value, lambda x, at: penalty(x, _last(at.ids, window), value), moves=True, reads_text=True)

    def no_repetition(logits: Tensor, at: Place) -> Tensor:
        ids = _last(at.ids, params.dry_penalty_last_n)
        return dry(logits, ids, params.dry_multiplier, params.dry_base, params.dry_allowed_length, rules.breakers)

    made = (
        looks_back("repetition-penalty", params.repetition_penalty, repetition_penalty),
        looks_back("frequency-penalty", params.frequency_penalty, frequency_penalty),
        looks_back("presence-penalty", params.presence_penalty, presence_penalty),
        Filter("dry", params.dry_multiplier, no_repetition, moves=True, reads_text=True),
    )
    return {each.name: each for each in made}


def _of_the_logits(params: SamplingParams) -> dict[str, Filter]:
    often, threshold = params.xtc_probability, params.xtc_threshold
    made = (
        Filter("temperature", params.temperature, lambda x, _: temperature(x, params.temperature), moves=True),
        Filter("top-n-sigma", params.top_n_sigma, lambda x, _: top_n_sigma(x, params.top_n_sigma)),
        Filter("top-k", params.top_k, lambda x, _: top_k(x, params.top_k)),
        Filter("typical", params.typical_p, lambda x, _: typical(x, params.typical_p)),
        Filter("top-p", params.top_p, lambda x, _: top_p(x, params.top_p)),
        Filter("min-p", params.min_p, lambda x, _: min_p(x, params.min_p)),
        Filter("xtc", often, lambda x, at: xtc(x, often, threshold, at.chance)),
    )
    return {each.name: each for each in made}


def _last(ids: Sequence[int], window: int) -> Sequence[int]:
    """The last `window` of them; -1: all."""
    return ids if window < 0 else ids[max(0, len(ids) - window) :]
