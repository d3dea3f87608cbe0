"""One generation under way: an iterator of its steps."""

import time
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any

from llmcli.generation import Drawn, Sequence, generate
from llmcli.model.transformer import CausalLM
from llmcli.results import Step
from llmcli.transcript import Transcript

if TYPE_CHECKING:
    from llmcli.pipeline import Pipeline

# What computes the new tokens of a sequence, one by one.
Drive = Callable[[CausalLM, Sequence], Iterator[Drawn]]


class Run(Transcript, Iterator[Step]):
    """A transcript that writes itself: each step is computed when it is asked for, by `drive`."""

    def __init__(self, pipeline: "Pipeline", *arguments: Any, drive: Drive = generate) -> None:
        super().__init__(pipeline, *arguments)
        self._steps = self._run(pipeline.model, drive)

    def __next__(self) -> Step:
        return next(self._steps)

    def _run(self, model: CausalLM, drive: Drive) -> Generator[Step, None, None]:
        self._start = time.perf_counter()
        for drawn in drive(model, self.sequence):
            yield self.take(drawn)
            if self.finish_reason is not None:
                return

    def interrupt(self) -> str:
        """Ends the run here; the text that was still held back."""
        self._steps.close()
        return super().interrupt()
