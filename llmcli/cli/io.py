"""Text in and text out: where a command's input comes from, that it is UTF-8, and how results reach stdout."""

import codecs
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from llmcli.errors import LlmcliError, UsageError
from llmcli.interrupts import patient

CHUNK_BYTES = 1 << 20


def read_text(argument: str | None, file: Path | None, *, what: str = "text", example: str) -> str:
    """The whole input, exactly as its bytes spell it.

    An argument is the text itself, and `-` asks for stdin; `file` is read where given (`-` again is stdin); else stdin
    is read if it is not a terminal. With an argument or a file stdin is never touched, so loops that feed on it work.
    `what` and `example` word the error that is raised where there is no input at all.

    Raises `UsageError` for no input, two inputs, a missing file, and input that is binary or not UTF-8.
    """
    return "".join(iter_text(argument, file, what=what, example=example))


def iter_text(argument: str | None, file: Path | None, *, what: str = "text", example: str) -> Iterator[str]:
    """`read_text` in pieces of about a megabyte, cut between characters. The source is checked at the first piece."""
    if argument is not None and argument != "-":
        if file is not None:
            raise UsageError(f"{what} is given both as an argument and as --file", "give one of the two")
        # The locale may not be UTF-8: go back to the bytes that the shell passed.
        yield _decoded(_argument_bytes(argument), f"the {what} argument")
        return
    with _source(argument, file, what, example) as (stream, name):
        yield from _decode_stream(stream, name)


def read_words(argument: str | None, file: Path | None, *, keep_newline: bool, what: str = "text", example: str) -> str:
    """`read_text` less one final newline of a file or of stdin, which belongs to the line and not to the text, unless
    it is to be kept. Raises as `read_text` does."""
    text = read_text(argument, file, what=what, example=example)
    is_argument = argument not in (None, "-") and file is None
    return text if is_argument or keep_newline else text.removesuffix("\n")


@contextmanager
def _source(argument: str | None, file: Path | None, what: str, example: str) -> Iterator[tuple[IO[bytes], str]]:
    if file is not None and argument == "-":
        raise UsageError(f"{what} is asked for both from stdin (-) and from --file", "give one of the two")
    if file is not None and str(file) != "-":
        try:
            stream = file.open("rb")
        except OSError as error:
            raise UsageError(f"{file}: {error.strerror}", "give the path of a file that can be read") from error
        with stream:
            yield stream, str(file)
    elif argument == "-" or file is not None or stdin_is_piped():
        yield _stdin(), "stdin"
    else:
        raise UsageError(f"no {what} given", f"for example: {example}")


def stdin_is_piped() -> bool:
    """Whether standard input is open and not a terminal."""
    return sys.stdin is not None and not sys.stdin.closed and not is_terminal(sys.stdin)


def _stdin() -> IO[bytes]:
    if sys.stdin is None:
        raise UsageError("stdin is closed", "give the text as an argument or with --file")
    return patient(sys.stdin.buffer)


def _argument_bytes(argument: str) -> bytes:
    try:
        return os.fsencode(argument)
    except UnicodeEncodeError:  # not from a shell but from Python
        return argument.encode("utf-8", "surrogateescape")


def _decode_stream(stream: IO[bytes], name: str) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset = 0
    while True:
        try:
            block = stream.read(CHUNK_BYTES)
        except OSError as error:
            raise UsageError(f"{name}: {error.strerror}", "give a file that can be read") from error
        pending = len(decoder.getstate()[0])
        yield _decoded(block, name, offset, pending, decoder, final=not block)
        if not block:
            return
        offset += len(block)


def _decoded(
    block: bytes,
    name: str,
    offset: int = 0,
    pending: int = 0,
    decoder: codecs.IncrementalDecoder | None = None,
    *,
    final: bool = True,
) -> str:
    """Text of a block that begins at byte `offset`, `pending` bytes of a character waiting in the decoder before it."""
    if (null := block.find(b"\0")) >= 0:
        raise UsageError(f"{name} is binary: byte {offset + null} is NUL", "give UTF-8 text")
    try:
        return (decoder or codecs.getincrementaldecoder("utf-8")()).decode(block, final)
    except UnicodeDecodeError as error:
        at, value = offset - pending + error.start, error.object[error.start]
        raise UsageError(
            f"{name} is not UTF-8: byte {at} is 0x{value:02x}",
            "convert it first, for example: iconv -f latin1 -t utf-8",
        ) from error


def write_out(data: str | bytes) -> None:
    """Write a result to stdout, byte for byte, and flush it. A closed pipe ends the run quietly, at the boundary."""
    if isinstance(data, str):
        data = data.encode("utf-8", "backslashreplace")
    if sys.stdout is None:
        raise LlmcliError("stdout is closed", "send the result to a file or a pipe")
    try:
        sys.stdout.flush()
        buffer = getattr(sys.stdout, "buffer", None)
        if buffer is None:  # replaced by a stream of text only
            sys.stdout.write(data.decode("utf-8"))
        else:
            buffer.write(data)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise LlmcliError(f"cannot write to stdout: {error.strerror}", "send the result somewhere it fits") from error


def write_json(value: Any) -> None:
    """Write one JSON document and a newline. On a terminal only ASCII, so that no character in it steers the terminal.

    Raises `ValueError` where the value holds NaN or an infinity: they are not JSON.
    """
    text = json.dumps(value, ensure_ascii=is_terminal(sys.stdout), allow_nan=False)
    write_out(text.replace("\x7f", "\\u007f") + "\n")


def is_terminal(stream: Any) -> bool:
    """Whether a stream is an open terminal."""
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError):
        return False


def use_color(choice: str, stream: Any = None) -> bool:
    """Whether to colour a stream (stdout): `always`, `never`, or `auto`: a terminal, no NO_COLOR, and not TERM=dumb."""
    if choice != "auto":
        return choice == "always"
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return is_terminal(sys.stdout if stream is None else stream)


def note(text: str) -> None:
    """Say something on stderr that is not the result. Untrusted text in it is made visible."""
    from llmcli.render.safe import visible

    write_err(visible(text) + "\n")


def write_err(lines: str) -> None:
    """Write whole lines to stderr, where there is one: at once, so that a signal leaves all of them or none."""
    if sys.stderr is not None:
        sys.stderr.write(lines)
        sys.stderr.flush()
