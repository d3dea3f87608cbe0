"""`llmcli tokenize` as a command: what goes to stdout and stderr, what is refused, what a terminal shows."""

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pexpect
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from llmcli.__main__ import run

Command = Callable[..., tuple[int, bytes, str]]


@pytest.fixture
def gpt2(shared: Path) -> str:
    return str(shared / "tokenizers/gpt2")


@pytest.fixture
def stories(shared: Path) -> str:
    return str(shared / "models/stories260K")


@pytest.fixture
def command(capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch, gpt2: str) -> Command:
    """Runs a command line with the GPT-2 tokenizer and what it is to read from stdin: exit code, stdout, stderr."""
    monkeypatch.setenv("LLMCLI_MODEL", gpt2)

    def call(*arguments: str, stdin: bytes = b"") -> tuple[int, bytes, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capfdbinary.readouterr()
        code = run(list(arguments))
        out, err = capfdbinary.readouterr()
        return code, out, err.decode()

    return call


def test_piped_it_prints_ids(command: Command) -> None:
    expected = (0, b"15496\n11\n995\n0\n", "")
    assert command("tokenize", "Hello, world!") == expected
    assert command("tokenize", "--ids", "Hello, world!") == expected
    assert command("tokenize", stdin=b"Hello, world!") == expected
    assert command("tokenize", "-", stdin=b"Hello, world!") == expected
    assert command("tokenize", stdin=b"") == (0, b"", "")


def test_the_input_is_kept_byte_for_byte(command: Command, tmp_path: Path) -> None:
    file = tmp_path / "text"
    file.write_bytes(b"a\r\n\n")
    assert command("tokenize", "--file", str(file))[1].split() == [b"64", b"201", b"628"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=5)
@given(text=st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=30))
def test_decode_undoes_tokenize(command: Command, text: str) -> None:
    for how in ("--ids", "--json"):
        ids = command("tokenize", how, stdin=text.encode())[1]
        assert command("decode", stdin=ids) == (0, text.encode(), "")


def test_pieces(command: Command) -> None:
    assert command("tokenize", "--pieces", "a b\n你")[1].decode().split("\n") == ["a", "Ġb", "Ċ", "ä½", "ł", ""]


def test_counts(command: Command, tmp_path: Path) -> None:
    assert command("tokenize", "--count", "Hello, world!") == (0, b"4\n", "")
    files = [tmp_path / "a", tmp_path / "b"]
    files[0].write_text("Hello, world!")
    files[1].write_text("é 你")
    lines = command("tokenize", "--count", "-f", str(files[0]), "-f", str(files[1]))[1].decode().splitlines()
    assert [line.split() for line in lines] == [["4", str(files[0])], ["4", str(files[1])], ["8", "total"]]
    assert command("tokenize", "--count", "-f", *map(str, files))[1].decode().splitlines() == lines
    value = json.loads(command("tokenize", "--count", "--json", "-f", *map(str, files))[1])
    assert value["counts"] == {"characters": 16, "bytes": 19, "tokens": 8}
    assert value["files"][1] == {"file": str(files[1]), "characters": 3, "bytes": 6, "tokens": 4}
    assert command("tokenize", "--count", "-f", str(tmp_path / "c"))[0] == 2


def test_a_line_at_a_time(command: Command) -> None:
    assert command("tokenize", "--per-line", stdin=b"Hello, world!\n\none two")[1] == b"4\n0\n2\n"
    assert json.loads(command("tokenize", "--per-line", "--json", "a\nb c\n")[1])["lines"] == [1, 2]


def test_the_text_of_some_tokens(command: Command) -> None:
    text = "one two three 😀"
    assert command("tokenize", "--head", "2", text)[1] == b"one two"
    assert command("tokenize", "--tail", "3", text)[1] == " three 😀".encode()
    assert command("tokenize", "--head", "4", text)[1] == b"one two three \xf0\x9f\x98"
    assert command("tokenize", "--head", "0", text)[1] == command("tokenize", "--tail", "0", text)[1] == b""
    assert command("tokenize", "--head", "99", text)[1] == command("tokenize", "--tail", "99", text)[1] == text.encode()


def test_json_has_exact_bytes(command: Command, gpt2: str) -> None:
    code, out, _ = command("tokenize", "--json", "Hi 😀")
    value = json.loads(out)
    assert (code, value["schema_version"], value["model"]) == (0, 1, gpt2)
    assert value["tokens"] == [
        {"id": 17250, "piece": "Hi", "start": 0, "end": 2, "special": False},
        {"id": 30325, "piece": "ĠðŁĺ", "start": 2, "end": 6, "special": False},
        {"id": 222, "piece": "Ģ", "start": 6, "end": 7, "special": False},
    ]
    assert value["counts"] == {"characters": 4, "bytes": 7, "tokens": 3}
    assert json.loads(command("tokenize", "--json", "")[1])["tokens"] == []


