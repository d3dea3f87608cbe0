"""One sequence on its way to the reader: ids as they come become text, up to a stop, with what is asked to be told."""

import math
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from llmcli.errors import LlmcliError
from llmcli.generation import Chosen, Drawn
from llmcli.generation import Sequence as IdSequence
from llmcli.inspect.funnel import Funnel, follow
from llmcli.logprobs import token_logprobs
from llmcli.results import FinishReason, Generation, Step, Timings, TokenLogprobs
from llmcli.sampling import NO_RULES, Choice, Place, Sampler, TokenRules
from llmcli.sampling_params import SamplingParams
from llmcli.stops import StopFilter
from llmcli.tokenizer_stream import StreamDecoder

if TYPE_CHECKING:
    from llmcli.pipeline import Pipeline


@dataclass(frozen=True)
class Request:
    """What all sequences of a run have in common.

    seed   that of sample 0, sample i has `seed + i`; None for greedy, which uses no random numbers
    rules  what the parameters say in texts, as ids
    trace  whether each step tells what every filter left
    """

    params: SamplingParams
    seed: int | None
    rules: TokenRules = NO_RULES
    trace: bool = False


class Transcript:
    """What is known of one sequence so far. `index` counts the prompts of a batch, `sample` the samples of a prompt."""

    def __init__(
        self,
        pipeline: "Pipeline",
        request: Request,
        prompt_ids: list[int],
        prompt: str | None,
        *,
        index: int = 0,
        sample: int = 0,
    ) -> None:
        self.prompt = prompt
        self.prompt_ids = prompt_ids
        self.params = request.params
        self.index, self.sample = index, sample
        self.seed = None if request.seed is None else request.seed + sample
        self.scored = True
        """Whether steps tell `prob` and `logprob`; they are NaN otherwise, which saves some time."""
        self.sequence = IdSequence(
            prompt_ids,
            request.params,
            seed=self.seed,
            eos_ids=pipeline.eos_ids,
            context=pipeline.context_length,
            rules=request.rules,
            watch=self._look if request.trace else None,
        )
        self.finish_reason: FinishReason | None = self.sequence.finish_reason
        self._seen: Funnel | None = None
        self._traces: list[Funnel] | None = [] if request.trace else None
        self._logprobs: list[TokenLogprobs] | None = None if request.params.logprobs is None else []
        self._bytes_of = pipeline.bytes_of
        self._stops = StopFilter(request.params.stop)
        self._decoder: StreamDecoder | None = None
        if request.params.stop or pipeline.has_tokenizer:
            self._decoder = pipeline.tokenizer.stream(prompt_ids, skip_special=True)
        self._ids: list[int] = []
        self._score: float | None = None
        self._text: list[str] = []
        self._load = pipeline.load_seconds
        self._start = self._first = self._last = time.perf_counter()

    def take(self, drawn: Drawn) -> Step:
        """The step that a new token is. Where it completes a stop string the sequence ends with it."""
        index = len(self._ids)
        self._last = time.perf_counter()
        self._first = self._last if index == 0 else self._first
        choice = drawn.choice
        text = "" if drawn.finish_reason == "eos" else self._push(choice.id)
        reason: FinishReason | None = "stop" if self._stops.stopped else drawn.finish_reason
        if reason is not None:
            text += self._finish()
            reason = "stop" if self._stops.stopped else reason
        if reason == "stop":
            self.sequence.end("stop")
        self._ids.append(choice.id)
        self._score = drawn.score
        self._text.append(text)
        self.finish_reason = reason
        prob, logprob = (choice.prob, choice.logprob) if self.scored else (math.nan, math.nan)
        return Step(index, choice.id, text, prob, logprob, reason, self._scores(choice), self._seen)

    @property
    def holding(self) -> bool:
        """Whether text is held back that may become a stop string."""
        return self.finish_reason is None and self._stops.holding

    def _look(self, sampler: Sampler, logits: Tensor, place: Place, uniform: float | None) -> None:
        self._seen = follow(sampler, logits, place, uniform, seed=self.seed, limit=0)
        if self._traces is not None:
            self._traces.append(self._seen)

    def _scores(self, choice: Chosen) -> TokenLogprobs | None:
        if self._logprobs is None or self.params.logprobs is None or not isinstance(choice, Choice):
            return None
        self._logprobs.append(token_logprobs(choice, self.params.logprobs, self._bytes_of))
        return self._logprobs[-1]

    def _push(self, id: int) -> str:
        if self._decoder is None:
            return ""
        text = self._decoder.push(id)
        return text if len(self._ids) < self.params.min_tokens else self._stops.push(text)

    def _finish(self) -> str:
        rest = "" if self._decoder is None else self._decoder.finish()
        return self._stops.push(rest) + self._stops.finish()

    def interrupt(self) -> str:
        """Ends it here; the text that was still held back."""
        if self.finish_reason is not None:
            return ""
        self.finish_reason = "interrupt"
        self._text.append(self._finish())
        return self._text[-1]

    def result(self) -> Generation:
        """The whole of it. Raises `LlmcliError` while it is not finished."""
        if self.finish_reason is None:
            raise LlmcliError("the generation is not finished", "read all its steps, or call interrupt()")
        return Generation(
            self.prompt,
            self.prompt_ids,
            "".join(self._text),
            self._ids,
            self.finish_reason,
            self.seed,
            self._timings(),
            self._logprobs,
            self._traces,
            self._score,
        )

    def _timings(self) -> Timings:
        count = len(self._ids)
        first = self._first - self._start if count else None
        decoding = self._last - self._first
        rate = (count - 1) / decoding if count > 1 and decoding > 0 else None
        total = self._last - self._start if count else 0.0
        drafts = self.sequence.drafts
        drafted, accepted = (None, None) if drafts is None else (drafts.drafted, drafts.accepted)
        return Timings(self._load, first, total, rate, drafted, accepted, self.sequence.reused)


def fresh_seed() -> int:
    """A seed that nobody chose, short enough to be typed again."""
    return secrets.randbelow(2**32)
