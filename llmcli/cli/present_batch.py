"""How `llmcli generate` shows several texts: as each is done, or token by token."""

import sys
import time
from typing import Any

from llmcli.batch_run import BatchRun
from llmcli.cli.batch_options import BatchOptions
from llmcli.cli.generate_options import OutputOptions, PromptOptions
from llmcli.cli.io import is_terminal, note, use_color, write_json
from llmcli.cli.present import Printer, echoed, event_object, generation_object
from llmcli.pipeline import Pipeline
from llmcli.render.stream import TextView
from llmcli.transcript import Transcript


class BatchPrinter:
    """Prints the texts of a run in the form asked for, and counts them."""

    def __init__(self, pipeline: Pipeline, source: PromptOptions, batch: BatchOptions, output: OutputOptions) -> None:
        self.reasons: list[str | None] = []
        self._pipeline, self._source, self._batch, self._output = pipeline, source, batch, output
        self._echo = output.echo if output.echo is not None else is_terminal(sys.stdout)
        self._objects: list[dict[str, Any]] = []
        self._tokens = 0
        self._seconds = 0.0
        self._printer = Printer(output.stream)

    def print(self, run: BatchRun) -> KeyboardInterrupt | None:
        """Everything as it comes. Of an interrupted run the texts that were finished; returns the interrupt."""
        interrupt = None
        start = time.perf_counter()
        try:
            if self._output.form == "events":
                for transcript, step in run.steps():
                    if step.finish_reason is not None:
                        self._count(transcript)
                    write_json(event_object(self._pipeline, step, transcript.index, transcript.sample))
            else:
                for transcript in run.finished(ordered=not self._batch.unordered):
                    self._put(transcript)
        except KeyboardInterrupt as error:
            interrupt = error
            if self._output.form != "events":
                for transcript in run.rest():
                    self._put(transcript)
        if self._output.form == "json":
            write_json({**self._head(), "generations": self._objects})
        elif self._output.form == "text":
            self._printer.close("")
        self._seconds = time.perf_counter() - start
        return interrupt

    def say_cut(self, run: BatchRun) -> None:
        if run.cut:
            first = f", the first is {self._batch.name(run.cut[0])}" if self._batch.batch else ""
            note(f"note: prompts cut on the {self._source.truncate}: {len(run.cut)}{first}")

    def say_end(self, run: BatchRun) -> None:
        """The seed, what an interrupt left undone, and where wanted the statistics."""
        if run.request.seed is not None:
            note(f"seed {run.request.seed}")
        done = len(self.reasons)
        if done < run.count:
            note(f"note: {done} of {run.count} texts were finished")
        if self._output.stats or is_terminal(sys.stderr):
            parts = [f"{done} texts, {self._tokens} new tokens in {self._seconds:.2f} s"]
            if self._seconds > 0:
                parts.append(f"{self._tokens / self._seconds:.1f} tokens/s")
            note("; ".join([*parts, f"loaded in {self._pipeline.load_seconds:.2f} s"]))

    def _put(self, transcript: Transcript) -> None:
        result = transcript.result()
        first = not self.reasons
        # Before it is written: whoever reads it may send an interrupt at once, and finds it counted.
        self._count(transcript)
        if self._output.form == "text":
            self._printer.put(self._text(transcript, result.text, first=first))
            return
        place = {"index": transcript.index, "sample": transcript.sample}
        if self._output.form == "jsonl":
            write_json({**self._head(place), **generation_object(result)})
        else:
            self._objects.append({**place, **generation_object(result)})

    def _count(self, transcript: Transcript) -> None:
        self.reasons.append(transcript.finish_reason)
        self._tokens += len(transcript.result().ids)

    def _head(self, place: dict[str, int] | None = None) -> dict[str, Any]:
        named = {"model": self._pipeline.name, "dtype": self._pipeline.dtype}
        return {"schema_version": 1, **(place or {}), **named}

    def _text(self, transcript: Transcript, text: str, *, first: bool) -> str:
        color = use_color(self._output.color)
        view = TextView(safe=color or is_terminal(sys.stdout), color=color)
        shown = view.prompt(echoed(self._pipeline, transcript, self._source)) if self._echo else ""
        shown += view.text(text)
        if self._batch.null:
            return shown + "\0"
        return ("" if first else "\n") + shown + view.end()
