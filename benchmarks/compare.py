"""`llmcli` beside the peers that are installed, interleaved in one run, on two shapes, as ratios.

    python benchmarks/compare.py --work /tmp/bench          # all of it, some minutes
    python benchmarks/compare.py --work /tmp/bench --shape gpt2 --only decode

Absolute times depend on the machine and on the hour; ratios of times from one run mean something. In every round each
contender runs once, in a process of its own; a figure is the median over the rounds, a ratio that of the rounds'
ratios, so that an hour that slows all of them down leaves it as it is. Run it while nothing else runs.
"""

import argparse
import platform
import subprocess
import sys
import time
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

import contenders
import shapes
from remote import Remote

STEPS = 16
Figures = dict[str, list[float]]


Who = dict[str, tuple[str, str]]
"""Name -> class in `contenders`, and the dtype that it is made with."""

BASE = "transformers float32"


def cast() -> Who:
    """Everyone who could run."""
    found = {BASE: ("Transformers", "float32"), "transformers bfloat16": ("Transformers", "bfloat16")}
    found |= {f"llmcli {dtype}": ("Llmcli", dtype) for dtype in ("float32", "auto", "float16-packed", "int8", "int4")}
    if installed("ctranslate2"):
        found |= {f"ctranslate2 {kind}": ("CTranslate2", kind) for kind in ("float32", "int8")}
    if installed("llama-cpp-python") and installed("gguf"):
        found |= {f"llama.cpp {kind}": ("LlamaCpp", kind) for kind in ("F16", "Q8_0", "Q4_0")}
    return found


def installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        print(f"not compared, since it is not installed: {package}", file=sys.stderr)
        return False
    return True


def measure(who: Who, folder: Path, rounds: int, *asked: tuple[str, *tuple[int, ...]]) -> list[Figures]:
    """name -> seconds, one a round: of each contender, for each method and what it is given; the median where it gives
    several. What is asked comes in turns as well, so that one may be set beside another."""
    everyone: dict[str, Remote] = {}
    for name, (kind, dtype) in who.items():
        try:
            everyone[name] = Remote(kind, folder, dtype)
        except EOFError:
            print(f"not compared, since it does not start: {name}", file=sys.stderr)
    figures: list[Figures] = [{name: [] for name in everyone} for _ in asked]
    for _ in range(rounds):
        for name, each in list(everyone.items()):
            try:
                for taken, (method, *given) in zip(figures, asked, strict=True):
                    taken[name].append(median(each.ask(method, *given)))
            except EOFError:
                print(f"not compared, since it died at {method}: {name}", file=sys.stderr)
                del everyone[name]
                for taken in figures:
                    del taken[name]
    for each in everyone.values():
        each.end()
    return figures


def show(title: str, figures: Figures, unit: float = 1.0, before: Figures | None = None) -> None:
    """Tokens a second, and how many times as fast as `BASE` that is; the share of a contender's own speed `before`."""
    own_head = f"{'its own':>10}" if before else ""
    print(f"\n{title}\n{'':24}{'tokens/s':>10}{'ratio':>8}{own_head}")
    for name, times in figures.items():
        own = f"{ratio(before[name], times):>10.2f}" if before else ""
        print(f"{name:24}{unit / median(times):>10.1f}{ratio(figures[BASE], times):>8.2f}{own}", flush=True)


def ratio(times: list[float], others: list[float]) -> float:
    """Of each round, whose two times were taken under the same load of the machine; their median."""
    return median(time / other for time, other in zip(times, others, strict=True))


def starts(folder: Path, rounds: int) -> Figures:
    """Seconds of whole processes, from their start to the end of the first token: ours from a quantized folder."""
    small = shapes.quantized(folder, "auto")
    theirs = (
        "from transformers import AutoModelForCausalLM as M, PreTrainedTokenizerFast as T;"
        f"t=T.from_pretrained({str(folder)!r});m=M.from_pretrained({str(folder)!r});"
        "print(t.decode(m.generate(**t('a b c',return_tensors='pt'),max_new_tokens=1,do_sample=False)[0]))"
    )
    commands = {
        BASE: [sys.executable, "-c", theirs],
        "llmcli auto": [*LLMCLI, "generate", "-m", str(small), "--greedy", "-n", "1", "--quiet", "a b c"],
        "import torch": [sys.executable, "-c", "import torch"],
    }
    figures: Figures = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            start = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            figures[name].append(time.perf_counter() - start)
    return figures


LLMCLI = [sys.executable, "-m", "llmcli"]


def peak(kind: str, folder: Path, dtype: str) -> float:
    """MB that a process takes at most beyond `import torch`: it reads a short prompt and goes on a little."""
    each = Remote(kind, folder, dtype)
    each.ask("prefill", 50)
    each.ask("decode", 50, 8)
    return each.end()


def compare(shape: str, work: Path, rounds: int, only: str) -> None:
    folder = shapes.make(shape, work)
    print(f"\n== {shape}, {date.today()}, {platform.processor() or platform.machine()}, 2 threads, {rounds} rounds")
    who = cast()
    if only in ("all", "decode"):
        short, long = measure(who, folder, rounds, ("decode", 50, STEPS), ("decode", 900, STEPS))
        show("a decode step after 50 tokens", short)
        show("a decode step after 900 tokens, and its speed as a share of that after 50", long, before=short)
    if only in ("all", "prefill"):
        show("a prompt of 512 tokens", *measure(who, folder, rounds, ("prefill", 512)), 512)
    if only in ("all", "batch"):
        few = {BASE: who[BASE], "llmcli auto": ("LlmcliRows", "auto"), "llmcli int8": ("LlmcliRows", "int8")}
        (figures,) = measure(few, folder, rounds, ("batch", 50, STEPS))
        show(f"a decode step of {contenders.BATCH} texts", figures, contenders.BATCH)
    if only in ("all", "start"):
        show("a process to its first token", starts(folder, rounds))
    if only in ("all", "memory"):
        print("\npeak memory beyond `import torch`, MB")
        for name, (kind, dtype) in who.items():
            try:
                print(f"{name:24}{peak(kind, folder, dtype):>10.0f}", flush=True)
            except EOFError:
                print(f"not compared, since it does not start or died: {name}", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for the checkpoints, kept for the next run")
    parser.add_argument("--shape", choices=[*shapes.SHAPES, "both"], default="both")
    parser.add_argument("--rounds", type=int, default=5)
    choices = ["all", "decode", "prefill", "batch", "start", "memory"]
    parser.add_argument("--only", choices=choices, default="all")
    given = parser.parse_args()
    for shape in shapes.SHAPES if given.shape == "both" else [given.shape]:
        compare(shape, given.work, given.rounds, given.only)


if __name__ == "__main__":
    main()
