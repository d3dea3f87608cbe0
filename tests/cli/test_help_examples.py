"""Every example in a command's help runs as it stands there."""

import io
import lzma
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pexpect
import pytest

from llmcli.__main__ import run
from llmcli.cli.app import load_command
from llmcli.completions.tree import read_tree

EXAMPLES = {
    command.path: [
        line.strip().removeprefix("$ ").split("  #")[0].strip()
        for line in command.about.splitlines()
        if line.strip().startswith("$ ")
    ]
    for command in read_tree().walk()
    if command.path
}
# What the shell has to do with a line before a program sees it.
_SHELL = re.compile(r"""[|<>~&;]|\$\(""")
# Long, or for several machines: that their options are understood is enough here, `tests/train` runs such commands.
_PARSED = ("train", "torchrun")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Path:
    """A home with the files that the examples name, as the current folder."""
    (tmp_path / "notes.txt").write_text("Some words.\n")
    (tmp_path / "book.txt").write_text("It was a dark night, and the sea was high. " * 20)
    with lzma.open(tmp_path / "held-out.jsonl.xz", "wt") as file:
        file.write('{"text": "It was a dark night."}\n' * 5)
    for folder in (".local/share/bash-completion/completions", ".zfunc", ".config/fish/completions"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / ".config"))
    monkeypatch.setenv("LLMCLI_THREADS", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:/usr/bin:/bin")
    assert run(["generate", "-q", "-n", "2", "--greedy", "--record", "run.json", "ab"]) == 0
    capfd.readouterr()
    return tmp_path


@pytest.mark.parametrize("command", [name for name, lines in EXAMPLES.items() if lines])
def test_every_example_runs(command: str, place: Path, monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    for line in EXAMPLES[command]:
        words = shlex.split(line)
        if command.split()[0] in _PARSED or words[0] in _PARSED:
            load_command("train").make_context("train", words[words.index("train") + 1 :])
        elif "--step" in words:
            on_a_terminal(line, place)
        elif _SHELL.search(re.sub("'[^']*'", "", line)):
            in_a_shell(line, place)
        else:
            assert words[0] == "llmcli"
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
            assert run(words[1:]) == 0, (line, capfd.readouterr().err)


def in_a_shell(line: str, place: Path) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("needs bash")
    done = subprocess.run([bash, "-o", "pipefail", "-c", line], capture_output=True, cwd=place, timeout=120)
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False), (line, done.stderr)


def on_a_terminal(line: str, place: Path) -> None:
    """For what waits for a key: they are there already."""
    child = pexpect.spawn("bash", ["-c", line], cwd=str(place), encoding="utf-8", dimensions=(40, 100), timeout=60)
    child.send("\n" * 40)
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0, (line, child.before)


def test_every_command_has_an_example() -> None:
    assert [name for name, lines in EXAMPLES.items() if not lines and " " not in name] == []
