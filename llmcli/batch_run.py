"""Several generations under way: their steps as they come, and each one whole as soon as it and those before it end."""

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from llmcli.batch import BATCH_SIZE, generate_batch
from llmcli.beams import BeamSearch, Known
from llmcli.errors import LlmcliError, UsageError
from llmcli.generation import Drawn, check_ids
from llmcli.generation import Sequence as IdSequence
from llmcli.results import Step
from llmcli.sampling_params import MAX_SEED, merged
from llmcli.transcript import Request, Transcript

if TYPE_CHECKING:
    from llmcli.pipeline import Pipeline, Truncate


class BatchPrompt(NamedTuple):
    """A prompt: its ids, and the text that they stand for where there is one."""

    ids: list[int]
    text: str | None = None


# Computes new tokens, each with the number of its sequence: from the prompts of all sequences, and what begins one.
BatchDrive = Callable[[Sequence[list[int]], Callable[[int], IdSequence]], Iterator[tuple[int, Drawn]]]


class BatchRun:
    """One generation for each sample of each prompt; `drive` computes their tokens.

    Read it once, by `steps` or by `finished`.
    """

    def __init__(
        self, pipeline: "Pipeline", request: Request, prompts: Sequence[BatchPrompt], samples: int, drive: BatchDrive
    ) -> None:
        self.request = request
        self.count = len(prompts) * samples
        self.scored = True
        """As in `Transcript`."""
        self.cut: list[int] = []
        """The prompts that were cut to fit the context."""
        self._pipeline, self._prompts, self._samples = pipeline, prompts, samples
        self._begun: dict[int, Transcript] = {}
        self._ended: dict[int, Transcript] = {}
        self._tokens = drive([each.ids for each in prompts for _ in range(samples)], self._begin)

    def steps(self) -> Iterator[tuple[Transcript, Step]]:
        """Each new token as it comes, those of several sequences in turn."""
        for number, drawn in self._tokens:
            transcript = self._begun[number]
            step = transcript.take(drawn)
            if step.finish_reason is not None:
                self._ended[number] = self._begun.pop(number)
            yield transcript, step

    def finished(self, *, ordered: bool = True) -> Iterator[Transcript]:
        """Each finished sequence: in the order of the prompts and their samples, or as they end."""
        following = 0
        for _ in self.steps():
            following = yield from self._ready(ordered, following)
        yield from self.rest()  # a search may find fewer than there are places for

    def rest(self) -> list[Transcript]:
        """The finished sequences that were not given yet, in order: for a run that was interrupted."""
        rest = [self._ended[number] for number in sorted(self._ended)]
        self._ended.clear()
        return rest

    def _ready(self, ordered: bool, following: int) -> Generator[Transcript, None, int]:
        """What can be given now; returns the number that is next in order."""
        while self._ended:
            number = following if ordered else next(iter(self._ended))
            if number not in self._ended:
                break
            yield self._ended.pop(number)
            following += 1
        return following

    def _begin(self, number: int) -> IdSequence:
        index, sample = divmod(number, self._samples)
        ids, text = self._prompts[index]
        transcript = Transcript(self._pipeline, self.request, ids, text, index=index, sample=sample)
        transcript.scored = self.scored
        (self._begun if transcript.finish_reason is None else self._ended)[number] = transcript
        return transcript.sequence


def run_batch(
    pipeline: "Pipeline",
    prompts: Sequence[BatchPrompt],
    *,
    num_samples: int = 1,
    batch_size: int = BATCH_SIZE,
    truncate: "Truncate | None" = None,
    trace: bool = False,
    beams: int | None = None,
    length_penalty: float = 1.0,
    name: Callable[[int], str] = "prompt {}".format,
    **params: Any,
) -> BatchRun:
    """`num_samples` generations of each prompt, `batch_size` of them decoded together. Sample i has the seed + i.

    With `beams` they are the best that beam search finds with so many beams, best first. `name` is how the errors call
    prompt i. Raises as `Pipeline.stream` does, before anything is generated.
    """
    wholes = {"--num-samples": num_samples, "--batch-size": batch_size, "--beams": beams or 1}
    for option, value in wholes.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UsageError(f"{option} is {value!r}", "give a whole number of 1 or more")
    if beams is not None and num_samples > beams:
        raise UsageError(f"--num-samples {num_samples} is more than --beams {beams}", "give more beams")
    if not math.isfinite(length_penalty):
        raise UsageError(f"--length-penalty is {length_penalty}", "give a number, such as 1")
    chosen = params if beams is None else params | {"temperature": 0.0}
    request = pipeline.request(merged(pipeline.defaults, chosen), trace=trace)
    if request.seed is not None and request.seed + num_samples - 1 > MAX_SEED:
        raise UsageError(f"--seed {request.seed} leaves no seeds for {num_samples} samples", "give a smaller one")
    fitting: list[BatchPrompt] = []
    for index, (ids, text) in enumerate(prompts):
        with naming(name(index)):
            check_ids(ids, pipeline.model.config.vocab_size)
            fitting.append(BatchPrompt(pipeline.fit(ids, request.params.max_tokens, truncate), text))
    drive: BatchDrive = partial(generate_batch, pipeline.model, size=batch_size)
    if beams is not None:
        stopped = partial(_stopped, pipeline, request) if request.params.stop else None
        drive = BeamSearch(pipeline.model, beams, length_penalty, num_samples, stopped)
    run = BatchRun(pipeline, request, fitting, num_samples, drive)
    run.cut = [index for index, each in enumerate(fitting) if len(each.ids) < len(prompts[index].ids)]
    return run


def _stopped(pipeline: "Pipeline", request: Request, prompt_ids: list[int], ids: list[int]) -> bool:
    """Whether the text that `ids` are after a prompt holds a stop string."""
    transcript = Transcript(pipeline, request, prompt_ids, None)
    transcript.scored = False
    for each in ids:
        transcript.take(Drawn(Known(each, 0.0), None))
    return transcript.finish_reason == "stop"


@contextmanager
def naming(what: str) -> Iterator[None]:
    """Says in an error's message what it is about."""
    try:
        yield
    except LlmcliError as error:
        raise type(error)(f"{what}: {error}" if what else str(error), error.remedy) from None
