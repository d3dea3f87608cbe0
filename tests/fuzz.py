"""A long run of broken inputs through the command itself: `python tests/fuzz.py --count 100000`.

Each input is a sound one of `fuzz_inputs`, damaged at random, and goes through `llmcli.__main__.run` in a worker
process. A finding is: a traceback or an internal error, more than two lines of complaint, an escape sequence on
stderr, an exit code that is not documented, more than 5 s of computing, a worker that dies, or memory that grows by
more than 64 MiB, or twice the input where that is more. Findings are printed, one JSON object a line, with the number
that repeats them: `python tests/fuzz.py --only NUMBER`. The last line tells the run: its seed and versions, inputs
and exit codes of each kind, the slowest input and the largest growth of memory. The exit code is 1 where there is any
finding.
"""

import argparse
import contextlib
import faulthandler
import io
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from fuzz_inputs import KINDS, Bench

CHUNK = 4000
SECONDS = 5.0
DEAD_SECONDS = 60  # of computing; ten times as many of waiting, since a busy machine may stop a process for long
GROWTH = 64 << 20
CODES = {0, 1, 2, 3, 4, 5}


def check(bench: Bench, number: int, seed: int) -> dict[str, Any]:
    """Runs one input; what was found with it under `found`, None for nothing."""
    draw = random.Random(f"{seed} {number}")
    kind = draw.choice(sorted(KINDS))
    arguments, stdin, size = KINDS[kind](bench, draw)
    before, start = peak(), time.process_time()
    code, err = run(arguments, stdin)
    seconds, grown = time.process_time() - start, peak() - before
    bench.restore()
    found = complaint(code, err)
    if found is None and seconds > SECONDS:
        found = f"took {seconds:.1f} s"
    if found is None and grown > max(GROWTH, 2 * size):
        found = f"memory grew by {grown >> 20} MiB for {size} bytes"
    measured = {"seconds": round(seconds, 3), "grown": grown}
    told = {"number": number, "kind": kind, "code": code, "found": found, **measured}
    return told | {"arguments": arguments, "stderr": err[-400:]}


def run(arguments: list[str], stdin: bytes) -> tuple[int, str]:
    """One command line in this process: its exit code and stderr."""
    from llmcli.__main__ import run as command

    streams = sys.stdin, sys.stdout, sys.stderr
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", errors="backslashreplace") for _ in range(2))
    sys.stdin, sys.stdout, sys.stderr = io.TextIOWrapper(io.BytesIO(stdin), "utf-8"), out, err
    try:
        code = command(arguments)
    finally:
        sys.stdin, sys.stdout, sys.stderr = streams
    err.flush()
    return code, err.buffer.getvalue().decode()


def complaint(code: int, err: str) -> str | None:
    if code not in CODES:
        return f"exit code {code}"
    for sign in ("Traceback", "internal error", "\x1b", "Warning:"):
        if sign in err:
            return f"stderr holds {sign!r}"
    lines = err.splitlines()
    said = [index for index, line in enumerate(lines) if line.startswith("llmcli: ")]
    if code and (len(said) != 1 or len(lines) - said[0] > 2):
        return "an error is not told in two lines"
    return None


def peak() -> int:
    """Most memory that the process has held, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def work(start: int, end: int, seed: int, place: Path) -> None:
    """A worker: runs inputs, and writes a line for each before and after."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    faulthandler.register(signal.SIGPROF, chain=True)  # and dies of it
    with tempfile.TemporaryDirectory() as folder, (place / "lines").open("w", buffering=1) as lines:
        bench = Bench(Path(folder))
        os.chdir(folder)
        run(["generate", "-m", str(bench.model), "-n", "2", "ab"], b"")  # imports what it needs
        for number in range(start, end):
            print(json.dumps({"number": number}), file=lines)
            signal.setitimer(signal.ITIMER_PROF, DEAD_SECONDS)
            faulthandler.dump_traceback_later(10 * DEAD_SECONDS, exit=True)
            print(json.dumps(check(bench, number, seed)), file=lines)
            faulthandler.cancel_dump_traceback_later()


@dataclass
class Tally:
    """What a run came to."""

    seed: int
    findings: list[dict[str, Any]] = field(default_factory=list)
    codes: Counter[str] = field(default_factory=Counter)
    slowest: dict[str, Any] = field(default_factory=dict)
    largest: dict[str, Any] = field(default_factory=dict)

    def add(self, told: list[dict[str, Any]]) -> None:
        self.codes.update(f"{each['kind']} {each['code']}" for each in told)
        self.findings += [each for each in told if each["found"] is not None]
        for each in told:
            brief = {key: each[key] for key in ("number", "kind", "seconds", "grown")}
            self.slowest = max(self.slowest or brief, brief, key=lambda one: one["seconds"])
            self.largest = max(self.largest or brief, brief, key=lambda one: one["grown"])

    def summary(self) -> dict[str, Any]:
        names = ("llmcli", "torch", "tokenizers", "safetensors", "llguidance")
        return {
            "seed": self.seed,
            "versions": {"python": sys.version.split()[0]} | {name: version(name) for name in names},
            "inputs": self.codes.total(),
            "findings": len(self.findings),
            "slowest": self.slowest,
            "largest_growth": self.largest,
            "codes": dict(sorted(self.codes.items())),
        }


def survey(start: int, end: int, tally: Tally) -> None:
    """Adds a range of inputs to a tally. A worker that dies is a finding too, and the next one goes on behind it."""
    command = [sys.executable, __file__, "--seed", str(tally.seed), "--worker"]
    while start < end:
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run([*command, str(start), str(end), folder], capture_output=True, check=False)
            lines: list[dict[str, Any]] = []
            with contextlib.suppress(FileNotFoundError):
                lines = [json.loads(line) for line in (Path(folder) / "lines").read_text().splitlines()]
        tally.add([each for each in lines if "kind" in each])
        if done.returncode == 0:
            return
        start = max((each["number"] for each in lines), default=start)
        said = done.stderr.decode("utf-8", "replace")[-1500:]
        tally.findings.append({"number": start, "found": f"the worker ended with {done.returncode}", "stderr": said})
        start += 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="the number of the first input")
    parser.add_argument("--only", type=int, help="run this input alone, and show everything")
    parser.add_argument("--worker", nargs=3, metavar=("START", "END", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(int(args.worker[0]), int(args.worker[1]), args.seed, Path(args.worker[2]))
        return 0
    if args.only is not None:
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            print(json.dumps(check(Bench(Path(folder)), args.only, args.seed), indent=1))
        return 0
    tally, began, last = Tally(args.seed), time.monotonic(), args.first + args.count
    for start in range(args.first, last, CHUNK):
        before, end = len(tally.findings), min(last, start + CHUNK)
        survey(start, end, tally)
        for each in tally.findings[before:]:
            print(json.dumps(each), flush=True)
        seconds = time.monotonic() - began
        print(f"{end - args.first} inputs, {len(tally.findings)} findings, {seconds:.0f} s", file=sys.stderr)
    print(json.dumps(tally.summary()))
    return 1 if tally.findings else 0


if __name__ == "__main__":
    sys.exit(main())
