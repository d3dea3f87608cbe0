"""The boundary: exit codes, the two lines of an error, signals, and streams that fail."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import probe
import pytest

from llmcli.__main__ import run
from llmcli.cli.io import note

PROBE = [sys.executable, probe.__file__, "probe"]


@pytest.fixture(autouse=True)
def _plain_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(probe.app.COMMANDS, "probe", probe.ENTRY)
    for name in [name for name in os.environ if name.startswith("LLMCLI_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("LLMCLI_DEBUG", "")  # so that what --debug sets is taken back
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))


def process(*command: str, **options: Any) -> subprocess.CompletedProcess[str]:
    options = {"capture_output": True, "text": True, "timeout": 60, **options}
    return subprocess.run([*PROBE, *command], check=False, **options)


def shell(line: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    llmcli = f"{sys.executable} {probe.__file__}"
    line = f"set -o pipefail; {line.replace('llmcli', llmcli)}"
    return subprocess.run(
        ["bash", "-c", line], capture_output=True, timeout=60, check=False, env={**os.environ, **environment}
    )


@pytest.mark.parametrize(
    ("how", "code", "lines"),
    [
        ("model", 3, ["llmcli: a model", "a remedy"]),
        ("context", 4, ["llmcli: a context"]),
        ("check", 5, ["llmcli: a check"]),
        ("missing", 1, ["llmcli: /no/such/file: No such file or directory", "check the path, its disk and rights"]),
    ],
)
def test_errors_are_two_lines_and_a_code(how: str, code: int, lines: list[str], capsys: Any) -> None:
    assert run(["probe", how]) == code
    out, err = capsys.readouterr()
    assert (out, err.splitlines()) == ("", lines)


def test_no_memory_is_said(capsys: Any) -> None:
    assert run(["probe", "memory"]) == 1
    assert "out of memory" in capsys.readouterr().err


def test_a_bug_is_one_line_and_nothing_in_it_steers_the_terminal(capsys: Any) -> None:
    assert run(["probe", "bug"]) == 1
    err = capsys.readouterr().err
    what, remedy = err.splitlines()
    assert what.startswith("llmcli: internal error: KeyError")
    assert "--debug" in remedy
    assert "\x1b" not in err
    assert "\x07" not in err


@pytest.mark.parametrize(
    "arguments", [["--debug", "probe", "bug"], ["probe", "bug", "--debug"], ["probe", "--debug", "bug"]]
)
def test_debug_shows_the_traceback_wherever_it_stands(arguments: list[str], capsys: Any) -> None:
    assert run(arguments) == 1
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert "probe.py" in err
    assert "\x1b" not in err


def test_debug_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("LLMCLI_DEBUG", "1")
    assert run(["probe", "bug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_the_token_is_never_shown(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_abc")
    assert run(["--debug", "probe", "secret"]) == 1
    err = capsys.readouterr().err
    assert "token ***" in err
    assert "hf_abc" not in err


@pytest.mark.parametrize(
    ("arguments", "what", "advice"),
    [
        (["--vresion"], "there is no option --vresion", "did you mean --version?"),
        (["probe", "values", "--devise", "cpu"], "there is no option --devise", "did you mean --device?"),
        (["prob"], "there is no command 'prob'", "did you mean probe?"),
        (["zzzzz"], "there is no command 'zzzzz'", "llmcli --help"),
        (["models", "pth"], "no such command 'pth'", "llmcli models --help"),
        (["models", "path"], "missing argument 'MODEL'", "llmcli models path --help"),
        (["probe"], "missing argument 'how'", "llmcli probe --help"),
        (["probe", "values", "more"], "unexpected extra argument", "llmcli probe --help"),
        (["probe", "values", "--seed"], "--seed", "--help"),
        (["probe", "values", "--seed", "x"], "LLMCLI_SEED'): it must be a valid integer", "llmcli probe --help"),
        (["probe", "values", "--threads", "0"], "): it must be greater than or equal to 1", "llmcli probe --help"),
        (["probe", "values", "--device", "tpu"], "): 'tpu' is not one of 'auto', 'cpu'", "llmcli probe --help"),
        (["probe", "-1"], "there is no option -1", "put -- before text and numbers that begin with a dash"),
        (["--debug"], "missing command", "llmcli --help"),
    ],
)
def test_a_wrong_command_line_is_two_lines_and_exit_2(
    arguments: list[str], what: str, advice: str, capsys: Any
) -> None:
    assert run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    first, second = [line for line in err.splitlines() if not line.startswith(("Traceback", " "))][-2:]
    assert first.startswith("llmcli: ")
    assert what in first
    assert advice in second


def test_an_option_with_escapes_does_not_steer_the_terminal(capsys: Any) -> None:
    assert run(["probe", "--\x1b[31mred"]) == 2
    assert "\x1b" not in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_lists_every_command(arguments: list[str], capsys: Any) -> None:
    assert run(arguments) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert all(f"  {name} " in out for name in probe.app.COMMANDS)


def test_version_names_what_decides_the_numbers(capsys: Any) -> None:
    assert run(["--version"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["llmcli", "python", "torch", "tokenizers", "safetensors"]


def test_flag_over_environment_over_file_over_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def values(*arguments: str) -> dict[str, Any]:
        assert run(["probe", "values", *arguments]) == 0
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    assert values() == {
        "model": "stories",
        "device": "auto",
        "threads": None,
        "seed": None,
        "temperature": None,
        "own": "mine",
    }
    (tmp_path / "llmcli").mkdir()
    (tmp_path / "llmcli" / "config.toml").write_text('model = "file"\nseed = 3\ntemperature = 1\nthreads = 2\n')
    assert values() == {"model": "file", "device": "auto", "threads": 2, "seed": 3, "temperature": 1.0, "own": "mine"}
    monkeypatch.setenv("LLMCLI_MODEL", "env")
    monkeypatch.setenv("LLMCLI_SEED", "4")
    assert values("--seed", "5")["model"] == "env"
    assert values("--seed", "5")["seed"] == 5
    assert values()["seed"] == 4


def test_the_file_speaks_only_to_options_that_are_settings(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "llmcli").mkdir()
    (tmp_path / "llmcli" / "config.toml").write_text("max_tokens = 9\nseed = 3\n")
    assert run(["probe", "values"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["seed"], found["own"]) == (3, "mine")


def test_a_wrong_key_in_the_file_stops_every_command(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "llmcli").mkdir()
    (tmp_path / "llmcli" / "config.toml").write_text("modle = 'x'\n")
    assert run(["probe", "values"]) == 2
    assert "did you mean model?" in capsys.readouterr().err
    assert run(["--help"]) == 0


@pytest.mark.parametrize("how", ["many", "print"])
def test_a_reader_that_goes_away_is_no_error(how: str) -> None:
    done = shell(f"llmcli probe {how} | head -1")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"0\n", b"")


@pytest.mark.parametrize("command", ["probe many", "probe print", "--help", "--version", "models", "config show"])
def test_a_full_disk_is_exit_1_and_said(command: str) -> None:
    done = shell(f"llmcli {command} > /dev/full")
    assert done.returncode == 1
    assert b"No space left on device" in done.stderr
    assert len(done.stderr.splitlines()) == 2


@pytest.mark.parametrize("command", ["probe values", "--help", "models"])
def test_a_closed_stdout_is_exit_1_and_said(command: str) -> None:
    done = shell(f"llmcli {command} >&-")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 2


def test_a_closed_stdin_and_stderr_do_no_harm() -> None:
    assert shell("llmcli probe values <&-").returncode == 0
    assert shell("llmcli probe values 2>&-").returncode == 0
    assert shell("llmcli probe bug 2>&-").returncode == 1
    assert shell("llmcli probe bug 2>/dev/full").returncode == 1


@pytest.mark.parametrize(
    "locale",
    [{"LC_ALL": "C"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"PYTHONIOENCODING": "latin1"}],
)
def test_stdout_is_utf8_in_every_locale_and_lone_surrogates_do_not_crash(locale: dict[str, str]) -> None:
    done = shell("llmcli probe surrogate", **locale)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode() == "a\\udce9b\nc\\udce9d é 😀\n"


def test_bytes_are_untouched() -> None:
    assert shell("llmcli probe bytes").stdout == b"a\r\nb\xff"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("how", ["sleep", "swallow"])
def test_signals_end_quietly_with_their_code(number: signal.Signals, how: str) -> None:
    child = subprocess.Popen([*PROBE, how], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    child.send_signal(number)
    out, err = child.communicate(timeout=20)
    assert (child.returncode, out, err) == (128 + number, b"", b"")


def test_a_second_signal_does_not_wait() -> None:
    child = subprocess.Popen([*PROBE, "ignore"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    child.send_signal(signal.SIGINT)
    assert child.stdout.readline() == b"once\n"
    child.send_signal(signal.SIGTERM)
    _, err = child.communicate(timeout=20)
    assert (child.returncode, err) == (143, b"")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_inside_a_destructor_is_not_lost(number: signal.Signals) -> None:
    done = process("destructor", env={**os.environ, "PROBE_SIGNAL": str(int(number))}, timeout=20)
    assert (done.returncode, done.stderr) == (128 + number, "")


# Handles signals as the program does, then imports a module that swallows whatever is raised in it.
SWALLOWING = """
import sys
from llmcli import __main__ as program
program._handle_signals(program._stop)
import swallowing
print("not reached")
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_inside_an_import_ends_the_program_there(number: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "swallowing.py").write_text(
        "import time\nprint('ready', flush=True)\ntry:\n    time.sleep(30)\nexcept BaseException:\n    pass\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", SWALLOWING],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    child.send_signal(number)
    out, err = child.communicate(timeout=20)
    assert (child.returncode, out, err) == (128 + number, b"", b"")


