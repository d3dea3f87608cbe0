"""A large text streams through `llmcli tokenize` in memory that does not grow with it."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

LIMIT = 300 * 1024  # KiB
LINE = "It was a bright cold day in April; the clocks, all %d of them, struck thirteen – and nobody's coat was dry.\n"


def peak_of(process: subprocess.Popen[bytes]) -> int:
    """The most memory that a process held in its life so far, in KiB."""
    try:
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_a_hundred_megabytes_of_prose_are_counted_in_constant_memory(shared: Path) -> None:
    command = [sys.executable, "-m", "llmcli", "tokenize", "--count", "-m", str(shared / "tokenizers" / "gpt2")]
    part = "".join(LINE % number for number in range(10_000)).encode()
    repeats = 100_000_000 // len(part) + 1
    with subprocess.Popen(command, stdin=-1, stdout=-1, env={**os.environ, "LLMCLI_DEBUG": ""}) as process:
        peak = 0

        def feed() -> None:
            nonlocal peak
            for _ in range(repeats):
                process.stdin.write(part)
                peak = max(peak, peak_of(process))
            process.stdin.close()

        feeder = threading.Thread(target=feed)
        feeder.start()
        counted = int(process.stdout.read())
        feeder.join()
    assert process.returncode == 0
    one = subprocess.run(command, input=part, capture_output=True, check=True)
    assert counted == repeats * int(one.stdout)
    assert 20 * 1024 < peak < LIMIT, f"{peak} KiB"
