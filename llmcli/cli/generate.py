"""`llmcli generate`: continue a text."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from llmcli.cli.io import given_on_stdin, is_terminal, read_text, use_color
from llmcli.cli.options import (
    DEFAULT_MODEL,
    ColorOption,
    DeviceOption,
    FileOption,
    JsonOption,
    ModelOption,
    QuietOption,
    ThreadsOption,
)
from llmcli.cli.sampling_more import takes_sampling, unescape
from llmcli.cli.sampling_options import IgnoreEosOption, MaxTokensOption, StopOption
from llmcli.errors import UsageError
from llmcli.files import check_target
from llmcli.sampling_params import DEFAULT_MAX_TOKENS, merged
from llmcli.settings import usable_cores

if TYPE_CHECKING:
    from llmcli.pipeline import Pipeline, Run

EXAMPLE = 'llmcli generate "Once upon a time"'


@takes_sampling(after="min_tokens")
def generate(
    sampling: dict[str, Any],
    prompt: Annotated[
        str | None, typer.Argument(metavar="PROMPT", help="The text to continue; - reads stdin.", show_default=False)
    ] = None,
    file: FileOption = None,
    model: ModelOption = DEFAULT_MODEL,
    max_tokens: MaxTokensOption = DEFAULT_MAX_TOKENS,
    min_tokens: Annotated[
        int,
        typer.Option(
            "--min-tokens", metavar="N", help="New tokens before which neither the model nor --stop ends the text."
        ),
    ] = 0,
    stop: StopOption = None,
    ignore_eos: IgnoreEosOption = False,
    chat: Annotated[bool, typer.Option("--chat", help="Wrap the prompt in the model's chat template.")] = False,
    system: Annotated[
        str | None,
        typer.Option("--system", metavar="TEXT", show_default=False, help="The system's message, with --chat."),
    ] = None,
    parse_special: Annotated[
        bool, typer.Option("--parse-special", help="Read special tokens out of the prompt's text.")
    ] = False,
    truncate: Annotated[
        Literal["left", "right"] | None,
        typer.Option("--truncate", show_default=False, help="Cut a prompt that is too long on this side."),
    ] = None,
    context_length: Annotated[
        int | None,
        typer.Option(
            "--context",
            metavar="N",
            show_default="the model's",
            help="Tokens that fit, prompt included; more than the model's only with RoPE.",
        ),
    ] = None,
    echo: Annotated[
        bool | None,
        typer.Option(
            "--echo/--no-echo", show_default="on a terminal", help="Print the prompt before its continuation."
        ),
    ] = None,
    stream: Annotated[
        bool, typer.Option("--stream/--no-stream", help="Print the text as it comes, or all at the end.")
    ] = True,
    show_tokens: Annotated[
        bool, typer.Option("--show-tokens", help="Show each token with its probability after all filters.")
    ] = False,
    json: JsonOption = False,
    jsonl: Annotated[bool, typer.Option("--jsonl", help="One JSON object a line for each sequence.")] = False,
    events: Annotated[
        bool, typer.Option("--events", help="One JSON object a line for each token, as it comes.")
    ] = False,
    logprobs: Annotated[
        int | None,
        typer.Option(
            "--logprobs",
            metavar="K",
            show_default=False,
            help="In the JSON, log-probabilities of each token and of the K best.",
        ),
    ] = None,
    trace: Annotated[
        bool, typer.Option("--trace", help="What each filter left, for every token; on stderr, or in the JSON.")
    ] = False,
    record: Annotated[
        Path | None,
        typer.Option(
            "--record",
            metavar="FILE",
            show_default=False,
            help="Write down what makes the run repeatable, for `llmcli replay`.",
        ),
    ] = None,
    stats: Annotated[
        bool, typer.Option("--stats", help="Statistics on stderr, also where it is not a terminal.")
    ] = False,
    quiet: QuietOption = False,
    keep_newline: Annotated[
        bool, typer.Option("--keep-newline", help="Keep the final newline of a file or of stdin.")
    ] = False,
    threads: ThreadsOption = None,
    device: DeviceOption = "auto",
    color: ColorOption = "auto",
) -> None:
    """Continue a text, token by token.

    The prompt is the argument, --file, or stdin. An empty one starts from the beginning-of-text token. In a pipe the
    continuation alone is printed, on a terminal the prompt stands before it, dimmed.

    Sampling options come from the flag, else from the environment or the configuration file, else from the model's
    generation_config.json, else temperature 0.8 and top-p 0.95. The seed used is printed on stderr.

    Filters run in this order: logit bias, bans, no-repeat-ngram and min-tokens, then repetition, frequency and presence
    penalty, DRY, temperature, top-n-sigma, top-k, typical, top-p, min-p, XTC, mirostat, then the draw. --samplers names
    others; what it does not name does not run.

    \b
    Examples:
      $ llmcli generate "Once upon a time"
      $ llmcli generate --greedy -n 20 "The old house"
      $ echo "Dear reader" | llmcli generate --stop '\\n\\n' --seed 7
      $ llmcli generate --show-tokens -n 30 "Once upon a time"
      $ llmcli generate --json -n 10 "Once upon a time"
      $ llmcli generate --events --logprobs 3 -n 5 "Once upon a time"
      $ llmcli generate --trace --top-k 40 -n 2 "Once upon a time"
      $ llmcli generate --ban dragon --min-p 0.05 --samplers min-p,temperature "Once upon a time"
    """
    given = sampling | {"max_tokens": max_tokens, "ignore_eos": ignore_eos, "min_tokens": min_tokens}
    given |= {"stop": tuple(map(unescape, stop or ())), "logprobs": logprobs}
    merged({}, given)  # whatever is wrong is said before anything is read
    lines = "json" if json else "jsonl" if jsonl else "events" if events else None
    _check_output({"--json": json, "--jsonl": jsonl, "--events": events, "--show-tokens": show_tokens})
    _check_together(lines, logprobs=logprobs, trace=trace, stats=stats, quiet=quiet, system=system, chat=chat)
    if record is not None:
        check_target(record)
    text = read_text(prompt, file, what="prompt", example=EXAMPLE)
    if given_on_stdin(prompt, file) and not keep_newline:
        text = text.removesuffix("\n")

    pipeline = load(model, device, threads)
    from llmcli.cli import present

    if context_length is not None and pipeline.set_context(context_length) and not quiet:
        present.say_past_context(pipeline)
    if not quiet:
        present.say_notes(pipeline, chat)
    if chat:
        ids = pipeline.chat_ids(text, system, parse_special=parse_special)
    else:
        ids = pipeline.prompt_ids(text, parse_special=parse_special)
    run = pipeline.run(ids, prompt=text, truncate=truncate, trace=trace, **given)
    run.scored = show_tokens or events
    if not quiet:
        present.say_cut(run, len(ids), truncate)
    if lines == "events":
        interrupt = present.print_events(pipeline, run)
    elif lines is not None:
        interrupt = present.print_object(pipeline, run, sample=0 if lines == "jsonl" else None)
    else:
        shown = _echo(pipeline, run, text, ids, chat) if echo or (echo is None and is_terminal(sys.stdout)) else ""
        interrupt = present.print_text(
            pipeline, run, shown, stream=stream, show_tokens=show_tokens, color=use_color(color)
        )
    if record is not None:
        from llmcli.record import make_record, write_record

        write_record(record, make_record(pipeline, run))
    if not quiet:
        present.say_end(run, stats)
    if interrupt is not None:
        raise interrupt


def _echo(pipeline: "Pipeline", run: "Run", text: str, ids: list[int], chat: bool) -> str:
    """The prompt as it is shown before its continuation: as it was typed, unless it was cut."""
    shown = text if len(run.prompt_ids) == len(ids) else pipeline.decode(run.prompt_ids, skip_special=True)
    return shown + "\n" if chat else shown


def load(model: str, device: str, threads: int | None) -> "Pipeline":
    """The model, ready to run; torch is imported here."""
    from llmcli.resolve import resolve

    folder = resolve(model)
    _read_ahead(folder)
    from llmcli.tokenizer import Tokenizer

    # Before torch: what is wrong with it is said at once.
    tokenizer = Tokenizer.from_folder(folder)
    from llmcli.pipeline import Pipeline

    return Pipeline.load(model, device=device, threads=threads or usable_cores(), tokenizer=tokenizer)


def _read_ahead(folder: Path) -> None:
    """Has the system read the weights while other things load."""
    if not hasattr(os, "posix_fadvise"):
        return
    for path in folder.glob("*.safetensors"):
        try:
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)
        except OSError:
            return  # the loader says what is wrong with it


def _check_output(chosen: dict[str, bool]) -> None:
    names = [name for name, on in chosen.items() if on]
    if len(names) > 1:
        raise UsageError(f"{names[0]} and {names[1]} exclude each other", "leave out one of the two")


def _check_together(
    lines: str | None, *, logprobs: int | None, trace: bool, stats: bool, quiet: bool, system: str | None, chat: bool
) -> None:
    if system is not None and not chat:
        raise UsageError("--system is given without --chat", "add --chat, which wraps the prompt as well")
    if logprobs is not None and lines is None:
        raise UsageError("--logprobs is given, and the output is text", "add --json, --jsonl or --events")
    if trace and quiet and lines is None:
        raise UsageError("--trace and --quiet exclude each other", "leave out one of the two, or add --json")
    if stats and quiet:
        raise UsageError("--stats and --quiet exclude each other", "leave out one of the two")
