"""The options that hold a generated text to something: a schema, an expression, a grammar, or some choices."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from llmcli.errors import LlmcliError, UsageError
from llmcli.sampling_params import SamplingParams, flag

JsonSchemaOption = Annotated[
    Path | None,
    typer.Option(
        "--json-schema", metavar="FILE", show_default=False, help="Only JSON, on one line, that this schema allows."
    ),
]
RegexOption = Annotated[
    str | None,
    typer.Option(
        "--regex",
        metavar="PATTERN",
        show_default=False,
        help="Only a text that this regular expression matches as a whole.",
    ),
]
GrammarOption = Annotated[
    Path | None,
    typer.Option(
        "--grammar", metavar="FILE", show_default=False, help="Only a text of this grammar, in Lark's syntax."
    ),
]
ChoiceOption = Annotated[
    list[str] | None,
    typer.Option("--choice", metavar="TEXT", show_default=False, help="Only one of these texts; to be repeated."),
]


@dataclass(frozen=True)
class GrammarOptions:
    """What the whole of a generated text has to be. Raises `UsageError` for a constraint that is malformed, or a file
    that cannot be read, and `LlmcliError` where the library that follows constraints is missing."""

    json_schema: JsonSchemaOption = None
    regex: RegexOption = None
    grammar: GrammarOption = None
    choice: ChoiceOption = None

    def __post_init__(self) -> None:
        if self.named is not None:
            params = SamplingParams(**self.params)
            from llmcli.grammar import check_grammar

            check_grammar(params)

    @property
    def named(self) -> str | None:
        """The option of the group that was given; None where none was."""
        return next((flag(name) for name, value in vars(self).items() if value), None)

    @property
    def params(self) -> dict[str, Any]:
        """As fields of `SamplingParams`: a file's name becomes what is in it."""
        return {
            "json_schema": None if self.json_schema is None else _content(self.json_schema),
            "regex": self.regex,
            "grammar": None if self.grammar is None else _content(self.grammar),
            "choice": tuple(self.choice or ()),
        }

    def check_whole(self, reasons: Iterable[str | None]) -> None:
        """Raises `LlmcliError` where a text ended, for one of these reasons, before it was what it has to be."""
        if self.named and not {"eos", "complete"} >= set(reasons):
            raise LlmcliError(
                f"the text was cut before it was all that {self.named} asks for",
                "raise --max-tokens, or allow shorter texts",
            )


def _content(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}", "give the path of a file that can be read") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not UTF-8", "give a text file") from None
