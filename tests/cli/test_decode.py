"""`llmcli decode` as a command: every form of ids, the text exactly, and what is refused."""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pexpect
import pytest

from llmcli.__main__ import run

Command = Callable[..., tuple[int, bytes, str]]
HELLO = b"Hello, world!"


@pytest.fixture
def command(capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch, shared: Path) -> Command:
    """Runs `llmcli decode` with the GPT-2 tokenizer and what it is to read from stdin: exit code, stdout, stderr."""
    monkeypatch.setenv("LLMCLI_MODEL", str(shared / "tokenizers/gpt2"))

    def call(*arguments: str, stdin: str = "") -> tuple[int, bytes, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        capfdbinary.readouterr()
        code = run(["decode", *arguments])
        out, err = capfdbinary.readouterr()
        return code, out, err.decode()

    return call


@pytest.mark.parametrize(
    "form",
    [
        "15496\n11\n995\n0\n",
        "15496 11 995 0",
        " 15496, 11,995 ,\t0\r\n",
        "[15496, 11, 995, 0]",
        ' {"ids": [15496, 11, 995, 0]}',
        '{"tokens": [{"id": 15496}, {"id": 11}, {"id": 995}, {"id": 0}]}',
        '[{"id": 15496, "piece": "{"}, 11, 995, 0]\n',
    ],
)
def test_every_form_of_ids(command: Command, form: str) -> None:
    assert command(stdin=form) == (0, HELLO, "")
    assert command("-", stdin=form) == (0, HELLO, "")
    assert command(form, stdin="7") == (0, HELLO, "")


def test_arguments(command: Command) -> None:
    assert command("15496", "11,995", "0") == (0, HELLO, "")
    assert command(stdin="") == (0, b"", "")


def test_ids_are_read_across_blocks(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmcli.cli.io.CHUNK_BYTES", 3)
    assert command(stdin="15496\n11\n995\n0\n")[1] == HELLO
    assert command(stdin="   \n [15496, 11, 995, 0]")[1] == HELLO


def test_incomplete_characters_are_held_and_then_replaced(command: Command) -> None:
    assert command("30325", "222")[1] == " 😀".encode()
    assert command("30325")[1] == " \ufffd".encode()


def test_special_tokens_and_pieces(command: Command) -> None:
    assert command("15496", "50256")[1] == b"Hello<|endoftext|>"
    assert command("--skip-special", "15496", "50256")[1] == b"Hello"
    assert command("--pieces", "995", "50256", "198")[1].decode() == "Ġworld\n<|endoftext|>\nĊ\n"
    assert command("--pieces", "--skip-special", "995", "50256")[1].decode() == "Ġworld\n"


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        ("1 50257", "id 50257 is outside the vocabulary, which has 50257 ids"),
        ("1 -3", "id -3 is outside the vocabulary, which has 50257 ids"),
        ("99999999999999", "id 99999999999999 is outside"),
        ("1 x2", "'x2' is not a token id"),
        ("1.5", "'1.5' is not a token id"),
        ("１", "is not a token id"),
        ("9" * 5000, "is not a token id"),
        ("[1, true]", "'True' in the JSON is not a token id"),
        ('{"text": 1}', "the JSON holds no list of ids"),
        ("[1, 2", "begin as JSON but are not"),
        ("[" * 100_000, "begin as JSON but are not"),
    ],
)
def test_what_is_no_id_is_named(command: Command, ids: str, said: str) -> None:
    code, out, err = command(stdin=ids)
    assert (code, out) == (2, b"")
    assert said in err
    assert len(err.splitlines()) == 2


def test_two_outputs_at_once_are_refused(command: Command) -> None:
    code, out, err = command("--json", "--pieces", "1")
    assert (code, out, err.splitlines()[0]) == (2, b"", "llmcli: --json and --pieces ask for two different outputs")


def test_a_terminal_gets_a_newline_and_nothing_that_steers_it(shared: Path, tmp_path: Path) -> None:
    ids = tmp_path / "ids"
    # ESC ] 0 ; x BEL, a newline, text
    ids.write_text(json.dumps([215, 60, 15, 26, 87, 195, 198, 39, 15496]))
    line = f"bash -c '{sys.executable} -m llmcli decode -m {shared}/tokenizers/gpt2 < {ids}'"
    out, code = pexpect.run(line, withexitstatus=True, timeout=60)
    assert code == 0
    assert out.decode() == "␛]0;x␇\r\nHHello\r\n"
