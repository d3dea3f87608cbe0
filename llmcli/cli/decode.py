"""`llmcli decode`: token ids back to text."""

import json
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Annotated, Any

import typer

from llmcli.cli.io import is_terminal, iter_text, write_out
from llmcli.cli.options import DEFAULT_MODEL, ModelOption
from llmcli.errors import UsageError
from llmcli.resolve import resolve
from llmcli.tokenizer import Tokenizer

_FORMS = "give numbers parted by spaces, commas or newlines, or the JSON of `llmcli tokenize --json`"
_BETWEEN = re.compile(r"[\s,]+")
_LONGEST = 40  # characters: what is longer without a space is no id


def decode(
    ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="IDS", help="Token ids; none or - reads stdin.", show_default=False),
    ] = None,
    model: ModelOption = DEFAULT_MODEL,
    skip_special: Annotated[bool, typer.Option("--skip-special", help="Leave special tokens out.")] = False,
    pieces: Annotated[bool, typer.Option("--pieces", help="Tokens as the vocabulary spells them, one a line.")] = False,
) -> None:
    """Turn token ids into their text, exactly. Ids may be parted by spaces, commas or newlines, or stand in JSON.

    \b
    Examples:
      $ llmcli decode 312 40 7
      $ llmcli tokenize "Hello, world!" | llmcli decode
    """
    if ids and ids != ["-"]:
        texts: Iterable[str] = [" ".join(ids)]
    else:
        texts = iter_text("-" if ids else None, None, what="ids", example="llmcli decode 312 40 7")
    tokenizer = Tokenizer.from_folder(resolve(model, need="tokenizer"))
    parts = _checked(tokenizer, _parse(texts), skip_special)
    if pieces:
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


def _parse(texts: Iterable[str]) -> Iterator[list[int]]:
    """Ids in lists as their text comes in; JSON is read whole, since only its end says that it is JSON.

    A list is given when the next one is there, so that an error in short input comes before any text is written.
    """
    blocks = iter(texts)
    held: list[int] = []
    begun, rest = False, ""
    for block in blocks:
        rest += block
        if not begun and rest.lstrip()[:1] in ("{", "["):
            yield _from_json(rest + "".join(blocks))
            return
        *words, rest = _BETWEEN.split(rest)
        if len(rest) > _LONGEST:
            _number(rest)
        numbers = [_number(word) for word in words if word]
        if numbers:
            if begun:
                yield held
            begun, held = True, numbers
    yield [*held, *([_number(rest)] if rest else [])]


def _number(word: str) -> int:
    if len(word) <= _LONGEST and re.fullmatch(r"-?[0-9]+", word, re.ASCII):
        return int(word)
    shown = word if len(word) <= 40 else word[:40] + "..."
    raise UsageError(f"{shown!r} is not a token id", _FORMS)


def _from_json(text: str) -> list[int]:
    """The ids in a list of numbers, or of tokens with an `id`, or in an object's `tokens` or `ids`."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the ids begin as JSON but are not: {error}", _FORMS) from error
    if isinstance(value, dict):
        value = value.get("tokens", value.get("ids"))
    if not isinstance(value, list):
        raise UsageError("the JSON holds no list of ids", _FORMS)
    return [_id_in(each) for each in value]


def _id_in(value: Any) -> int:
    number = value.get("id") if isinstance(value, dict) else value
    if type(number) is not int:
        raise UsageError(f"{str(value)[:40]!r} in the JSON is not a token id", _FORMS)
    return number
