"""Beam search: the most probable continuations as a whole, rather than token by token. Ids from ids; no randomness.

At each step every beam is continued by every token, and the best of these continuations are the next beams. One that
ends is set aside with its score, the sum of its tokens' log-probabilities divided by length ** length_penalty (Wu et
al. 2016, arXiv:1609.08144, use a penalty of this kind), and the search ends when no running beam can beat the worst of
those kept. All of it as in `transformers.generate(num_beams=N, length_penalty=A)`, early_stopping at its default.
"""

import math
from collections.abc import Callable, Iterator
from collections.abc import Sequence as PythonSequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llmcli.batch import decode_rows, read_rows
from llmcli.generation import Drawn, Sequence, check_ids
from llmcli.model.batch_cache import BatchCache
from llmcli.model.transformer import CausalLM
from llmcli.results import FinishReason

# Whether a stop string is in the text that new ids, the second argument, are after those of a prompt, the first.
Stopped = Callable[[list[int], list[int]], bool]


@dataclass(frozen=True)
class Known:
    """A token of a beam, as a `generation.Chosen`: its probability in the model's own distribution."""

    id: int
    logprob: float

    @property
    def prob(self) -> float:
        return math.exp(self.logprob)


@dataclass(frozen=True)
class Beam:
    """A continuation: all ids, the new tokens, the sum that ranks it while it runs. `row` is that of its parent."""

    ids: list[int]
    tokens: tuple[Known, ...]
    total: float
    row: int = 0
    finish_reason: FinishReason | None = None

    def score(self, length_penalty: float) -> float:
        return float(self.total / len(self.tokens) ** length_penalty)


@dataclass(frozen=True)
class BeamSearch:
    """A `batch_run.BatchDrive`: the best sequences of each prompt, best first, `samples` of them at most.

    Equal prompts that follow each other, `samples` in number, are the places for the results of one search.
    """

    model: CausalLM
    beams: int
    length_penalty: float
    samples: int
    stopped: Stopped | None = None

    def __call__(
        self, prompts: PythonSequence[list[int]], begin: Callable[[int], Sequence]
    ) -> Iterator[tuple[int, Drawn]]:
        for first in range(0, len(prompts), self.samples):
            check_ids(prompts[first], self.model.config.vocab_size)
            numbers = range(first, first + self.samples)
            sequence = begin(first)
            going = sequence.finish_reason is None
            found = self._search(sequence)[: self.samples] if going else []
            for number in numbers[1 : len(found) if going else None]:
                begin(number)
            for number, beam in zip(numbers, found, strict=False):
                yield from ((number, drawn) for drawn in self._told(beam))

    def _told(self, beam: Beam) -> Iterator[Drawn]:
        # A stop string is found again where the text is made.
        reason = None if beam.finish_reason == "stop" else beam.finish_reason
        *others, last = beam.tokens
        yield from (Drawn(each, None) for each in others)
        yield Drawn(last, reason, beam.score(self.length_penalty))

    def _search(self, sequence: Sequence) -> list[Beam]:
        running = [Beam(list(sequence.ids), (), 0.0)]
        finished: list[Beam] = []
        cache = self.model.new_rows(self.beams)
        logits = torch.stack(read_rows(self.model, cache, [(0, tuple(sequence.ids))]))
        while True:
            best = self._continuations(running, sequence, logits)
            finished += [each for each in best[: self.beams] if each.finish_reason is not None]
            finished = sorted(finished, key=self._score, reverse=True)[: self.beams]
            running = [each for each in best if each.finish_reason is None][: self.beams]
            if not running or self._settled(running, finished):
                return finished
            logits = self._logits(cache, running)

    def _score(self, beam: Beam) -> float:
        return beam.score(self.length_penalty)

    def _settled(self, running: list[Beam], finished: list[Beam]) -> bool:
        """Whether no running beam, as it is now, beats the worst of those kept."""
        return len(finished) == self.beams and self._score(running[0]) <= self._score(finished[-1])

    def _logits(self, cache: BatchCache, running: list[Beam]) -> Tensor:
        length = len(running[0].ids)
        if self.model.must_recompute(length - 1, length):
            return torch.stack(
                read_rows(self.model, cache, [(row, tuple(each.ids)) for row, each in enumerate(running)])
            )
        cache.reorder([each.row for each in running])
        return decode_rows(self.model, cache, [each.ids[-1] for each in running])

    def _continuations(self, running: list[Beam], sequence: Sequence, logits: Tensor) -> list[Beam]:
        """The best continuations of all beams, best first: so many that enough stay when all the best ones end."""
        own = logits.log_softmax(-1)
        pairs = zip(own, running, strict=True)
        totals = torch.stack([sequence.filtered(row, each.ids) + each.total for row, each in pairs])
        count = min(max(2, 1 + sequence.end_count) * self.beams, totals.numel())
        best, places = totals.flatten().topk(count)
        made: list[Beam] = []
        for total, place in zip(best.tolist(), places.tolist(), strict=True):
            if total == -math.inf:
                break
            row, token = divmod(place, totals.shape[1])
            ids = [*running[row].ids, token]
            tokens = (*running[row].tokens, Known(token, float(own[row, token])))
            made.append(Beam(ids, tokens, total, row, self._reason(sequence, ids)))
        return made

    def _reason(self, sequence: Sequence, ids: list[int]) -> FinishReason | None:
        reason = sequence.ending(ids)
        start = sequence.prompt_length
        if reason != "eos" and self.stopped is not None and self.stopped(ids[:start], ids[start:]):
            return "stop"
        return reason
