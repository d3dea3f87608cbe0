"""The options of `llmcli generate`, as groups: what is continued, how far, by what, and how it is shown.

How tokens are chosen is in `sampling_options`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from llmcli.cli.io import read_words
from llmcli.cli.options import (
    DEFAULT_MODEL,
    ColorOption,
    DeviceOption,
    DtypeChoice,
    FileOption,
    JsonOption,
    KeepNewlineOption,
    ModelOption,
    QuietOption,
    ThreadsOption,
)
from llmcli.cli.sampling_options import unescape
from llmcli.errors import UsageError
from llmcli.files import check_target
from llmcli.sampling_params import DEFAULT_MAX_TOKENS
from llmcli.settings import usable_cores, variable

if TYPE_CHECKING:
    from llmcli.pipeline import Pipeline

EXAMPLE = 'llmcli generate "Once upon a time"'

PromptArgument = Annotated[
    str | None, typer.Argument(metavar="PROMPT", help="The text to continue; - reads stdin.", show_default=False)
]
ChatOption = Annotated[bool, typer.Option("--chat", help="Wrap the prompt in the model's chat template.")]
SystemOption = Annotated[
    str | None,
    typer.Option("--system", metavar="TEXT", show_default=False, help="The system's message, with --chat."),
]
ParseSpecialOption = Annotated[
    bool, typer.Option("--parse-special", help="Read special tokens out of the prompt's text.")
]
TruncateOption = Annotated[
    Literal["left", "right"] | None,
    typer.Option("--truncate", show_default=False, help="Cut a prompt that is too long on this side."),
]
ContextOption = Annotated[
    int | None,
    typer.Option(
        "--context",
        metavar="N",
        show_default="the model's",
        help="Tokens that fit, prompt included; more than the model's only with RoPE.",
    ),
]
MinTokensOption = Annotated[
    int,
    typer.Option(
        "--min-tokens", metavar="N", help="New tokens before which neither the model nor --stop ends the text."
    ),
]
EchoOption = Annotated[
    bool | None,
    typer.Option("--echo/--no-echo", show_default="on a terminal", help="Print the prompt before its continuation."),
]
StreamOption = Annotated[
    bool, typer.Option("--stream/--no-stream", help="Print the text as it comes, or all at the end.")
]
ShowTokensOption = Annotated[
    bool, typer.Option("--show-tokens", help="Show each token with its probability after all filters.")
]
JsonlOption = Annotated[bool, typer.Option("--jsonl", help="One JSON object a line for each sequence.")]
EventsOption = Annotated[bool, typer.Option("--events", help="One JSON object a line for each token, as it comes.")]
LogprobsOption = Annotated[
    int | None,
    typer.Option(
        "--logprobs",
        metavar="K",
        show_default=False,
        help="In the JSON, log-probabilities of each token and of the K best.",
    ),
]
TraceOption = Annotated[
    bool, typer.Option("--trace", help="What each filter left, for every token; on stderr, or in the JSON.")
]
RecordOption = Annotated[
    Path | None,
    typer.Option(
        "--record",
        metavar="FILE",
        show_default=False,
        help="Write down what makes the run repeatable, for `llmcli replay`.",
    ),
]
StatsOption = Annotated[bool, typer.Option("--stats", help="Statistics on stderr, also where it is not a terminal.")]


@dataclass(frozen=True)
class PromptOptions:
    """The text to continue, and what becomes of it before the model reads it."""

    prompt: PromptArgument = None
    file: FileOption = None
    chat: ChatOption = False
    system: SystemOption = None
    parse_special: ParseSpecialOption = False
    truncate: TruncateOption = None
    keep_newline: KeepNewlineOption = False

    def __post_init__(self) -> None:
        if self.system is not None and not self.chat:
            raise UsageError("--system is given without --chat", "add --chat, which wraps the prompt as well")

    def read(self) -> str:
        """The text; the final newline of a file or of stdin belongs to the line, not to the text."""
        return read_words(self.prompt, self.file, keep_newline=self.keep_newline, what="prompt", example=EXAMPLE)

    def ids(self, pipeline: "Pipeline", text: str) -> list[int]:
        """The ids that a text is continued from."""
        if self.chat:
            return pipeline.chat_ids(text, self.system, parse_special=self.parse_special)
        return pipeline.prompt_ids(text, parse_special=self.parse_special)


DtypeOption = Annotated[
    DtypeChoice,
    typer.Option(
        "--dtype",
        help="How weights are held and multiplied; auto: 16 bits, fast at once; float16-packed: a second later, and "
        "faster; float32: exact; int8, int4: smaller.",
    ),
]
KvDtypeOption = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"],
    typer.Option("--kv-dtype", help="Number format of the KV cache; auto is the fastest to read."),
]


@dataclass(frozen=True)
class MachineOptions:
    """Which model runs, and on what."""

    model: ModelOption = DEFAULT_MODEL
    context_length: ContextOption = None
    threads: ThreadsOption = None
    device: DeviceOption = "auto"
    dtype: DtypeOption = "auto"
    kv_dtype: KvDtypeOption = "auto"

    def load(self, *, texts: int = 1, drafts: bool = False) -> "Pipeline":
        """The model, ready to run; torch is imported here. So many `texts` are decoded together, or one is with
        `drafts`."""
        from llmcli.cli.loading import load

        return load(
            self.model,
            device=self.device,
            dtype=self.dtype,
            threads=self.threads or usable_cores(),
            kv_dtype=self.kv_dtype,
            texts=texts,
            drafts=drafts,
        )


@dataclass(frozen=True)
class LengthOptions:
    """When a text ends."""

    max_tokens: Annotated[
        int,
        typer.Option(
            "--max-tokens",
            "-n",
            metavar="N",
            envvar=variable("max_tokens"),
            show_envvar=True,
            help="New tokens at most.",
        ),
    ] = DEFAULT_MAX_TOKENS
    min_tokens: MinTokensOption = 0
    stop: Annotated[
        list[str] | None,
        typer.Option(
            "--stop",
            metavar="TEXT",
            show_default=False,
            help=r"End before this text; may be repeated. Understands \n, \t and \\.",
        ),
    ] = None
    ignore_eos: Annotated[bool, typer.Option("--ignore-eos", help="Go on after an end-of-text token.")] = False

    @property
    def params(self) -> dict[str, Any]:
        """As fields of `SamplingParams`."""
        return {
            "max_tokens": self.max_tokens,
            "min_tokens": self.min_tokens,
            "stop": tuple(map(unescape, self.stop or ())),
            "ignore_eos": self.ignore_eos,
        }


Form = Literal["text", "json", "jsonl", "events"]


@dataclass(frozen=True)
class OutputOptions:
    """What is shown of it, and how. Raises `UsageError` for two forms at once, and for what a form cannot show."""

    echo: EchoOption = None
    stream: StreamOption = True
    show_tokens: ShowTokensOption = False
    json: JsonOption = False
    jsonl: JsonlOption = False
    events: EventsOption = False
    logprobs: LogprobsOption = None
    trace: TraceOption = False
    record: RecordOption = None
    stats: StatsOption = False
    quiet: QuietOption = False
    color: ColorOption = "auto"

    def __post_init__(self) -> None:
        chosen = {"--json": self.json, "--jsonl": self.jsonl, "--events": self.events}
        names = [name for name, on in (chosen | {"--show-tokens": self.show_tokens}).items() if on]
        if len(names) > 1:
            raise UsageError(f"{names[0]} and {names[1]} exclude each other", "leave out one of the two")
        if self.logprobs is not None and self.form == "text":
            raise UsageError("--logprobs is given, and the output is text", "add --json, --jsonl or --events")
        if self.trace and self.quiet and self.form == "text":
            raise UsageError("--trace and --quiet exclude each other", "leave out one of the two, or add --json")
        if self.stats and self.quiet:
            raise UsageError("--stats and --quiet exclude each other", "leave out one of the two")
        if self.record is not None:
            check_target(self.record)

    @property
    def form(self) -> Form:
        return "json" if self.json else "jsonl" if self.jsonl else "events" if self.events else "text"
