"""One generation under way: ids as they come become text, up to a stop, with what was asked to be told of each."""

import math
import secrets
import time
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

from torch import Tensor

from llmcli.errors import LlmcliError
from llmcli.generation import Sequence as IdSequence
from llmcli.generation import generate
from llmcli.inspect.funnel import Funnel, follow
from llmcli.logprobs import token_logprobs
from llmcli.model.transformer import CausalLM
from llmcli.results import FinishReason, Generation, Step, Timings, TokenLogprobs
from llmcli.sampling import NO_RULES, Choice, Place, Sampler, TokenRules
from llmcli.sampling_params import SamplingParams
from llmcli.stops import StopFilter
from llmcli.tokenizer_stream import StreamDecoder

if TYPE_CHECKING:
    from llmcli.pipeline import Pipeline


class Run(Iterator[Step]):
    """One generation under way: an iterator of its steps."""

    def __init__(
        self,
        pipeline: "Pipeline",
        prompt_ids: list[int],
        params: SamplingParams,
        prompt: str | None,
        *,
        rules: TokenRules = NO_RULES,
        trace: bool = False,
    ) -> None:
        self.prompt = prompt
        self.prompt_ids = prompt_ids
        self.params = params
        self.seed = None if params.greedy else fresh_seed() if params.seed is None else params.seed
        self.scored = True
        """Whether steps tell `prob` and `logprob`; they are NaN otherwise, which saves some time."""
        self._sequence = IdSequence(
            prompt_ids,
            params,
            seed=self.seed,
            eos_ids=pipeline.eos_ids,
            context=pipeline.context_length,
            rules=rules,
            watch=self._look if trace else None,
        )
        self._seen: Funnel | None = None
        self._traces: list[Funnel] | None = [] if trace else None
        self._logprobs: list[TokenLogprobs] | None = None if params.logprobs is None else []
        self._bytes_of = pipeline.bytes_of
        self.finish_reason: FinishReason | None = self._sequence.finish_reason
        self._stops = StopFilter(params.stop)
        self._decoder: StreamDecoder | None = None
        if params.stop or pipeline.has_tokenizer:
            self._decoder = pipeline.tokenizer.stream(prompt_ids, skip_special=True)
        self._ids: list[int] = []
        self._text: list[str] = []
        self._load = pipeline.load_seconds
        self._start = self._first = self._last = time.perf_counter()
        self._steps = self._run(pipeline.model)

    def __next__(self) -> Step:
        return next(self._steps)

    def _run(self, model: CausalLM) -> Generator[Step, None, None]:
        self._start = time.perf_counter()
        for index, drawn in enumerate(generate(model, self._sequence)):
            self._last = time.perf_counter()
            self._first = self._last if index == 0 else self._first
            choice = drawn.choice
            text = "" if drawn.finish_reason == "eos" else self._push(choice.id)
            reason: FinishReason | None = "stop" if self._stops.stopped else drawn.finish_reason
            if reason is not None:
                text += self._finish()
                reason = "stop" if self._stops.stopped else reason
            self._ids.append(choice.id)
            self._text.append(text)
            self.finish_reason = reason
            prob, logprob = (choice.prob, choice.logprob) if self.scored else (math.nan, math.nan)
            yield Step(index, choice.id, text, prob, logprob, reason, self._scores(choice), self._seen)
            if reason is not None:
                return

    @property
    def holding(self) -> bool:
        """Whether text is held back that may become a stop string."""
        return self.finish_reason is None and self._stops.holding

    def _look(self, sampler: Sampler, logits: Tensor, place: Place, uniform: float | None) -> None:
        self._seen = follow(sampler, logits, place, uniform, seed=self.seed, limit=0)
        if self._traces is not None:
            self._traces.append(self._seen)

    def _scores(self, choice: Choice) -> TokenLogprobs | None:
        if self._logprobs is None or self.params.logprobs is None:
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
        """Ends the run here; the text that was still held back."""
        if self.finish_reason is not None:
            return ""
        self._steps.close()
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
        )

    def _timings(self) -> Timings:
        count = len(self._ids)
        first = self._first - self._start if count else None
        decoding = self._last - self._first
        rate = (count - 1) / decoding if count > 1 and decoding > 0 else None
        return Timings(self._load, first, self._last - self._start if count else 0.0, rate)


def fresh_seed() -> int:
    """A seed that nobody chose, short enough to be typed again."""
    return secrets.randbelow(2**32)
