"""Ids from ids: prefill once, then one decode step a token. Nothing here knows text.

A `Sequence` decides, from the logits at its end, which token comes next and whether it is the last. How the logits are
computed (alone, in a batch, several drafted positions at once) is the affair of whoever drives it; `generate` is the
plain way. Every token is drawn with the random number of its own position, so all ways give the same ids.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from collections.abc import Sequence as PythonSequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from llmcli import interrupts
from llmcli.errors import UsageError
from llmcli.model.cache import KVCache
from llmcli.model.tap import Tap
from llmcli.model.transformer import CausalLM
from llmcli.results import FinishReason
from llmcli.sampling import CHANCES, NO_RULES, Place, Sampler, TokenRules, Uniforms
from llmcli.sampling_params import SamplingParams

# Sees what a token is about to be drawn from: the sampler, the logits (vocab), the place, the random number (None for
# greedy).
Watch = Callable[[Sampler, Tensor, Place, float | None], None]


class Chosen(Protocol):
    """A token, its probability in what it was taken from, and in the model's own distribution (natural logarithm)."""

    @property
    def id(self) -> int: ...

    @property
    def prob(self) -> float: ...

    @property
    def logprob(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Drawn:
    """One new token, and why it is the last one where it is; then `score` may rank the whole among others."""

    choice: Chosen
    finish_reason: FinishReason | None
    score: float | None = None


@dataclass(slots=True)
class Drafts:
    """How many tokens were guessed ahead of their draw, and how many of those were then drawn."""

    drafted: int = 0
    accepted: int = 0


class Sequence:
    """A text in the making: the ids so far, their random numbers, and when it ends.

    `context` is how many tokens, prompt included, may stand in it. Ends are looked for in this order: an id of
    `eos_ids`, a text that the constraint of `rules` calls complete, `max_tokens`, the context. `seed` is needed unless
    the parameters are greedy. `rules` are what the parameters say in texts, as ids. `watch` is called before every
    draw.
    """

    def __init__(
        self,
        prompt_ids: Iterable[int],
        params: SamplingParams,
        *,
        seed: int | None,
        eos_ids: Collection[int],
        context: int,
        rules: TokenRules = NO_RULES,
        watch: Watch | None = None,
    ) -> None:
        self.ids = list(prompt_ids)
        self.prompt_length = len(self.ids)
        self._params = params
        self._sampler = Sampler(params, rules)
        if seed is None and not params.greedy:
            raise ValueError("a sequence that is drawn at random needs a seed")
        self._uniforms = None if seed is None else Uniforms(seed)
        self._chances = Uniforms(seed, CHANCES) if seed is not None and params.xtc_probability else None
        self._watch = watch
        self._eos_ids = frozenset() if params.ignore_eos else frozenset(eos_ids)
        self._context = context
        self._constraint = rules.constraint
        self.finish_reason = self._full(self.ids)
        self.drafts: Drafts | None = None
        """What was guessed ahead; None where nobody guesses."""
        self.reused: int | None = None
        """How many of the prompt's tokens had their keys and values from a file."""

    def advance(self, logits: Tensor) -> Drawn:
        """Draws the token that follows the ids so far and takes it in. logits (vocab)."""
        interrupts.check()
        position = len(self.ids) - self.prompt_length
        uniform, chance = self._numbers(position)
        if self._watch is not None:
            self._watch(self._sampler, logits, Place(self.ids, position, chance, self._sampler.mu), uniform)
        choice = self._sampler.choose(logits, self.ids, uniform or 0.0, new=position, chance=chance)
        self.ids.append(choice.id)
        self.finish_reason = self.ending(self.ids)
        return Drawn(choice, self.finish_reason)

    def _numbers(self, position: int) -> tuple[float | None, float]:
        """The random numbers of a new token: for the draw (None for greedy), and for filters that act by chance."""
        uniform = None if self._uniforms is None or self._params.greedy else self._uniforms[position]
        return uniform, 0.0 if self._chances is None else self._chances[position]

    def guess(self, logits: Tensor, ids: list[int]) -> int:
        """What `advance` would draw from these logits were `ids` the text so far; nothing is taken in. logits (vocab).
        Raises as `advance` does."""
        position = len(ids) - self.prompt_length
        uniform, chance = self._numbers(position)
        held = self._sampler.mu
        try:
            return self._sampler.choose(logits, ids, uniform or 0.0, new=position, chance=chance).id
        finally:
            self._sampler.mu = held

    def ends_with(self, id: int) -> bool:
        """Whether an id ends the text."""
        return id in self._eos_ids

    @property
    def room(self) -> int:
        """How many tokens may still come."""
        return min(self._params.max_tokens - len(self.ids) + self.prompt_length, self._context - len(self.ids))

    def end(self, reason: FinishReason) -> None:
        """Ends it here, for a reason that ids alone do not tell."""
        self.finish_reason = reason

    def ending(self, ids: list[int]) -> FinishReason | None:
        """Why a text of these ids, a prompt's and at least one more, ends with the last; None where it goes on."""
        if ids[-1] in self._eos_ids:
            return "eos"
        full, held = self._full(ids), self._constraint
        if held is not None and (held.complete if full else held.closed)(ids, len(ids) - self.prompt_length):
            return "complete"
        return full

    def filtered(self, logprobs: Tensor, ids: list[int]) -> Tensor:
        """Log-probabilities (vocab) of what may follow `ids`, as the filters leave them: -inf for what they forbid.
        Raises as `advance` does."""
        return self._sampler.filtered(logprobs, ids, new=len(ids) - self.prompt_length)

    @property
    def end_count(self) -> int:
        """How many ids end the text."""
        return len(self._eos_ids)

    def _full(self, ids: list[int]) -> FinishReason | None:
        if len(ids) - self.prompt_length >= self._params.max_tokens:
            return "length"
        return "context" if len(ids) >= self._context else None


@torch.inference_mode()
def prefill(model: CausalLM, cache: KVCache, ids: list[int], tap: Tap | None = None) -> Tensor:
    """Feeds the ids that the cache does not hold yet; logits (vocab) float32 of the last one alone."""
    device = next(model.parameters()).device
    new = torch.tensor([ids[cache.length :]], dtype=torch.int64, device=device)
    return model(new, cache, tap=tap, last_only=True)[0, -1]  # type: ignore[no-any-return]


def decode_step(model: CausalLM, cache: KVCache, ids: list[int], tap: Tap | None = None) -> Tensor:
    """Feeds the last of `ids`, after the others; logits (vocab) float32. Where the angles of all earlier keys change
    with the length (longrope), the cache is computed again."""
    if model.must_recompute(cache.length, len(ids)):
        cache.clear()
    return prefill(model, cache, ids, tap)


def generate(
    model: CausalLM, sequence: Sequence, cache: KVCache | None = None, tap: Tap | None = None
) -> Iterator[Drawn]:
    """The new tokens of a sequence, one by one. After the last one nothing more is computed.

    A cache may hold the keys and values of the first ids; `tap` sees every forward pass. Raises `UsageError` for ids
    that the model does not have.
    """
    check_ids(sequence.ids, model.config.vocab_size)
    if sequence.finish_reason is not None:
        return
    cache = model.new_cache() if cache is None else cache
    logits = prefill(model, cache, sequence.ids, tap)
    while True:
        drawn = sequence.advance(logits)
        yield drawn
        if drawn.finish_reason is not None:
            return
        logits = decode_step(model, cache, sequence.ids, tap)


def check_ids(ids: PythonSequence[int], vocab_size: int) -> None:
    """Raises `UsageError` for no ids at all, and for one that the model has no embedding for."""
    if not ids:
        raise UsageError("there are no token ids to start from", "give at least one, such as the beginning-of-text id")
    for id in ids:
        if not 0 <= id < vocab_size:
            raise UsageError(
                f"token id {id} is outside the model's vocabulary of {vocab_size} ids",
                "use ids, or the tokenizer, that belong to this model",
            )