class Interrupted(io.StringIO):
    """A stream of text during whose first write a signal arrives."""

    def write(self, text: str) -> int:
        super().write(text)
        raise KeyboardInterrupt


def test_a_signal_while_stderr_is_written_leaves_whole_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    for say, lines in (
        (lambda: note("a note"), "a note\n"),
        (lambda: run(["probe", "model"]), "llmcli: a model\na remedy\n"),
    ):
        monkeypatch.setattr(sys, "stderr", Interrupted())
        with pytest.raises(KeyboardInterrupt):
            say()
        assert sys.stderr.getvalue() == lines


def test_nohup_is_respected() -> None:
    done = shell("trap '' HUP; llmcli probe sleep & sleep 1; kill -HUP $!; sleep 0.3; kill -TERM $!; wait $!")
    assert done.returncode == 143


# Waits for input after a signal that was swallowed, or while one comes to another thread, which interrupts no read.
WAITING = """
import os, signal, sys, threading, time
from llmcli import __main__ as program
from llmcli.cli import app, io

def elsewhere():
    time.sleep(0.3)
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

def invoke(arguments):
    if arguments == ["swallowed"]:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except BaseException:
            pass
    else:
        threading.Thread(target=elsewhere, daemon=True).start()
    return len(io.read_text("-", None, example=""))

app.invoke = invoke
sys.exit(program.main())
"""


@pytest.mark.parametrize("how", ["swallowed", "elsewhere"])
def test_a_signal_does_not_wait_for_input(how: str) -> None:
    with subprocess.Popen([sys.executable, "-c", WAITING, how], stdin=subprocess.PIPE) as child:
        assert child.wait(20) == 143


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_at_any_moment(number: signal.Signals, shared: Path) -> None:
    """A hundred moments, from the one when llmcli can handle signals until it waits for its input."""
    model = shared / "models" / "stories260K"
    for step in range(100):
        with subprocess.Popen(
            [sys.executable, "-c", STARTED, "tokenize", "-m", str(model), "-"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as child:
            assert child.stderr is not None
            assert child.stderr.readline() == b"started\n"
            time.sleep(step * 0.004)
            child.send_signal(number)
            child.wait(20)
            assert (child.returncode, child.stderr.read()) == (128 + number, b""), step


# The program itself, saying on stderr when it has begun to handle signals.
STARTED = """
import os, sys
from llmcli import __main__ as program
handle, program._handle_signals = program._handle_signals, lambda how: (
    handle(how), how is program._stop and os.write(2, b"started\\n"))
sys.exit(program.main())
"""
