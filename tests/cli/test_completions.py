"""The completion scripts: current, and working in the real shells on a pseudo-terminal."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pexpect
import pytest

from llmcli.__main__ import run
from llmcli.cli.completions import FILES, main, script
from llmcli.completions.tree import read_tree

PROJECT = Path(__file__).resolve().parent.parent.parent
SHELLS = ("bash", "zsh", "fish")


@pytest.mark.parametrize("shell", SHELLS)
def test_the_files_of_the_project_are_current(shell: str) -> None:
    written = (PROJECT / "completions" / FILES[shell]).read_text("utf-8")
    assert written == script(shell), "run: python -m llmcli.cli.completions --write completions"


@pytest.mark.parametrize("shell", SHELLS)
def test_the_command_prints_the_script(shell: str, capsys: Any) -> None:
    assert run(["completions", shell]) == 0
    assert capsys.readouterr().out == script(shell)


def test_the_man_page_is_current_and_holds_every_option() -> None:
    page = (PROJECT / "completions" / FILES["man"]).read_text("utf-8")
    assert page == script("man"), "run: python -m llmcli.cli.completions --write completions"
    for command in read_tree().walk():
        for option in command.options:
            for name in option.names:
                assert name.replace("-", r"\-") in page


def test_the_man_page_is_set_without_a_warning() -> None:
    path = shutil.which("groff")
    if path is None:
        pytest.skip("needs groff")
    page = PROJECT / "completions" / FILES["man"]
    done = subprocess.run([path, "-man", "-ww", "-Tutf8", "-P-c", page], capture_output=True, check=False)
    assert (done.returncode, done.stderr.decode()) == (0, "")
    text = re.sub("_\b|.\b", "", done.stdout.decode())  # bold and underlined, as a terminal overprints them
    for line in ("--max-tokens N", "$ llmcli tokenize", "$XDG_CONFIG_HOME/llmcli/config.toml", "'\\n\\n'"):
        assert line in text, line


def test_an_unknown_shell_is_exit_2(capsys: Any) -> None:
    assert run(["completions", "tcsh"]) == 2
    assert "bash" in capsys.readouterr().err


def test_stale_files_are_found_and_written(tmp_path: Path, capsys: Any) -> None:
    assert main(tmp_path, write=False) == 1
    assert "is stale" in capsys.readouterr().out
    assert main(tmp_path, write=True) == 0
    assert main(tmp_path, write=False) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("shell", SHELLS)
def test_the_shell_can_read_it(shell: str) -> None:
    path = shutil.which(shell)
    if path is None:
        pytest.skip(f"needs {shell}")
    done = subprocess.run([path, "-n", PROJECT / "completions" / FILES[shell]], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


START = {
    "bash": (
        ["--norc", "--noprofile", "-i"],
        "PS1='ready> '; bind 'set bell-style none'; bind 'set enable-bracketed-paste off';"
        " bind 'set show-all-if-ambiguous on'; bind 'set completion-query-items 0'; bind 'set page-completions off';"
        " source {script}",
    ),
    "zsh": (
        ["-f", "-i"],
        "PS1='ready> '; autoload -Uz compinit; compinit -u -d {home}/dump; setopt nobeep noautomenu autolist;"
        " unsetopt promptsp promptcr zle_bracketed_paste 2>/dev/null; LISTMAX=1000; source {script}",
    ),
    "fish": (
        ["--no-config", "-i"],
        "function fish_prompt; echo -n 'ready> '; end; set -g fish_greeting; set -g fish_autosuggestion_enabled 0;"
        " source {script}",
    ),
}


@contextmanager
def shell_in(folder: Path, shell: str) -> Iterator[Any]:
    """An interactive shell in a folder, with the script loaded and a prompt of "ready> "."""
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell}")
    arguments, setup = START[shell]
    environment = {
        "HOME": str(folder),
        "HF_HUB_CACHE": str(folder / "cache"),
        "PATH": "/usr/bin:/bin",
        "TERM": "dumb" if shell != "fish" else "xterm",
        "LC_ALL": "C.UTF-8",
    }
    child = pexpect.spawn(
        shutil.which(shell),
        arguments,
        cwd=str(folder),
        env=environment,
        encoding="utf-8",
        dimensions=(60, 200),
        timeout=15,
    )
    try:
        child.sendline(setup.format(script=PROJECT / "completions" / FILES[shell], home=folder))
        child.sendline("echo set''up")
        child.expect("setup")
        child.expect("ready> ")
        yield child
    finally:
        child.close(force=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A home with a file, a folder, and one model in the cache."""
    (tmp_path / "notes.txt").write_text("text")
    (tmp_path / "modelfolder").mkdir()
    snapshot = tmp_path / "cache" / "models--someone--tiny-model" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    return tmp_path


# What is typed before Tab, and what the shell then shows.
CASES = [
    ("llmcli token", "tokenize"),
    ("llmcli models pa", "path"),
    ("llmcli generate --max-t", "--max-tokens"),
    ("llmcli tokenize --per", "--per-line"),
    ("llmcli generate --device cu", "cuda"),
    ("llmcli generate --model some", "someone/tiny-model"),
    ("llmcli generate -m modelf", "modelfolder/"),
    ("llmcli tokenize --file not", "notes.txt"),
    ("llmcli models path some", "someone/tiny-model"),
    ("llmcli completions fi", "fish"),
]


@pytest.mark.parametrize("shell", SHELLS)
def test_tab_completes(shell: str, folder: Path) -> None:
    with shell_in(folder, shell) as child:
        for typed, wanted in CASES:
            child.send(typed + "\t")
            rest = wanted.removeprefix(typed.rpartition(" ")[2])
            seen = expect_text(child, rest)
            assert seen, (typed, child.before)
            child.send("\x15")  # empties the line


def expect_text(child: Any, text: str) -> bool:
    # Escape sequences that a line editor may put between two characters are passed over.
    between = r"(?:\x1b[\[\]()][0-9;?]*[a-zA-Z]|[\r\n\x08])*"
    found: int = child.expect([between.join(map(re.escape, text)), pexpect.TIMEOUT], timeout=10)
    return found == 0


@pytest.mark.parametrize("shell", SHELLS)
def test_tab_lists_every_command(shell: str, folder: Path) -> None:
    with shell_in(folder, shell) as child:
        child.send("llmcli \t\t")
        for name in ("generate", "models"):
            assert expect_text(child, name), child.before


def test_no_python_is_started_by_a_tab() -> None:
    for shell in SHELLS:
        text = script(shell)
        assert "python" not in text
        assert "$(llmcli" not in text
        assert "(llmcli" not in text.replace("compdef _llmcli llmcli", "")
    assert sys.executable not in text
