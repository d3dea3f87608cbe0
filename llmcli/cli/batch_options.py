"""The options of `llmcli generate` that ask for more than one text: samples, and files of prompts."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmcli.cli.generate_options import OutputOptions, PromptOptions
from llmcli.cli.io import read_text
from llmcli.errors import UsageError
from llmcli.sampling_params import FIELDS, flag

if TYPE_CHECKING:
    from llmcli.batch_run import BatchPrompt, BatchRun
    from llmcli.pipeline import Pipeline

EXAMPLE = "llmcli generate --batch prompts.txt"
DEFAULT_BATCH_SIZE = 32

SamplesOption = Annotated[
    int | None,
    typer.Option(
        "--num-samples",
        metavar="N",
        min=1,
        show_default="1",
        help="Continue each prompt N times, decoded together; sample i is what --seed S+i gives.",
    ),
]
BatchOption = Annotated[
    Path | None,
    typer.Option(
        "--batch",
        metavar="FILE",
        show_default=False,
        help='Continue every line of a file, or of stdin (-): a prompt a line, or JSON lines {"prompt": "..."}.',
    ),
]
BatchSizeOption = Annotated[
    int | None,
    typer.Option(
        "--batch-size",
        metavar="N",
        min=1,
        show_default=str(DEFAULT_BATCH_SIZE),
        help="Texts decoded together at most; the next one enters when one ends.",
    ),
]
UnorderedOption = Annotated[
    bool, typer.Option("--unordered", help="Give each text as soon as it ends, not in the order of the input.")
]
NullOption = Annotated[
    bool, typer.Option("-0", "--null", help="End each text with a NUL, instead of parting them by an empty line.")
]


@dataclass(frozen=True)
class BatchOptions:
    """How many texts, from which prompts, and in which order."""

    num_samples: SamplesOption = None
    batch: BatchOption = None
    batch_size: BatchSizeOption = None
    unordered: UnorderedOption = False
    null: NullOption = False

    def __post_init__(self) -> None:
        for name, given in (("--batch-size", self.batch_size), ("--unordered", self.unordered)):
            if given and self.batch is None and self.num_samples is None:
                raise UsageError(f"{name} is given for a single text", "add --batch or --num-samples")

    @property
    def several(self) -> bool:
        """Whether there may be more than one text, so that texts are told apart."""
        return self.batch is not None or self.num_samples is not None or self.null

    @property
    def _size(self) -> int:
        return self.batch_size or DEFAULT_BATCH_SIZE

    def together(self, prompts: int) -> int:
        """How many texts are decoded together, at most."""
        return min(self._size, prompts * (self.num_samples or 1))

    def check_with(self, source: PromptOptions, output: OutputOptions, alone: str | None) -> None:
        """Raises `UsageError` for what cannot be had of several texts, such as the option `alone`."""
        if self.batch is not None and (source.prompt is not None or source.file is not None):
            other = "a prompt" if source.prompt is not None else "--file"
            raise UsageError(f"--batch and {other} are both given", "give the prompts in one place")
        if self.null and output.form != "text":
            raise UsageError(f"-0 and --{output.form} exclude each other", "leave out one of the two")
        single = {"--record": output.record is not None, "--show-tokens": output.show_tokens}
        single |= {"--trace": output.trace and output.form == "text"} | ({alone: True} if alone else {})
        for name, given_too in single.items():
            if given_too and self.several:
                raise UsageError(
                    f"{name} is about a single text", "leave it out, or --batch, --num-samples, --beams and -0"
                )

    def read(self, source: PromptOptions) -> list[str]:
        """The prompts. Raises `UsageError`, naming the line that is none."""
        if self.batch is None:
            return [source.read()]
        text = read_text(None, self.batch, what="batch", example=EXAMPLE)
        lines = text.split("\n")
        if lines[-1] == "":
            lines.pop()  # the last line end ends a line, and begins none
        lines = [line.removesuffix("\r") for line in lines]
        if lines and lines[0].startswith("{"):
            return [_prompt_of(line, self.name(index)) for index, line in enumerate(lines)]
        return lines

    def name(self, index: int) -> str:
        """What errors call a prompt."""
        return f"{'stdin' if str(self.batch) == '-' else self.batch}, line {index + 1}" if self.batch else ""

    def run(self, pipeline: "Pipeline", texts: list[str], source: PromptOptions, asked: dict[str, Any]) -> "BatchRun":
        """All of it under way; `asked` as for `run_batch`. Raises as that does, naming the line."""
        from llmcli.batch_run import run_batch

        return run_batch(
            pipeline,
            list(self._prompts(pipeline, texts, source)),
            num_samples=self.num_samples or 1,
            batch_size=self._size,
            truncate=source.truncate,
            name=self.name,
            **asked,
        )

    def _prompts(self, pipeline: "Pipeline", texts: list[str], source: PromptOptions) -> Iterator["BatchPrompt"]:
        from llmcli.batch_run import BatchPrompt, naming

        for index, text in enumerate(texts):
            with naming(self.name(index)):
                yield BatchPrompt(source.ids(pipeline, text), text)


def _prompt_of(line: str, name: str) -> str:
    """The prompt of a line of JSON; what else stands in it is the reader's own, unless it looks like an option."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        value = None
    prompt = value.get("prompt") if isinstance(value, dict) else None
    if not isinstance(prompt, str):
        raise UsageError(
            f'{name} is not JSON like {{"prompt": "..."}}',
            "every line is to be so where the first begins with {; or give plain lines",
        )
    if taken := sorted(set(value) & set(FIELDS)):
        raise UsageError(
            f"{name} sets {taken[0]}, which holds for all prompts alike", f"give {flag(taken[0])} as an option"
        )
    try:
        prompt.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{name} holds half a surrogate pair", "write the prompt in valid JSON") from None
    return prompt
