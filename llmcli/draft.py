"""Drafting: several tokens are guessed, and one forward pass of the model checks them all.

A pass over a few tokens costs little more than one over a single token, since both read all weights once. So whoever
guesses well is paid for it (Leviathan et al. 2023, arXiv:2211.17192). A guess is right when it is the token that the
sequence itself draws from the model's logits there, with the random number of that place: what is drawn never depends
on what was guessed, so greedy and sampled ids alike are those of `generate`. Nothing here knows text.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from llmcli.generation import Drafts, Drawn, Sequence, check_ids, decode_step, prefill
from llmcli.model.cache import KVCache
from llmcli.model.forms import Form
from llmcli.model.transformer import CausalLM

LONGEST = 8


class Source(Protocol):
    """Where guesses come from."""

    def propose(self, sequence: Sequence, count: int) -> list[int]:
        """At most `count` ids that may follow the sequence."""
        ...


class Lookup:
    """Guesses that a text repeats itself: what followed the last tokens where they stood before follows them again
    (Saxena 2023, prompt lookup decoding, https://github.com/apoorvumang/prompt-lookup-decoding).

    Of the places where the last `SHORTEST` tokens stood, it takes the one that agrees furthest back, the latest of
    equals, and guesses no more tokens than agree there. A row may overlap its repetition, as in "ab ab ab".
    """

    SHORTEST = 3
    _PLACES = 32
    _FURTHEST = 32

    def __init__(self) -> None:
        self._ends: dict[tuple[int, ...], list[int]] = {}
        self._read = self.SHORTEST

    def propose(self, sequence: Sequence, count: int) -> list[int]:
        return self.follow(sequence.ids, count)

    def follow(self, ids: list[int], count: int) -> list[int]:
        """`propose` from ids, which are those of the last call, or begin with them."""
        # Every place but the last, which is the end of `ids` itself.
        for end in range(self._read, len(ids)):
            self._ends.setdefault(tuple(ids[end - self.SHORTEST : end]), []).append(end)
        self._read = max(self._read, len(ids))
        places = self._ends.get(tuple(ids[-self.SHORTEST :]), [])
        if not places:
            return []
        agreeing, start = max((self._agreeing(ids, end), end) for end in places[-self._PLACES :])
        period = len(ids) - start
        return [ids[start + i % period] for i in range(min(count, agreeing))]

    def _agreeing(self, ids: list[int], end: int) -> int:
        """How many tokens before `end` are those at the end of `ids`, in a row."""
        reach = min(end, self._FURTHEST)
        return next((n for n in range(self.SHORTEST, reach) if ids[end - 1 - n] != ids[-1 - n]), reach)


class SmallModel:
    """Guesses what a smaller model of the same vocabulary says, drawn with the sequence's own random numbers: where
    both models agree on the distribution, they agree on the token.

    `vocab_size` is that of the model that checks; either may have ids past those of the tokenizer. After an id that the
    small model does not have, and past its context, it guesses nothing.
    """

    def __init__(self, model: CausalLM, vocab_size: int) -> None:
        self._model = model
        self._vocab_size = vocab_size
        self._cache = model.new_cache()
        self._fed: list[int] = []

    @torch.inference_mode()
    def propose(self, sequence: Sequence, count: int) -> list[int]:
        ids = list(sequence.ids)
        known, config = len(ids), self._model.config
        if max(ids) >= config.vocab_size:
            return []
        self._go_back(ids)
        while len(ids) - known < count and len(ids) <= config.context_length:
            logits = decode_step(self._model, self._cache, ids)
            self._fed = list(ids)
            ids.append(sequence.guess(self._fitted(logits), ids))
            if sequence.ends_with(ids[-1]):
                break
        return ids[known:]

    def _fitted(self, logits: Tensor) -> Tensor:
        """Logits of the small model as those of the large one: ids that it does not have are impossible."""
        return F.pad(logits, (0, self._vocab_size - logits.shape[0]), value=-torch.inf)

    def _go_back(self, ids: list[int]) -> None:
        """Crops the cache to what it shares with `ids`, less the last, which is always fed again."""
        shared = shared_length(self._fed, ids[:-1])
        if self._cache.can_crop(shared):
            self._cache.crop(shared)
        else:
            self._cache.clear()


def pass_cost(model: CausalLM, rows: int) -> float:
    """What a pass over so many tokens costs, in passes over one, as the form of the weights tells."""
    if rows == 1:
        return 1.0
    form = model.lm_head.form
    several, each = Form.several if form is None else form.several
    return several + each * (rows - 1)


class Pace:
    """How many tokens to guess next: more after right guesses, fewer after wrong ones, and none that there is no credit
    for. `cost` tells what a pass over so many tokens costs.

    Wrong guesses are paid from a credit, in passes over one token: it begins with the price of one long draft, each
    pass earns a little, right guesses earn what they save. So the time of a whole text is at most `1 + EARNED` times
    that without drafts, and one long draft more. The guesses' fate alone decides, never a clock: the same run is always
    computed in the same passes.
    """

    EARNED = 0.02
    _MOST = 4  # long drafts that can be lost one after the other

    def __init__(self, cost: Callable[[int], float]) -> None:
        self.longest = LONGEST if cost(2) < 2 else 2 * LONGEST
        self._prices = [cost(1 + drafted) - 1 for drafted in range(self.longest + 1)]
        """Of so many drafted tokens: what they cost beyond the pass that was due anyway."""
        dear = self._prices[-1]
        # Fewer guesses would hardly pay if they were all right.
        self.shortest = max(2, math.ceil(2 * dear))
        self._next = max(self.longest // 2, self.shortest)
        self._credit, self._limit = dear, self._MOST * dear

    def next(self) -> int:
        """The most that may be guessed now; called once a pass."""
        self._credit = min(self._credit + self.EARNED, self._limit)
        return self._next if self._credit >= self._prices[self._next] else 0

    def learn(self, drafted: int, accepted: int) -> None:
        """What became of the last guesses, of which there were some."""
        self._credit = min(self._credit + accepted - self._prices[drafted], self._limit)
        self._next = 2 * drafted if accepted == drafted else accepted + 1
        self._next = min(max(self._next, self.shortest), self.longest)


def generate_drafted(
    model: CausalLM, sequence: Sequence, source: Source, cache: KVCache | None = None
) -> Iterator[Drawn]:
    """The new tokens of a sequence, one by one, as `generation.generate` gives them. The sequence counts what was
    drafted, and what of it was right.

    Ids are equal to those of `generate` up to rounding: a row of several tokens is multiplied by another kernel than a
    single one, which in float32 moves logits by about 1e-5, in 16 bits by more. Raises as `generate` does.
    """
    check_ids(sequence.ids, model.config.vocab_size)
    counts = sequence.drafts = Drafts()
    if sequence.finish_reason is not None:
        return
    cache = model.new_cache() if cache is None else cache
    pace = Pace(partial(pass_cost, model))
    draft: list[int] = []
    rows = [prefill(model, cache, sequence.ids)]
    while True:
        accepted = 0
        for row, guess in zip(rows, [*draft, None], strict=True):
            drawn = sequence.advance(row)
            right = drawn.choice.id == guess
            accepted += right
            counts.accepted += right
            yield drawn
            if drawn.finish_reason is not None or sequence.finish_reason is not None:
                return
            if not right:
                break
        if draft:
            pace.learn(len(draft), accepted)
            cache.crop(len(sequence.ids) - 1)
        draft = _draft(model, sequence, source, pace)
        counts.drafted += len(draft)
        rows = _check(model, cache, sequence.ids, draft)


def _draft(model: CausalLM, sequence: Sequence, source: Source, pace: Pace) -> list[int]:
    """The next guesses: none past the end of the sequence, none where they would not pay, and none where the model's
    angles depend on the length of the text, which those of earlier tokens must not see."""
    fed = len(sequence.ids) - 1
    count = min(pace.next(), sequence.room - 1)
    if count < pace.shortest or not model.same_angles(fed, fed + 1 + count):
        return []
    guesses = source.propose(sequence, count)
    return guesses if len(guesses) >= pace.shortest else []


def _check(model: CausalLM, cache: KVCache, ids: list[int], draft: list[int]) -> list[Tensor]:
    """1 + drafted rows (vocab) float32: the logits after the last of `ids`, and after each drafted token."""
    if not draft:
        return [decode_step(model, cache, ids)]
    return _forward(model, cache, [ids[-1], *draft])


@torch.inference_mode()
def _forward(model: CausalLM, cache: KVCache, ids: list[int]) -> list[Tensor]:
    device = next(model.parameters()).device
    logits: Tensor = model(torch.tensor([ids], dtype=torch.int64, device=device), cache)
    return list(logits[0])


def shared_length(one: list[int], other: list[int]) -> int:
    """How many ids two rows begin with in common."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))
