"""What bounds the speed of a pass: the products with weights that it makes, and reading these weights.

    python benchmarks/floor.py --work /tmp/bench              # a decode step, a prompt, a batch; both shapes
    python benchmarks/floor.py --work /tmp/bench --only decode --shape gpt2

A forward pass is recorded as the operators that it calls, with their arguments; those that multiply by weights are then
called again with nothing between them, as the pass calls them: from TorchScript where steps are traced, since from
Python an operator with packed weights takes 11 microseconds more, and from Python those of a prompt; `+attention` are
these and, from Python, the operators that multiply by keys and values. Beside them stand the pass itself, the same pass
with its operators called from Python, as it is computed before its steps are traced, `transformers` in float32, and a
sum over a large tensor, which tells the bandwidth of memory: `memory` is what reading the weights of a decode step
would take. All take turns, a figure is the median, and a ratio says how many times as fast as `transformers` it is. A
target above `products` asks for kernels that are not PyTorch's, one above `memory` for smaller weights. `others` are
the operators that are no products: how many a pass calls, and how long each takes. Run it while nothing else runs.
"""

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import shapes
import torch
from contenders import BATCH, Llmcli, LlmcliRows, ids
from remote import THREADS, Remote
from torch.utils._python_dispatch import TorchDispatchMode

from llmcli.model.forms import onednn_product
from llmcli.model.int8_rows import int8_product
from llmcli.model.traced import recorded

CONTEXT = 50
PROMPT = 512
READ = 1 << 28
"""Bytes read to tell the bandwidth."""
PRODUCTS = {
    "linear",
    "_linear_pointwise",
    "linear_dynamic",
    "linear_dynamic_fp16",
    "qlinear_pointwise",
    "_weight_int4pack_mm_for_cpu",
}
"""Operators that read a weight matrix."""
ATTENTION = {"bmm", "scaled_dot_product_attention"}
KINDS = {"decode": "a decode step after 50 tokens", "prefill": "a prompt of 512 tokens", "batch": "a step of 32 texts"}
HEADS = ("the pass", "from Python", "products", "+attention", "memory", "others")

_INT8_ROWS = torch.ops.onednn.qlinear_pointwise.default._op

Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]


