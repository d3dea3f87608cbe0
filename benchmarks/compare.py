"""`llmcli` beside the peers that are installed, interleaved in one run, on two shapes, as ratios.

    python benchmarks/compare.py --work /tmp/bench          # all of it, some minutes
    python benchmarks/compare.py --work /tmp/bench --shape gpt2 --only decode

Absolute times depend on the machine and on the hour; ratios of times from one run mean something. In every round each
contender runs once, and a figure is the median over the rounds. Run it while nothing else runs.
"""

import argparse
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

import contenders
import shapes

STEPS = 16
Figures = dict[str, list[float]]


def cast(folder: Path) -> dict[str, Callable[[], contenders.Contender]]:
    """Everyone who could run, by name."""
    found: dict[str, Callable[[], contenders.Contender]] = {
        "transformers float32": lambda: contenders.Transformers(folder, "float32"),
        "transformers bfloat16": lambda: contenders.Transformers(folder, "bfloat16"),
    }
    for dtype in ("float32", "auto", "int8", "int4"):
        found[f"llmcli {dtype}"] = lambda dtype=dtype: contenders.Llmcli(folder, dtype)
    if installed("ctranslate2"):
        for kind in ("float32", "int8"):
            found[f"ctranslate2 {kind}"] = lambda kind=kind: contenders.CTranslate2(folder, kind)
    if installed("llama-cpp-python") and installed("gguf"):
        for kind in ("F16", "Q8_0", "Q4_0"):
            found[f"llama.cpp {kind}"] = lambda kind=kind: contenders.LlamaCpp(folder, kind)
    return found


def installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        print(f"not compared, since it is not installed: {package}", file=sys.stderr)
        return False
    return True


def measure(everyone: dict[str, contenders.Contender], rounds: int, what: str) -> Figures:
    """name -> seconds, one a round: of a decode step after 50 and 900 tokens, of a prompt of 512, of a batch's step."""
    figures: Figures = {name: [] for name in everyone}
    for _ in range(rounds):
        for name, each in everyone.items():
            if what == "prefill":
                figures[name].append(each.prefill(512))
            elif what == "batch":
                figures[name].append(median(each.batch(50, STEPS)))  # type: ignore[attr-defined]
            else:
                figures[name].append(median(each.decode(int(what), STEPS)))
    return figures


def show(title: str, figures: Figures, unit: float = 1.0, against: str = "transformers float32") -> None:
    """Tokens a second, and the ratio to one of them: how many times as fast."""
    print(f"\n{title}\n{'':24}{'tokens/s':>10}{'ratio':>8}")
    base = median(figures[against])
    for name, times in figures.items():
        print(f"{name:24}{unit / median(times):>10.1f}{base / median(times):>8.2f}", flush=True)


def starts(folder: Path, work: Path, rounds: int) -> Figures:
    """Seconds of whole processes, from their start to the end of the first token: ours from a quantized folder."""
    small = work / f"{folder.name}-auto"
    if not small.is_dir():
        subprocess.run([sys.executable, "-m", "llmcli", "quantize", str(folder), str(small)], check=True)
    theirs = (
        "from transformers import AutoModelForCausalLM as M, PreTrainedTokenizerFast as T;"
        f"t=T.from_pretrained({str(folder)!r});m=M.from_pretrained({str(folder)!r});"
        "print(t.decode(m.generate(**t('a b c',return_tensors='pt'),max_new_tokens=1,do_sample=False)[0]))"
    )
    commands = {
        "transformers float32": [sys.executable, "-c", theirs],
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

_PEAK = """
import sys
sys.path.insert(0, {here!r})
import torch
import contenders
from pathlib import Path
def most():  # of this program; what getrusage tells may be that of the one that started it
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
before = most()
each = contenders.{kind}(Path({folder!r}), {dtype!r})
each.prefill(50)
each.decode(50, 8)
print(most() - before)
"""


def peak(kind: str, folder: Path, dtype: str) -> float:
    """MB that a process takes at most beyond `import torch`."""
    code = _PEAK.format(here=str(Path(__file__).parent), kind=kind, folder=str(folder), dtype=dtype)
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1]) / 1024


def compare(shape: str, work: Path, rounds: int, only: str) -> None:
    folder = shapes.make(shape, work)
    print(f"\n== {shape}, {date.today()}, {platform.processor() or platform.machine()}, 2 threads, {rounds} rounds")
    if only in ("all", "decode", "prefill"):
        everyone = {name: make() for name, make in cast(folder).items()}
        if only != "prefill":
            show("a decode step after 50 tokens", measure(everyone, rounds, "50"))
            show("a decode step after 900 tokens", measure(everyone, rounds, "900"))
        if only != "decode":
            show("a prompt of 512 tokens", measure(everyone, rounds, "prefill"), 512)
        everyone.clear()
    if only in ("all", "batch"):
        few: dict[str, contenders.Contender] = {
            "transformers float32": contenders.Transformers(folder, "float32"),
            "llmcli auto": contenders.Llmcli(folder, "auto", many_rows=True),
            "llmcli int8": contenders.Llmcli(folder, "int8"),
        }
        show(f"a decode step of {contenders.BATCH} texts", measure(few, rounds, "batch"), contenders.BATCH)
    if only in ("all", "start"):
        show("a process to its first token", starts(folder, work, rounds))
    if only in ("all", "memory"):
        print("\npeak memory beyond `import torch`, MB")
        kinds = [("Llmcli", "int8"), ("Llmcli", "auto"), ("Transformers", "float32")]
        if installed("llama-cpp-python") and installed("gguf"):
            kinds.append(("LlamaCpp", "Q8_0"))
        for kind, dtype in kinds:
            print(f"{kind.lower() + ' ' + dtype:24}{peak(kind, folder, dtype):>10.0f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for the checkpoints, kept for the next run")
    parser.add_argument("--shape", choices=[*shapes.SHAPES, "both"], default="both")
    parser.add_argument("--rounds", type=int, default=5)
    choices = ["all", "decode", "prefill", "batch", "start", "memory"]
    parser.add_argument("--only", choices=choices, default="all")
    given = parser.parse_args()
    import torch

    torch.set_num_threads(2)
    for shape in shapes.SHAPES if given.shape == "both" else [given.shape]:
        compare(shape, given.work, given.rounds, given.only)


if __name__ == "__main__":
    main()
