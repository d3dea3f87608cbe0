"""`llmcli generate`: continue a text."""

import os
import re
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
    SeedOption,
    ThreadsOption,
)
from llmcli.cli.sampling_options import (
    GreedyOption,
    IgnoreEosOption,
    MaxTokensOption,
    MinPOption,
    RepetitionPenaltyOption,
    StopOption,
    TemperatureOption,
    TopKOption,
    TopPOption,
    TypicalPOption,
)
from llmcli.errors import UsageError
from llmcli.sampling_params import DEFAULT_MAX_TOKENS, merged
from llmcli.settings import usable_cores

if TYPE_CHECKING:
    from llmcli.pipeline import Pipeline

EXAMPLE = 'llmcli generate "Once upon a time"'


def generate(
    context: typer.Context,
    prompt: Annotated[
        str | None, typer.Argument(metavar="PROMPT", help="The text to continue; - reads stdin.", show_default=False)
    ] = None,
    file: FileOption = None,
    model: ModelOption = DEFAULT_MODEL,
    max_tokens: MaxTokensOption = DEFAULT_MAX_TOKENS,
    greedy: GreedyOption = False,
    temperature: TemperatureOption = None,
    top_k: TopKOption = None,
    top_p: TopPOption = None,
    min_p: MinPOption = None,
    typical_p: TypicalPOption = None,
    repetition_penalty: RepetitionPenaltyOption = None,
    seed: SeedOption = None,
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

    \b
    Examples:
      $ llmcli generate "Once upon a time"
      $ llmcli generate --greedy -n 20 "The old house"
      $ echo "Dear reader" | llmcli generate --stop '\\n\\n' --seed 7
      $ llmcli generate --show-tokens -n 30 "Once upon a time"
      $ llmcli generate --json -n 10 "Once upon a time"
    """
    given: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    given |= {"typical_p": typical_p, "repetition_penalty": repetition_penalty}
    if greedy:
        # Only a flag contradicts --greedy; a setting gives way to it.
        from_flag = str(context.get_parameter_source("temperature")).endswith("COMMANDLINE")
        given |= {"greedy": True, "temperature": temperature if from_flag else None}
    stops = tuple(map(unescape, stop or ()))
    given |= {"seed": seed, "max_tokens": max_tokens, "stop": stops, "ignore_eos": ignore_eos}
    merged({}, given)  # whatever is wrong is said before anything is read
    _check_together(json=json, show_tokens=show_tokens, stats=stats, quiet=quiet, system=system, chat=chat)
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
    run = pipeline.run(ids, prompt=text, truncate=truncate, **given)
    run.scored = show_tokens
    if not quiet:
        present.say_cut(run, len(ids), truncate)
    if json:
        interrupt = present.print_object(pipeline, run)
    else:
        shown = ""
        if echo or (echo is None and is_terminal(sys.stdout)):
            whole = len(run.prompt_ids) == len(ids)
            shown = text if whole else pipeline.decode(run.prompt_ids, skip_special=True)
            shown += "\n" if chat else ""
        interrupt = present.print_text(
            pipeline, run, shown, stream=stream, show_tokens=show_tokens, color=use_color(color)
        )
    if not quiet:
        present.say_end(run, stats)
    if interrupt is not None:
        raise interrupt


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


def unescape(text: str) -> str:
    r"""`\n`, `\t` and `\\` as the characters that they stand for; any other backslash is itself."""
    return re.sub(r"\\([nt\\])", lambda match: {"n": "\n", "t": "\t", "\\": "\\"}[match[1]], text)


def _check_together(*, json: bool, show_tokens: bool, stats: bool, quiet: bool, system: str | None, chat: bool) -> None:
    if system is not None and not chat:
        raise UsageError("--system is given without --chat", "add --chat, which wraps the prompt as well")
    if json and show_tokens:
        raise UsageError("--json and --show-tokens exclude each other", "leave out one of the two")
    if stats and quiet:
        raise UsageError("--stats and --quiet exclude each other", "leave out one of the two")