class Recording(TorchDispatchMode):
    """Counts calls of operators, and keeps those that compute, by their names, with the very tensors that they were
    called with. What one changes in place is kept twice, as it was: numbers that are multiplied again and again end
    where arithmetic is slow."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.calls: dict[str, list[Call]] = defaultdict(list)
        self.changed: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = defaultdict(list)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        kwargs = kwargs or {}
        name = func._schema.name.split("::")[1]
        kept = args
        if func._schema.is_mutable:
            kept = (args[0].clone(), *args[1:])
            self.changed[name].append((kept[0], args[0].clone()))
        result = func(*args, **kwargs)
        if func._schema.is_mutable or not _is_view(result, [*args, *kwargs.values()]):
            self.calls[name].append((func._op, kept, kwargs))  # without the checks of `OpOverload.__call__`
        return result

    def of(self, names: set[str]) -> list[Call]:
        return [call for name in self.calls if name in names for call in self.calls[name]]

    @torch.inference_mode()
    def restore(self, name: str) -> None:
        """Has what an operator changes in place be as it was."""
        for ours, before in self.changed[name]:
            ours.copy_(before)


def _is_view(result: Any, given: list[Any]) -> bool:
    return not {*_storages(result)}.isdisjoint(_storages(given))


def _storages(given: Any) -> Iterator[int]:
    if isinstance(given, torch.Tensor) and given.layout == torch.strided:
        yield given.untyped_storage().data_ptr()
    elif isinstance(given, (list, tuple)):
        for each in given:
            yield from _storages(each)


def one_pass(folder: Path, dtype: str, kind: str) -> tuple[Any, Callable[[], None]]:
    """A model, and a forward pass of that kind, which can be run again and again."""
    from llmcli.batch import decode_rows, read_rows
    from llmcli.generation import decode_step, prefill

    model = (LlmcliRows if kind == "batch" else Llmcli)(folder, dtype).model
    if kind == "prefill":
        return model, lambda: void(prefill(model, model.new_cache(), ids(PROMPT)))
    if kind == "batch":
        rows = model.new_rows(BATCH)
        read_rows(model, rows, [(row, ids(CONTEXT)) for row in range(BATCH)])

        def step_of_rows() -> None:
            decode_rows(model, rows, [7] * BATCH)
            rows.lengths = [CONTEXT] * BATCH

        return model, step_of_rows
    cache, fed = model.new_cache(), ids(CONTEXT)
    prefill(model, cache, fed)

    def step() -> None:
        decode_step(model, cache, [*fed, 7])
        cache.crop(CONTEXT)

    return model, step


def asked(kind: str) -> tuple[int, ...]:
    """What a contender is asked for such a pass."""
    return (PROMPT,) if kind == "prefill" else (CONTEXT, times(kind))


def times(kind: str) -> int:
    """How many such passes a round measures."""
    return 2 if kind == "prefill" else 8


def record(model: Any, work: Callable[[], None]) -> Recording:
    with Recording() as recording:
        from_python(model, work)()
    return recording


def from_python(model: Any, work: Callable[[], None]) -> Callable[[], None]:
    """The pass as it is before its steps are traced."""

    def run() -> None:
        with model.traced.after(sys.maxsize):
            work()

    return run


def void(_: object) -> None:
    """Takes what nobody looks at."""


def again(calls: list[Call]) -> Callable[[], None]:
    """The calls, one after the other."""

    @torch.inference_mode()
    def run() -> None:
        for operator, args, kwargs in calls:
            operator(*args, **kwargs)

    return run


def products(calls: list[Call], rows: list[torch.Tensor]) -> list[torch.Tensor]:
    """The calls, of rows in the place of their first arguments."""
    found = []
    for x, (operator, args, kwargs) in zip(rows, calls, strict=True):
        if operator == torch.ops.mkldnn._linear_pointwise.default._op:
            found.append(onednn_product(x, *args[1:4], args[5]))  # one argument is a list that no trace can hold
        elif operator == _INT8_ROWS:
            found.append(int8_product(x, *args[3:6]))
        else:
            found.append(operator(x, *args[1:], **kwargs))
    return found


def traced(calls: list[Call]) -> Callable[[], None]:
    """The calls, one after the other, from TorchScript as steps are."""
    rows = [args[0] for _, args, _ in calls]
    weights = [args[3 if operator == _INT8_ROWS else 1] for operator, args, _ in calls]
    graph = recorded(partial(products, calls), (rows,), weights)

    @torch.inference_mode()
    def run() -> None:
        with torch.jit.optimized_execution(False):
            graph(rows)

    return run


def seconds(work: Callable[[], None], count: int) -> float:
    """The median of some runs in a row."""
    taken = []
    for _ in range(count):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return median(taken)


@dataclass(frozen=True)
class Floor:
    """Ratios to `transformers` in float32, and what the operators take that are no products. `memory`: None but for a
    decode step."""

    whole: float
    python: float
    products: float
    attention: float
    memory: float | None
    others: int
    microseconds: float

    def line(self) -> str:
        memory = f"{self.memory:12.2f}" if self.memory else " " * 12
        ratios = f"{self.whole:12.2f}{self.python:12.2f}{self.products:12.2f}{self.attention:12.2f}{memory}"
        return f"{ratios}{self.others:12} x {self.microseconds:.1f} us"


def floor(folder: Path, dtype: str, kind: str, rounds: int) -> Floor:
    """All measured in turns."""
    from llmcli.inspect.bench import matrix_bytes

    base = Remote("Transformers", folder, "float32")
    model, work = one_pass(folder, dtype, kind)
    plain = from_python(model, work)
    recording = record(model, work)
    work()
    buffer = torch.ones(READ // 4)
    calls = recording.of(PRODUCTS)
    multiplied = (again if kind == "prefill" else traced)(calls)
    attended = again(recording.of(ATTENTION))
    runs = [work, plain, multiplied, lambda: void((multiplied(), attended())), lambda: void(buffer.sum())]
    figures: list[list[float]] = [[] for _ in range(1 + len(runs))]
    for _ in range(rounds):
        figures[0].append(median(base.ask(kind, *asked(kind))))
        for figure, run in zip(figures[1:], runs, strict=True):
            figure.append(seconds(run, times(kind)))
    base.end()
    theirs, whole, python, products, attention, reading = map(median, figures)
    others = recording.count - len(calls)
    return Floor(
        theirs / whole,
        theirs / python,
        theirs / products,
        theirs / attention,
        theirs / (reading * matrix_bytes(model) / READ) if kind == "decode" else None,
        others,
        1e6 * (whole - products) / others,
    )


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
            print(f"\n{shape}, {KINDS[kind]}\n{'':16}" + "".join(f"{head:>12}" for head in HEADS))
            for dtype in ("auto", "int8") if kind == "batch" else ("float32", "auto", "float16-packed", "int8", "int4"):
                print(f"{dtype:16}{floor(folder, dtype, kind, given.rounds).line()}", flush=True)


if __name__ == "__main__":
    main()
