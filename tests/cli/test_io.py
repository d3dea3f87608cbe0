"""Where input comes from, and that it is UTF-8; how results leave."""

import io
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from llmcli.cli import io as module
from llmcli.cli.io import iter_text, note, read_text, use_color, write_json, write_out
from llmcli.errors import LlmcliError, UsageError

EXAMPLE = "llmcli tokenize hello"


class Stdin:
    """Standard input that holds bytes, and remembers whether it was read."""

    def __init__(self, content: bytes, *, terminal: bool = False) -> None:
        self.buffer = io.BytesIO(content)
        self.closed = False
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal

    @property
    def was_read(self) -> bool:
        return self.buffer.tell() > 0


def stdin(monkeypatch: pytest.MonkeyPatch, content: bytes, *, terminal: bool = False) -> Stdin:
    stream = Stdin(content, terminal=terminal)
    monkeypatch.setattr(sys, "stdin", stream)
    return stream


def read(argument: str | None = None, file: Path | None = None) -> str:
    return read_text(argument, file, example=EXAMPLE)


def test_an_argument_leaves_stdin_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = stdin(monkeypatch, b"from stdin")
    assert read("héllo") == "héllo"
    assert read("") == ""
    assert not stream.was_read


def test_a_file_leaves_stdin_alone_and_keeps_every_byte(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stream = stdin(monkeypatch, b"from stdin")
    path = tmp_path / "f"
    path.write_bytes("\ufeffa\r\nb\rc\n\u2028é".encode())
    assert read(None, path) == "\ufeffa\r\nb\rc\n\u2028é"
    assert not stream.was_read


def test_a_dash_or_a_pipe_is_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    for argument, file in (("-", None), (None, None), (None, Path("-"))):
        stdin(monkeypatch, b"piped\r\n")
        assert read(argument, file) == "piped\r\n"


def test_a_dash_reads_a_terminal_too(monkeypatch: pytest.MonkeyPatch) -> None:
    stdin(monkeypatch, b"typed", terminal=True)
    assert read("-") == "typed"


def test_nothing_on_a_terminal_gives_an_example(monkeypatch: pytest.MonkeyPatch) -> None:
    stdin(monkeypatch, b"", terminal=True)
    with pytest.raises(UsageError, match="no text given") as caught:
        read()
    assert EXAMPLE in caught.value.remedy


@pytest.mark.parametrize("argument", [None, "-"])
def test_a_closed_stdin_is_a_usage_error(argument: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(UsageError):
        read(argument)


@pytest.mark.parametrize("argument", ["text", "-"])
def test_two_inputs_are_one_too_many(argument: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--file"):
        read(argument, tmp_path / "f")


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing: No such file"):
        read(None, tmp_path / "nothing")
    with pytest.raises(UsageError, match="Is a directory"):
        read(None, tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"ab\xffcd", "not UTF-8: byte 2 is 0xff"),
        (b"ab\xc3", "not UTF-8: byte 2 is 0xc3"),
        (b"\xed\xa0\x80", "not UTF-8: byte 0 is 0xed"),
        (b"abc\x00d", "binary: byte 3 is NUL"),
        (b"\x7fELF\x02\x01\x00\xff", "binary: byte 6 is NUL"),
    ],
)
@pytest.mark.parametrize("block", [1, 2, 3, 1 << 20])
def test_what_is_not_text_is_named_with_its_byte(
    content: bytes, said: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK_BYTES", block)
    stdin(monkeypatch, content)
    with pytest.raises(UsageError, match=said):
        read()


def test_an_argument_that_is_not_utf8_is_named() -> None:
    with pytest.raises(UsageError, match="argument is not UTF-8: byte 1 is 0xe9"):
        read(os.fsdecode(b"a\xe9b"))


@pytest.mark.parametrize("block", [1, 2, 3, 5, 7])
def test_pieces_join_to_the_whole_whatever_their_size(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "aé漢字😀\r\n\u0301" * 5
    monkeypatch.setattr(module, "CHUNK_BYTES", block)
    stdin(monkeypatch, text.encode())
    pieces = list(iter_text(None, None, example=EXAMPLE))
    assert "".join(pieces) == text
    assert max(len(each.encode()) for each in pieces) <= block + 3


def test_bytes_leave_as_they_are(capfdbinary: Any) -> None:
    write_out(b"a\r\n\xff")
    write_out("é\udce9\n")
    assert capfdbinary.readouterr().out == b"a\r\n\xff\xc3\xa9\\udce9\n"


def test_a_full_disk_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(LlmcliError, match="No space left"):
            write_out("text")
        monkeypatch.undo()
        os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())


def test_no_stdout_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(LlmcliError, match="closed"):
        write_out("text")


def test_a_note_without_stderr_is_said_nowhere(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    note("a note")
    assert capsys.readouterr().out == ""


def test_json_is_one_line_and_never_nan(capsys: Any) -> None:
    write_json({"a": "é\x1b\x7f\u202e\ud800"})
    line = capsys.readouterr().out
    assert json.loads(line) == {"a": "é\x1b\x7f\u202e\ud800"}
    assert "\x1b" not in line
    assert line.count("\n") == 1
    with pytest.raises(ValueError):
        write_json({"a": math.nan})


def test_json_on_a_terminal_is_ascii(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(module, "is_terminal", lambda _: True)
    write_json({"a": "é\x7f\u202e"})
    assert capsys.readouterr().out.strip().isascii()


@pytest.mark.parametrize(
    ("choice", "variables", "terminal", "coloured"),
    [
        ("auto", {}, True, True),
        ("auto", {}, False, False),
        ("auto", {"NO_COLOR": "1"}, True, False),
        ("auto", {"NO_COLOR": ""}, True, True),
        ("auto", {"TERM": "dumb"}, True, False),
        ("always", {"NO_COLOR": "1", "TERM": "dumb"}, False, True),
        ("never", {}, True, False),
    ],
)
def test_when_to_colour(
    choice: str, variables: dict[str, str], terminal: bool, coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"NO_COLOR": "", "TERM": "xterm", **variables}.items():
        monkeypatch.setenv(name, value)
    assert use_color(choice, Stdin(b"", terminal=terminal)) is coloured