def test_special_tokens(command: Command, stories: str) -> None:
    assert command("tokenize", "-m", stories, "a")[1].split() == [b"261"]
    assert command("tokenize", "-m", stories, "--special", "a")[1].split() == [b"1", b"261"]
    assert command("tokenize", "<|endoftext|>")[1].count(b"\n") > 1
    assert command("tokenize", "--parse-special", "<|endoftext|>")[1] == b"50256\n"
    first = json.loads(command("tokenize", "-m", stories, "--special", "--json", "a")[1])["tokens"][0]
    assert first == {"id": 1, "piece": "<s>", "start": 0, "end": 0, "special": True}


def test_check(command: Command, tmp_path: Path, shared: Path) -> None:
    assert command("tokenize", "--check", "é 😀\n") == (0, b"same: 8 bytes, 4 tokens\n", "")
    state = json.loads((shared / "tokenizers/gpt2/tokenizer.json").read_bytes())
    state["normalizer"] = {"type": "NFC"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(state))
    code, out, err = command("tokenize", "--check", "-m", str(tmp_path), "ab e\u0301")
    assert (code, out) == (5, b"")
    assert "byte 3 is 0x65, decoded 0xc3" in err
    code, out, _ = command("tokenize", "--check", "--json", "-m", str(tmp_path), "ab e\u0301")
    assert (code, json.loads(out)["first_difference"], json.loads(out)["same"]) == (5, 3, False)


def test_compare(command: Command, stories: str, gpt2: str) -> None:
    lines = command("tokenize", "Once upon\t你", "--compare", stories)[1].decode().splitlines()
    assert lines[0] == f"text\t{gpt2}\t{stories}"
    assert [line.split("\t")[0] for line in lines[1:]] == ["Once", "␣upon", "⇥", "你", "total"]
    value = json.loads(command("tokenize", "ab", "--json", "--compare", stories)[1])
    assert [each["model"] for each in value["models"]] == [gpt2, stories]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--ids", "--pieces", "a"], "--ids and --pieces ask for two different outputs"),
        (["--head", "1", "--json", "a"], "--head and --json"),
        (["--check", "--special", "a"], "--check and --special"),
        (["a", "b"], "several texts are given"),
        (["-f", "a", "-f", "b"], "several files are given"),
        (["--head", "-1", "a"], "head"),
    ],
)
def test_what_contradicts_itself_is_refused(command: Command, arguments: list[str], said: str) -> None:
    code, out, err = command("tokenize", *arguments)
    assert (code, out) == (2, b"")
    assert said in err


@pytest.mark.parametrize("how", [[], ["--json"], ["--count"], ["--pieces"]])
def test_bad_input_is_named(command: Command, how: list[str]) -> None:
    code, out, err = command("tokenize", *how, stdin=b"ab\xff")
    assert (code, out) == (2, b"")
    assert "byte 2 is 0xff" in err
    assert command("tokenize", *how, stdin=b"ab\0")[0] == 2


def test_a_model_without_a_tokenizer_is_named(command: Command, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{")
    code, out, err = command("tokenize", "-m", str(tmp_path), "a")
    assert (code, out) == (3, b"")
    assert str(tmp_path / "tokenizer.json") in err.splitlines()[0]
    assert len(err.splitlines()) == 2


def test_text_that_cannot_be_cut_is_said_to_be_whole(command: Command, stories: str) -> None:
    text = b"Once upon a time. " * 2000
    code, out, err = command("tokenize", "--count", "-m", stories, stdin=text)
    assert code == 0
    assert int(out) > 2000
    assert len(err.splitlines()) == 1
    assert "encoded whole" in err
    assert command("tokenize", "--count", stdin=text)[2] == ""


def terminal(*arguments: str, width: int = 80, **environment: str) -> str:
    """What the command writes to a terminal of this width."""
    out, code = pexpect.run(
        " ".join([sys.executable, "-m", "llmcli", *arguments]),
        withexitstatus=True,
        timeout=60,
        env={**__import__("os").environ, "TERM": "xterm-256color", **environment},
        dimensions=(50, width),
    )
    assert code == 0, out
    return str(out.decode())


def test_a_terminal_gets_a_table_a_strip_and_counts(gpt2: str) -> None:
    shown = terminal("tokenize", "-m", gpt2, "'Hi 你 😀 \x1b]0;x\x07'", NO_COLOR="")
    assert "\x1b[" in shown
    plain = terminal("tokenize", "-m", gpt2, "'Hi 你 😀 \x1b]0;x\x07'", NO_COLOR="1")
    assert "\x1b" not in plain
    assert "␛" in plain
    assert "part of a character" in plain
    assert "characters, " in plain
    assert "│" in plain
    narrow = terminal("tokenize", "-m", gpt2, "'Hi 你 😀'", width=16, NO_COLOR="1")
    assert [line for line in narrow.splitlines()[:-1] if cell_len(line) > 16] == []


def test_it_loads_nothing_heavy(gpt2: str) -> None:
    code = (
        "import sys; from llmcli.__main__ import run; "
        f"run(['tokenize', '-m', {gpt2!r}, 'a']); print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "64\n"
    assert not {"torch", "transformers", "rich", "numpy", "jinja2"} & set(done.stderr.split())
