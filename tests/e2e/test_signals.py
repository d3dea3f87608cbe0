"""`llmcli generate` as a process that is interrupted, stopped and left by its reader at any moment."""

import json
import os
import random
import signal
import subprocess
import sys
import termios
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pexpect
import pyte
import pytest

# The program itself, saying on descriptor 3 when it has begun to handle signals.
STARTED = """
import os, sys
from llmcli import __main__ as program
handle, program._handle_signals = program._handle_signals, lambda how: (
    handle(how), how is program._stop and os.write(int(os.environ["STARTED"]), b"started\\n"))
sys.exit(program.main())
"""
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("LLMCLI_")}
ENVIRONMENT |= {"OMP_NUM_THREADS": "1", "LLMCLI_THREADS": "1", "TERM": "xterm-256color"}
# A process takes about this long from its start to its first tokens: half of the moments are before, half after it.
SECONDS = 2.5
ENDLESS = ["--ignore-eos", "-n", "100000", "--context", "100001", ""]
FEW = [0.8]
MANY = pytest.param(100, marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def model(shared: Path) -> Path:
    return shared / "models" / "stories260K"


def moments(count: int, seed: str) -> list[float]:
    """Seconds after which something happens: one that is told, or many at random."""
    if count == len(FEW):
        return [share * SECONDS for share in FEW]
    draw = random.Random(seed)
    return [draw.uniform(0, SECONDS) for _ in range(count)]


def start(model: Path, *more: str) -> subprocess.Popen[bytes]:
    """`generate --events` without an end, in a process group of its own, once it handles signals."""
    reading, writing = os.pipe()
    command = [sys.executable, "-c", STARTED, "generate", "-m", str(model), "--events", *more, *ENDLESS]
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**ENVIRONMENT, "STARTED": str(writing)},
        pass_fds=[writing],
        process_group=0,
        bufsize=0,  # a line that a test reads takes nothing along that communicate() would miss
    )
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        assert pipe.readline() == b"started\n"
    return child


def check_lines(out: bytes) -> None:
    assert out == b"" or out.endswith(b"\n")
    for line in out.splitlines():
        json.loads(line)


def at_once(each, values) -> None:
    """Calls a function for all values, a few at a time."""
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(each, values))


@pytest.mark.parametrize("count", [len(FEW), MANY])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_whole_lines_and_its_code(model: Path, number: signal.Signals, count: int) -> None:
    def check(moment: float) -> None:
        with start(model) as child:
            time.sleep(moment)
            child.send_signal(number)
            out, err = child.communicate(timeout=60)
        assert child.returncode == 128 + number, (moment, err)
        assert b"Traceback" not in err, moment
        check_lines(out)

    at_once(check, moments(count, number.name))


@pytest.mark.parametrize("count", [len(FEW), MANY])
def test_a_reader_that_leaves_ends_it_quietly(model: Path, count: int) -> None:
    def check(moment: float) -> None:
        with start(model, "-q") as child:
            time.sleep(moment)
            assert child.stdout is not None
            child.stdout.close()
            child.wait(60)
            assert child.stderr is not None
            assert (child.returncode, child.stderr.read()) == (0, b""), moment

    at_once(check, moments(count, "pipe"))


@pytest.mark.parametrize("count", [len(FEW), MANY])
def test_a_stopped_process_goes_on(model: Path, count: int) -> None:
    def check(moment: float) -> None:
        with start(model) as child:
            time.sleep(moment)
            child.send_signal(signal.SIGTSTP)
            _, status = os.waitpid(child.pid, os.WUNTRACED)
            assert os.WIFSTOPPED(status), moment
            child.send_signal(signal.SIGCONT)
            assert child.stdout is not None
            lines = [child.stdout.readline() for _ in range(3)]
            child.send_signal(signal.SIGINT)
            out, err = child.communicate(timeout=60)
        assert child.returncode == 130, (moment, err)
        assert b"Traceback" not in err, moment
        check_lines(b"".join(lines) + out)
        assert [json.loads(line)["id"] for line in lines], moment

    at_once(check, moments(count, "stop"))


@pytest.mark.parametrize("count", [1, MANY])
def test_the_terminal_is_left_as_it_was(model: Path, count: int) -> None:
    draw = random.Random("terminal")
    for moment in [0.8 * SECONDS] if count == 1 else [draw.uniform(0.5, SECONDS) for _ in range(count)]:
        command = ["-m", "llmcli", "generate", "-m", str(model), "--show-tokens", *ENDLESS]
        child = pexpect.spawn(sys.executable, command, env=ENVIRONMENT, dimensions=(24, 80), timeout=60)
        before = termios.tcgetattr(child.child_fd)
        time.sleep(moment)
        child.kill(draw.choice([signal.SIGINT, signal.SIGTERM]))
        data = child.read()
        after = termios.tcgetattr(child.child_fd)
        child.close()
        emulator = pyte.Screen(80, 24)
        pyte.ByteStream(emulator).feed(data)
        assert child.exitstatus in (130, 143) or child.signalstatus, moment
        assert before == after, moment
        assert not emulator.cursor.hidden, moment
        assert b"Traceback" not in data, moment
        assert emulator.cursor.attrs == emulator.default_char, moment
        assert data == b"" or data.endswith(b"\n"), moment
