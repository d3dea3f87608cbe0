"""Ids from ids: prefill once, then one decode step a token. Nothing here knows text.

A `Sequence` decides, from the logits at its end, which token comes next and whether it is the last. How the logits are
computed (alone, in a batch, several drafted positions at once) is the affair of whoever drives it; `generate` is the
plain way. Every token is drawn with the random number of its own position, so all ways give the same ids.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from collections.abc import Sequence as PythonSequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llmcli.errors import UsageError
from llmcli.model.cache import KVCache
from llmcli.model.tap import Tap
from llmcli.model.transformer import CausalLM
from llmcli.results import FinishReason
from llmcli.sampling import CHANCES, NO_RULES, Choice, Place, Sampler, TokenRules, Uniforms
from llmcli.sampling_params import SamplingParams

# Sees what a token is about to be drawn from: the sampler, the logits (vocab), the place, the random number (None for
# greedy).
Watch = Callable[[Sampler, Tensor, Place, float | None], None]


@dataclass(frozen=True, slots=True)
class Drawn:
    """One new token, and why it is the last one where it is."""

    choice: Choice
    finish_reason: FinishReason | None


class Sequence:
    """A text in the making: the ids so far, their random numbers, and when it ends.

    `context` is how many tokens, prompt included, may stand in it. Ends are looked for in this order: an id of
    `eos_ids`, `max_tokens`, the context. `seed` is needed unless the parameters are greedy. `rules` are what the
    parameters say in texts, as ids. `watch` is called before every draw.
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
        self.finish_reason = self._full()

    def advance(self, logits: Tensor) -> Drawn:
        """Draws the token that follows the ids so far and takes it in. logits (vocab)."""
        position = len(self.ids) - self.prompt_length
        uniform = None if self._uniforms is None or self._params.greedy else self._uniforms[position]
        chance = 0.0 if self._chances is None else self._chances[position]
        if self._watch is not None:
            self._watch(self._sampler, logits, Place(self.ids, position, chance, self._sampler.mu), uniform)
        choice = self._sampler.choose(logits, self.ids, uniform or 0.0, new=position, chance=chance)
        self.ids.append(choice.id)
        self.finish_reason = "eos" if choice.id in self._eos_ids else self._full()
        return Drawn(choice, self.finish_reason)

    def _full(self) -> FinishReason | None:
        if len(self.ids) - self.prompt_length >= self._params.max_tokens:
            return "length"
        return "context" if len(self.ids) >= self._context else None


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
    cache = KVCache(model.config) if cache is None else cache
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
