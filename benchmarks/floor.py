"""What PyTorch's operators alone would take: the bound for whatever calls them.

    python benchmarks/floor.py --work /tmp/bench              # a decode step, a prompt, a batch; both shapes
    python benchmarks/floor.py --work /tmp/bench --only decode --shape gpt2

A forward pass of `llmcli` is recorded as the operators that it calls, with their arguments; then these are called again
with nothing between them: all of them, and those alone that multiply by weights. Beside them stand the pass itself and
`transformers` in float32. All take turns, a figure is the median, and a ratio says how many times as fast as
`transformers` it is. A target above the last column asks for other kernels than PyTorch's. Run it while nothing else
runs.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import shapes
import torch
from contenders import BATCH, Llmcli, LlmcliRows, ids
from remote import THREADS, Remote
from torch.utils._python_dispatch import TorchDispatchMode

CONTEXT = 50
PROMPT = 512
PRODUCTS = {"linear", "_linear_pointwise", "linear_dynamic", "_weight_int4pack_mm_for_cpu"}
"""Operators that read a weight matrix. Attention's own products are `bmm` and the fused kernel."""
KINDS = {"decode": "a decode step after 50 tokens", "prefill": "a prompt of 512 tokens", "batch": "a step of 32 texts"}

Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]


class Recording(TorchDispatchMode):
    """Keeps every call of an operator, with the very tensors that it was called with."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.products: list[Call] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        call = (func._op, args, kwargs or {})  # without the checks of `OpOverload.__call__`
        self.calls.append(call)
        if func._schema.name.split("::")[1] in PRODUCTS:
            self.products.append(call)
        return func(*args, **call[2])


def one_pass(folder: Path, dtype: str, kind: str) -> Callable[[], None]:
    """A forward pass of that kind, which can be run again and again."""
    from llmcli.batch import decode_rows, read_rows
    from llmcli.generation import decode_step, prefill
    from llmcli.model.batch_cache import BatchCache

    model = (LlmcliRows if kind == "batch" else Llmcli)(folder, dtype).model
    if kind == "prefill":
        return lambda: void(prefill(model, model.new_cache(), ids(PROMPT)))
    if kind == "batch":
        rows = BatchCache(model.config, BATCH, model.kv_dtype)
        read_rows(model, rows, [(row, ids(CONTEXT)) for row in range(BATCH)])
        return lambda: void(decode_rows(model, rows, [7] * BATCH))
    cache, fed = model.new_cache(), ids(CONTEXT)
    prefill(model, cache, fed)

    def step() -> None:
        decode_step(model, cache, [*fed, 7])
        cache.crop(CONTEXT)

    return step


def void(_: object) -> None:
    """Takes what nobody looks at."""


def again(calls: list[Call]) -> Callable[[], None]:
    """The calls, one after the other."""

    @torch.inference_mode()
    def run() -> None:
        for operator, args, kwargs in calls:
            operator(*args, **kwargs)

    return run


def seconds(work: Callable[[], None], times: int) -> float:
    """The median of some runs in a row."""
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return median(taken)


def floors(folder: Path, dtype: str, kind: str, rounds: int) -> list[float]:
    """Ratios to `transformers` in float32: of the pass, of its operators alone, of its products alone."""
    base = Remote("Transformers", folder, "float32")
    asked = (PROMPT,) if kind == "prefill" else (CONTEXT, 8)
    work = one_pass(folder, dtype, kind)
    work()
    with Recording() as recording:
        work()
    runs = [work, again(recording.calls), again(recording.products)]
    figures: list[list[float]] = [[] for _ in range(1 + len(runs))]
    for _ in range(rounds):
        figures[0].append(median(base.ask(kind, *asked)))
        for figure, run in zip(figures[1:], runs, strict=True):
            figure.append(seconds(run, 2 if kind == "prefill" else 8))
    base.end()
    theirs, *ours = map(median, figures)
    return [theirs / each for each in ours]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for the checkpoints, kept for the next run")
    parser.add_argument("--shape", choices=[*shapes.SHAPES, "both"], default="both")
    parser.add_argument("--only", choices=[*KINDS, "all"], default="all")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(THREADS)
    for shape in shapes.SHAPES if given.shape == "both" else [given.shape]:
        folder = shapes.make(shape, given.work)
        for kind in KINDS if given.only == "all" else [given.only]:
            print(f"\n{shape}, {KINDS[kind]}\n{'':10}{'the pass':>12}{'operators':>12}{'products':>12}")
            for dtype in ("auto", "int8") if kind == "batch" else ("float32", "auto", "int8", "int4"):
                ratios = floors(folder, dtype, kind, given.rounds)
                print(f"{dtype:10}" + "".join(f"{ratio:12.2f}" for ratio in ratios), flush=True)


if __name__ == "__main__":
    main()
