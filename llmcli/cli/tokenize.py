"""`llmcli tokenize`: text to token ids, shown, counted, checked or compared."""

import json as json_module
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import chain, islice
from pathlib import Path
from typing import Annotated, Any

import typer

from llmcli.cli.io import is_terminal, iter_text, note, use_color, write_json, write_out
from llmcli.cli.options import DEFAULT_MODEL, ColorOption, JsonOption, ModelOption
from llmcli.errors import CheckFailedError, UsageError
from llmcli.resolve import resolve
from llmcli.tokenizer import Token, Tokenizer
from llmcli.tokenizer_tools import Reader, Tally, first_tokens, last_tokens, round_trip, side_by_side

EXAMPLE = 'llmcli tokenize "Hello, world!"'
DRAWN = 500  # tokens drawn on a terminal at most; the counts are of all


def tokenize(
    text: Annotated[
        list[str] | None, typer.Argument(metavar="TEXT", help="The text itself; - reads stdin.", show_default=False)
    ] = None,
    file: Annotated[
        list[Path] | None,
        typer.Option("--file", "-f", metavar="FILE", help="Read the text from this file.", show_default=False),
    ] = None,
    model: ModelOption = DEFAULT_MODEL,
    ids: Annotated[bool, typer.Option("--ids", help="Ids, one a line, on a terminal too.")] = False,
    pieces: Annotated[bool, typer.Option("--pieces", help="Tokens as the vocabulary spells them, one a line.")] = False,
    count: Annotated[
        bool, typer.Option("--count", help="How many tokens; of several files a line each, and the total.")
    ] = False,
    per_line: Annotated[bool, typer.Option("--per-line", help="How many tokens each line has by itself.")] = False,
    head: Annotated[
        int | None, typer.Option("--head", metavar="N", min=0, help="The text of the first N tokens, byte for byte.")
    ] = None,
    tail: Annotated[
        int | None, typer.Option("--tail", metavar="N", min=0, help="The text of the last N tokens, byte for byte.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="See that decoding gives the text again; exit 5 if not.")
    ] = False,
    compare: Annotated[
        str | None, typer.Option("--compare", metavar="MODEL", help="This model's tokens beside those of another.")
    ] = None,
    special: Annotated[bool, typer.Option("--special/--no-special", help="Add the model's special tokens.")] = False,
    parse_special: Annotated[
        bool, typer.Option("--parse-special", help="Read special tokens written in the text as such.")
    ] = False,
    json: JsonOption = False,
    color: ColorOption = "auto",
) -> None:
    """Show a text as the tokens that a model reads. Piped, the ids, one a line.

    \b
    Examples:
      $ llmcli tokenize "Hello, world!"
      $ llmcli tokenize --count < notes.txt
      $ llmcli tokenize "Hello, world!" | llmcli decode
    """
    modes = {
        "--ids": ids,
        "--pieces": pieces,
        "--count": count,
        "--per-line": per_line,
        "--head": head is not None,
        "--tail": tail is not None,
        "--check": check,
        "--compare": compare is not None,
    }
    mode = _only(modes, json, special)
    inputs = _inputs(text or [], file or [], mode)
    reader = Reader(Tokenizer.from_folder(resolve(model, need="tokenizer")), special, parse_special, note)
    if mode == "--count":
        _counts(reader, inputs, model, json)
        return
    ((_, texts),) = inputs.items()
    if head is not None or tail is not None:
        _write_bytes(last_tokens(reader, texts, tail or 0) if head is None else first_tokens(reader, texts, head))
    elif per_line:
        _lines(reader, texts, model, json)
    elif check:
        _check(reader, texts, model, json)
    elif compare is not None:
        other = Tokenizer.from_folder(resolve(compare, need="tokenizer"))
        _compare(reader, Reader(other, special, parse_special, note), texts, (model, compare), json, color)
    elif json:
        _json(reader, texts, model)
    elif pieces:
        _pieces(reader, texts)
    elif ids or not is_terminal(sys.stdout):
        for part in reader.ids(texts):
            write_out("".join([f"{each}\n" for each in part]))
    else:
        _show(reader, texts, color)


def _only(modes: dict[str, bool], json: bool, special: bool) -> str:
    """The one output that is asked for, "" for none. Raises `UsageError` where options contradict each other."""
    chosen = [name for name, on in modes.items() if on]
    if json and chosen and chosen[0] in ("--ids", "--pieces", "--head", "--tail"):
        chosen.append("--json")
    if len(chosen) > 1:
        raise UsageError(f"{chosen[0]} and {chosen[1]} ask for two different outputs", "give one of the two")
    if special and modes["--check"]:
        raise UsageError("--check and --special: tokens that are added are no part of the text", "give one of the two")
    return chosen[0] if chosen else ""


def _inputs(text: list[str], files: list[Path], mode: str) -> dict[str, Iterable[str]]:
    """Where the text comes from, by name: one text, or with --count any number of files."""
    if mode == "--count" and files:
        files = [*files, *map(Path, text)]  # as in `--file *.txt`, which a shell expands
        text = []
    if len(files) > 1 and mode != "--count":
        raise UsageError("several files are given", "one at a time, or all of them with --count")
    if len(text) > 1:
        raise UsageError("several texts are given", f"quote the text: {EXAMPLE}")
    if len(files) > 1:
        return {str(each): iter_text(None, each, example=EXAMPLE) for each in files}
    return {"": iter_text(text[0] if text else None, files[0] if files else None, example=EXAMPLE)}


def _counts(reader: Reader, inputs: dict[str, Iterable[str]], model: str, json: bool) -> None:
    found: dict[str, Tally] = {}
    total = Tally()
    several = len(inputs) > 1
    for name, texts in inputs.items():
        found[name] = reader.count(texts)
        for what, number in vars(found[name]).items():
            setattr(total, what, getattr(total, what) + number)
        if not json:
            write_out(f"{found[name].tokens:>8} {_shown(name)}\n" if several else f"{total.tokens}\n")
    if several and not json:
        write_out(f"{total.tokens:>8} total\n")
    if json:
        files = {"files": [{"file": name, **vars(each)} for name, each in found.items()]} if several else {}
        write_json({"schema_version": 1, "model": model, **files, "counts": vars(total)})


def _lines(reader: Reader, texts: Iterable[str], model: str, json: bool) -> None:
    counted = reader.lines(texts)
    if json:
        write_json({"schema_version": 1, "model": model, "lines": [number for _, number in counted]})
        return
    terminal = is_terminal(sys.stdout)
    while part := list(islice(counted, 1000)):
        rows = [f"{number:>6}  {_shown(line)}\n" if terminal else f"{number}\n" for line, number in part]
        write_out("".join(rows))


def _check(reader: Reader, texts: Iterable[str], model: str, json: bool) -> None:
    difference, tally = round_trip(reader, texts)
    if json:
        at = None if difference is None else difference.offset
        write_json(
            {"schema_version": 1, "model": model, "same": at is None, "first_difference": at, "counts": vars(tally)}
        )
    if difference is not None:
        given, decoded = ("the end" if each is None else f"0x{each:02x}" for each in difference[1:])
        raise CheckFailedError(
            f"decoding does not give the text again: byte {difference.offset} is {given}, decoded {decoded}",
            "the tokenizer loses something: `llmcli tokenize` shows its tokens",
        )
    if not json:
        write_out(f"same: {tally.bytes} bytes, {tally.tokens} tokens\n")


def _json(reader: Reader, texts: Iterable[str], model: str) -> None:
    """One object, written while the text is read: {"schema_version", "model", "tokens": [...], "counts"}."""
    ascii_only = is_terminal(sys.stdout)
    tally = Tally()

    @cache
    def spelled(piece: str) -> str:
        return json_module.dumps(piece, ensure_ascii=ascii_only).replace("\x7f", "\\u007f")

    def item(token: Token) -> str:
        special = "true" if token.special else "false"
        return (
            f'{{"id": {token.id}, "piece": {spelled(token.piece)}, '
            f'"start": {token.start}, "end": {token.end}, "special": {special}}}'
        )

    start = f'{{"schema_version": 1, "model": {spelled(model)}, "tokens": ['
    tokens = reader.tokens(tally.through(texts))
    while part := list(islice(tokens, 10_000)):
        write_out((",\n" if tally.tokens else start + "\n") + ",\n".join([item(each) for each in part]))
        tally.tokens += len(part)
    write_out(f'{"" if tally.tokens else start}\n], "counts": {json_module.dumps(vars(tally))}}}\n')


def _pieces(reader: Reader, texts: Iterable[str]) -> None:
    spelled: dict[int, str] = {}
    for part in reader.ids(texts):
        for each in set(part) - spelled.keys():
            spelled[each] = _shown(reader.tokenizer.piece(each)) + "\n"
        write_out("".join([spelled[each] for each in part]))


def _show(reader: Reader, texts: Iterable[str], color: Any) -> None:
    """A table of the tokens, the text as a strip of them, and counts: for a terminal."""
    from llmcli.render.tokens import drawn, token_strip, token_table

    tally = Tally()
    tokens = reader.tokens(tally.through(texts))
    rows = [_row(reader.tokenizer, each) for each in islice(tokens, DRAWN)]
    more = sum(1 for _ in tokens)
    tally.tokens = len(rows) + more
    views: list[Any] = [token_table(rows, _width()), "", token_strip(rows, _width())] if rows else []
    if more:
        views.append(f"{more} more tokens are not drawn; --ids and --pieces give all\n")
    views.append(f"{tally.characters} characters, {tally.bytes} bytes, {tally.tokens} tokens")
    write_out(drawn(*views, color=use_color(color), width=_width()))


def _row(tokenizer: Tokenizer, token: Token) -> Any:
    from llmcli.render.tokens import Row

    return Row(token.id, tokenizer.token_bytes(token.id), token.start, token.end, token.special)


def _compare(
    ours: Reader, theirs: Reader, texts: Iterable[str], names: tuple[str, str], json: bool, color: Any
) -> None:
    from llmcli.render.tokens import comparison_table, drawn, label

    if json:
        both = [list(texts)] * 2
        models = [
            {"model": name, "tokens": [each._asdict() for each in reader.tokens(part)]}
            for name, reader, part in zip(names, (ours, theirs), both, strict=True)
        ]
        write_json({"schema_version": 1, "model": names[0], "models": models})
        return
    totals = [0, 0]

    def spans() -> Iterator[tuple[bytes, list[bytes], list[bytes]]]:
        for span in side_by_side(ours, theirs, texts):
            totals[0] += len(span.ours)
            totals[1] += len(span.theirs)
            one = [ours.tokenizer.token_bytes(each.id) for each in span.ours]
            yield span.data, one, [theirs.tokenizer.token_bytes(each.id) for each in span.theirs]

    rows = spans()
    if is_terminal(sys.stdout):
        table = comparison_table(names, list(islice(rows, DRAWN)))
        more = sum(1 for _ in rows)
        views: list[Any] = [table, *([f"{more} more rows are not drawn; piped, all are written"] if more else [])]
        views.append(f"\n{_shown(names[0])}: {totals[0]} tokens   {_shown(names[1])}: {totals[1]} tokens")
        write_out(drawn(*views, color=use_color(color), width=_width()))
        return
    write_out("\t".join(("text", *map(_shown, names))) + "\n")
    while part := list(islice(rows, 1000)):
        columns = ((label(data), *(" ".join(map(label, each)) for each in both)) for data, *both in part)
        write_out("".join("\t".join(each) + "\n" for each in columns))
    write_out(f"total\t{totals[0]}\t{totals[1]}\n")


def _write_bytes(parts: Iterable[bytes]) -> None:
    """Text byte for byte into a pipe; on a terminal nothing in it is obeyed."""
    if not is_terminal(sys.stdout):
        for part in parts:
            write_out(part)
        return
    from llmcli.render.safe import visible

    write_out(visible(b"".join(chain(parts)).decode("utf-8", "replace"), keep="\n\t") + "\n")


def _shown(text: str) -> str:
    from llmcli.render.safe import visible

    return visible(text)


def _width() -> int:
    import shutil

    return max(8, shutil.get_terminal_size().columns)
