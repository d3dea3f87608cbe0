"""`llmcli generate` on a terminal: what a person sees, by the eyes of a terminal emulator."""

import os
import sys
from pathlib import Path

import pexpect
import pyte
import pytest
from tiny import TEMPLATE, write_model, write_tokenizer

ENVIRONMENT = {
    name: value for name, value in os.environ.items() if not name.startswith("LLMCLI_") and name != "NO_COLOR"
}
ENVIRONMENT |= {"OMP_NUM_THREADS": "1", "LLMCLI_THREADS": "1", "TERM": "xterm-256color"}


@pytest.fixture(scope="module")
def model(shared: Path) -> Path:
    return shared / "models" / "stories260K"


def spawn(*arguments, model, columns=80, rows=40, **variables):
    command = ["-m", "llmcli", "generate", "-m", str(model), *map(str, arguments)]
    environment = {**ENVIRONMENT, **variables}
    return pexpect.spawn(sys.executable, command, env=environment, dimensions=(rows, columns), timeout=60)


def finish(child):
    """All that the terminal received, and the exit code."""
    data = child.read()
    child.close()
    return data, child.exitstatus


def screen(data, columns=80, rows=40):
    emulator = pyte.Screen(columns, rows)
    pyte.ByteStream(emulator).feed(data)
    return emulator


def test_the_prompt_is_dimmed_and_the_text_follows(model):
    data, code = finish(spawn("Once", "--greedy", "-n", 4, model=model))
    assert code == 0
    assert data.startswith(b"\x1b[2mOnce\x1b[0m upon a time,\r\n")
    assert screen(data).display[0].rstrip() == "Once upon a time,"
    assert b"tokens/s" in data  # stderr is a terminal too


def test_no_echo_and_no_colour(model):
    data, _ = finish(spawn("Once", "--greedy", "-n", 4, "--no-echo", "--quiet", model=model))
    assert data == b" upon a time,\r\n"
    data, _ = finish(spawn("Once", "--greedy", "-n", 4, "--quiet", model=model, NO_COLOR="1"))
    assert data == b"Once upon a time,\r\n"


def test_a_narrow_terminal(model):
    data, code = finish(spawn("Once", "--greedy", "-n", 30, "--quiet", model=model, columns=10))
    assert code == 0
    shown = "".join(line for line in screen(data, 10).display).rstrip()
    assert shown.startswith("Once upon a time, there was a little girl named Lily.")


def test_an_interrupt_keeps_what_was_written(model):
    child = spawn("", "--greedy", "--ignore-eos", "-n", 100000, "--context", 100001, model=model)
    child.expect("upon a")
    child.sendintr()
    data, code = finish(child)
    assert code == 130
    assert b"Traceback" not in data
    text, _, rest = data.decode().partition("end: interrupt")
    assert rest.strip() == ""
    assert text.splitlines()[-1].split(";")[0].startswith("1 prompt tokens")


def test_no_prompt_shows_an_example(model):
    data, code = finish(spawn(model=model))
    assert code == 2
    assert b'for example: llmcli generate "Once upon a time"' in data


def test_hostile_text_never_steers_the_terminal(tmp_path):
    """A random model that writes every byte there is, after a prompt that would set the title and the clipboard."""
    folder = write_model(tmp_path / "m", max_position_embeddings=512)
    prompt = "\x1b]0;title\x07\x1b]52;c;aGk=\x07\x9b2J\u202e[red]"
    arguments = [prompt, "-t", 3, "--seed", 1, "-n", 200, "--ignore-eos", "--quiet"]
    for extra in ([], ["--show-tokens"]):
        data, code = finish(spawn(*arguments, "--color", "never", *extra, model=folder))
        text = data.decode()
        assert code == 0
        assert not {c for c in text if not c.isprintable()} - set("\r\n\t")
        assert "␛]0;title␇" in text
        assert "[red]" in text


def test_a_template_that_is_not_used_is_hinted_at(tmp_path):
    folder = write_model(tmp_path / "m")
    write_tokenizer(folder, template=TEMPLATE)
    assert b"--chat" in finish(spawn("hi", "-n", 2, model=folder))[0]
    assert b"--chat" not in finish(spawn("hi", "-n", 2, "--chat", model=folder))[0]
    assert b"--chat" not in finish(spawn("hi", "-n", 2, "--quiet", model=folder))[0]


def test_tokens_are_coloured_by_probability(model):
    data, _ = finish(spawn("Once", "--greedy", "-n", 4, "--show-tokens", "--quiet", model=model))
    emulator = screen(data)
    assert emulator.display[0].rstrip() == "Once upon a time,"
    assert emulator.buffer[0][6].bg != "default"
    assert emulator.buffer[0][0].bg == "default"
    assert emulator.display[1].startswith("probability:")
