"""`llmcli decode`: token ids back to text."""

import sys
from collections.abc import Iterable, Iterator
from typing import Annotated

import typer

from llmcli.cli.ids import parse_ids
from llmcli.cli.io import is_terminal, iter_text, write_json, write_out
from llmcli.cli.options import DEFAULT_MODEL, JsonOption, ModelOption
from llmcli.errors import UsageError
from llmcli.resolve import resolve
from llmcli.tokenizer import Tokenizer


def decode(
    ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="IDS", help="Token ids; none or - reads stdin.", show_default=False),
    ] = None,
    model: ModelOption = DEFAULT_MODEL,
    skip_special: Annotated[bool, typer.Option("--skip-special", help="Leave special tokens out.")] = False,
    pieces: Annotated[bool, typer.Option("--pieces", help="Tokens as the vocabulary spells them, one a line.")] = False,
    json: JsonOption = False,
) -> None:
    """Turn token ids into their text, exactly. Ids may be parted by spaces, commas or newlines, or stand in JSON.

    \b
    Examples:
      $ llmcli decode 312 40 7
      $ llmcli tokenize "Hello, world!" | llmcli decode
      $ llmcli decode --json 312 40 7
    """
    if json and pieces:
        raise UsageError("--json and --pieces ask for two different outputs", "give one of the two")
    if ids and ids != ["-"]:
        texts: Iterable[str] = [" ".join(ids)]
    else:
        texts = iter_text("-" if ids else None, None, what="ids", example="llmcli decode 312 40 7")
    tokenizer = Tokenizer.from_folder(resolve(model, need="tokenizer"))
    parts = _checked(tokenizer, parse_ids(texts), skip_special)
    if json:
        _write_json(tokenizer, parts, model)
    elif pieces:
        _write_pieces(tokenizer, parts)
    else:
        _write_text(tokenizer, parts)


def _write_text(tokenizer: Tokenizer, parts: Iterator[list[int]]) -> None:
    from llmcli.render.safe import SafeText

    stream = tokenizer.stream()
    if not is_terminal(sys.stdout):
        for part in parts:
            write_out("".join([stream.push(each) for each in part]))
        write_out(stream.finish())
        return
    safe = SafeText(keep="\n\t")
    for part in parts:
        write_out("".join([safe.push(stream.push(each)) for each in part]))
    write_out(safe.push(stream.finish()) + "\n")


def _write_json(tokenizer: Tokenizer, parts: Iterator[list[int]], model: str) -> None:
    stream, ids, texts = tokenizer.stream(), [], []
    for part in parts:
        ids += part
        texts += [stream.push(each) for each in part]
    text = "".join([*texts, stream.finish()])
    write_json({"schema_version": 1, "model": model, "ids": ids, "text": text})


def _write_pieces(tokenizer: Tokenizer, parts: Iterator[list[int]]) -> None:
    from llmcli.render.safe import visible

    for part in parts:
        write_out("".join([visible(tokenizer.piece(each)) + "\n" for each in part]))


def _checked(tokenizer: Tokenizer, parts: Iterable[list[int]], skip_special: bool) -> Iterator[list[int]]:
    """The same ids, each known to the vocabulary; without special ones where they are to be left out."""
    for part in parts:
        for each in part:
            tokenizer.piece(each)
        yield [each for each in part if not tokenizer.is_special(each)] if skip_special else part
