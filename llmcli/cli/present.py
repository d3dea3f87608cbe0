"""How `llmcli generate` shows what it generates: text, tokens or JSON on stdout, the rest on stderr."""

import sys
from dataclasses import asdict, replace
from typing import Any

from llmcli.cli.generate_options import OutputOptions, PromptOptions
from llmcli.cli.io import is_terminal, note, write_json, write_out
from llmcli.errors import UsageError
from llmcli.inspect.document import as_plain
from llmcli.inspect.funnel import Funnel
from llmcli.inspect.running import shown_token
from llmcli.pipeline import Pipeline, Run
from llmcli.render.stream import TextView, TokensView, token_text
from llmcli.render.trace import trace_lines
from llmcli.results import Generation, Step
from llmcli.tokenizer import Tokenizer
from llmcli.transcript import Transcript

_OPTIONAL = ("logprobs", "trace", "score")


def say_start(pipeline: Pipeline, context: int | None, source: PromptOptions, output: OutputOptions) -> None:
    """Sets the context length, where one is given, and says what is to be known beforehand."""
    past = context is not None and pipeline.set_context(context)
    if output.quiet:
        return
    if past:
        declared = pipeline.model.config.context_length
        note(f"note: past the {declared} tokens that the model declares, its text may get worse")
    for each in pipeline.notes:
        note(f"note: {each}")
    if not source.chat and is_terminal(sys.stderr) and pipeline.tokenizer.chat_template is not None:
        note("hint: this model has a chat template; --chat wraps the prompt in it")


def echoed(pipeline: Pipeline, transcript: Transcript, source: PromptOptions) -> str:
    """The prompt as it is shown before its continuation: as it was typed, unless it was cut."""
    shown = transcript.prompt or ""
    if source.truncate is not None and len(source.ids(pipeline, shown)) > len(transcript.prompt_ids):
        shown = pipeline.decode(transcript.prompt_ids, skip_special=True)
    return shown + "\n" if source.chat else shown


def say_cut(run: Run, length: int, truncate: str | None) -> None:
    if len(run.prompt_ids) < length:
        gone = length - len(run.prompt_ids)
        note(f"note: the prompt had {length} tokens; {gone} went on the {truncate}, {len(run.prompt_ids)} are left")
    elif run.finish_reason == "context":
        note(f"note: the prompt of {length} tokens fills the context; nothing can follow it")


def say_end(run: Run, stats: bool) -> None:
    """The seed, and where wanted the statistics."""
    if run.seed is not None:
        note(f"seed {run.seed}")
    if not stats and not is_terminal(sys.stderr):
        return
    result = run.result()
    timings = result.timings
    parts = [f"{len(result.prompt_ids)} prompt tokens, {len(result.ids)} new in {timings.total:.2f} s"]
    if timings.tokens_per_second is not None:
        parts.append(f"{timings.tokens_per_second:.1f} tokens/s")
    if timings.first_token is not None:
        parts.append(f"first after {timings.first_token:.3f} s")
    if timings.reused is not None:
        parts.append(f"{timings.reused} of the prompt reused")
    if timings.drafted is not None:
        parts.append(f"{timings.drafted} drafted, {timings.accepted} accepted")
    note("; ".join([*parts, f"loaded in {timings.load:.2f} s", f"end: {result.finish_reason}"]))


def print_object(pipeline: Pipeline, run: Run, *, numbered: bool) -> KeyboardInterrupt | None:
    """Prints the JSON object, `numbered` as where there may be several; of an interrupted run what there is, and
    returns the interrupt."""
    interrupt = None
    try:
        for _ in run:
            pass
    except KeyboardInterrupt as error:
        interrupt = error
        run.interrupt()
    place = {"index": run.index, "sample": run.sample} if numbered else {}
    write_json(
        {
            "schema_version": 1,
            **place,
            "model": pipeline.name,
            "dtype": pipeline.dtype,
            **generation_object(run.result()),
        }
    )
    return interrupt


def generation_object(result: Generation) -> dict[str, Any]:
    """A generation as JSON: `logprobs`, `trace` and `score` only where there are some."""
    told: dict[str, Any] = asdict(replace(result, trace=None))
    if result.trace is not None:
        told["trace"] = [trace_object(each) for each in result.trace]
    return {name: value for name, value in told.items() if value is not None or name not in _OPTIONAL}


def print_events(pipeline: Pipeline, run: Run) -> KeyboardInterrupt | None:
    """Prints a JSON object a line for every token as it comes; returns the interrupt that cut it off, where one did."""
    try:
        for step in run:
            write_json(event_object(pipeline, step, run.index, run.sample))
    except KeyboardInterrupt as error:
        run.interrupt()
        return error
    return None


def event_object(pipeline: Pipeline, step: Step, index: int, sample: int) -> dict[str, Any]:
    """One token as JSON: of which prompt, of which of its samples, and which token of that."""
    data = pipeline.bytes_of(step.id)
    told: dict[str, Any] = {
        "schema_version": 1,
        "index": index,
        "sample": sample,
        "step": step.index,
        "id": step.id,
        "bytes": None if data is None else list(data),
        "text": step.text,
        "prob": step.prob,
        "logprob": step.logprob,
        "finish_reason": step.finish_reason,
    }
    if step.logprobs is not None:
        told["logprobs"] = asdict(step.logprobs)
    if step.trace is not None:
        told["trace"] = trace_object(step.trace)
    return told


def trace_object(funnel: Funnel) -> dict[str, Any]:
    """What every filter left at one step, and the draw, as JSON."""
    told: dict[str, Any] = as_plain(funnel)
    return {name: told[name] for name in ("stages", "drawn", "uniform")}


def say_trace(pipeline: Pipeline, step: Step) -> None:
    """The same on stderr, where it was asked for."""
    if step.trace is not None:
        for line in trace_lines(step.index, trace_object(step.trace), shown_token(pipeline, step.id).label):
            note(line)


def print_text(
    pipeline: Pipeline, run: Run, prompt: str, *, stream: bool, show_tokens: bool, color: bool
) -> KeyboardInterrupt | None:
    """Prints the text as it comes; of an interrupted run what there is, and returns the interrupt."""
    printer = Printer(stream)
    if show_tokens:
        view: TextView = TokensView(color=color)
    else:
        view = TextView(safe=color or is_terminal(sys.stdout), color=color)
    interrupt = None
    held: list[Step] = []
    try:
        printer.put(view.prompt(prompt))
        for step in run:
            say_trace(pipeline, step)
            if isinstance(view, TokensView):
                held.append(step)
                if not run.holding:
                    printer.put(tokens_text(pipeline.tokenizer, view, held))
                    held = []
            else:
                printer.put(view.text(step.text))
    except KeyboardInterrupt as error:
        interrupt = error
        rest = run.interrupt()
        printer.put(tokens_text(pipeline.tokenizer, view, held) if isinstance(view, TokensView) else view.text(rest))
    printer.close(view.end())
    return interrupt


class Printer:
    """Prints at once, or all at the end."""

    def __init__(self, at_once: bool) -> None:
        self._at_once = at_once
        self._kept: list[str] = []

    def put(self, text: str) -> None:
        if not self._at_once:
            self._kept.append(text)
        elif text:
            write_out(text)

    def close(self, text: str) -> None:
        write_out("".join([*self._kept, text]))


def tokens_text(tokenizer: Tokenizer, view: TokensView, steps: list[Step]) -> str:
    """Tokens with their probabilities; where a stop string came, only what stands before it, be it half a token."""
    shown: list[str] = []
    rest = "".join(step.text for step in steps)
    cut = bool(steps) and steps[-1].finish_reason == "stop"
    for step in steps:
        text = _text_of(tokenizer, step.id)
        if cut and not tokenizer.is_special(step.id):
            before = len(rest)
            rest = rest.removeprefix(text)
            if text and len(rest) == before:
                return "".join([*shown, view.token(rest, step.prob)] if rest else shown)
        shown.append(view.token(text, step.prob))
    return "".join(shown)


def _text_of(tokenizer: Tokenizer, id: int) -> str:
    try:
        return token_text(tokenizer.token_bytes(id))
    except UsageError:  # models may have more ids than their tokenizer has tokens
        return f"⟨{id}⟩"
