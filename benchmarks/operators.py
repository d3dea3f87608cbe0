"""Which operators a pass spends its time in: a profile without a profiler, whose own work is as long as theirs.

    python benchmarks/operators.py --work /tmp/bench --shape smollm2 --only batch --dtype int8

A pass is recorded as the operators that it calls, with their arguments; views and what only reads a number are left
out. Those of one name are then called again, one after the other with nothing between them (`floor.py` says how), in
turns with the pass itself and one of `transformers` in float32. A figure is the median. `all operators` is the sum:
what it would take if nothing but them were called, and how many times as fast as `transformers` that would be.
Where it is near `the pass`, a pass gets faster only by fewer or faster operators. Run it while nothing else runs.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import shapes
import torch
from floor import KINDS, PRODUCTS, Call, again, asked, from_python, one_pass, seconds, traced
from remote import THREADS, Remote
from torch.utils._python_dispatch import TorchDispatchMode

TIMES = 8
READING = {"lift_fresh", "item", "detach_"}
"""Operators that only make a tensor known, or read a number from it."""


class Operators(TorchDispatchMode):
    """Keeps the calls of operators that compute, by their names. What one changes in place is kept twice, as it was:
    numbers that are multiplied again and again end where arithmetic is slow."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, list[Call]] = defaultdict(list)
        self.changed: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = defaultdict(list)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.split("::")[1]
        if func._schema.is_mutable and name not in READING:
            before, ours = args[0].clone(), args[0].clone()
            self.changed[name].append((ours, before))
            self.calls[name].append((func._op, (ours, *args[1:]), kwargs))
            return func(*args, **kwargs)
        result = func(*args, **kwargs)
        if name not in READING and not _is_view(result, [*args, *kwargs.values()]):
            self.calls[name].append((func._op, args, kwargs))
        return result

    @torch.inference_mode()
    def restore(self, name: str) -> None:
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


def profile(folder: Path, dtype: str, kind: str, rounds: int) -> None:
    base = Remote("Transformers", folder, "float32")
    model, step = one_pass(folder, dtype, kind)
    plain = from_python(model, step)
    with Operators() as operators:
        plain()
    with model.traced.after(0):
        step()
    stepping = kind != "prefill"
    works = {
        name: (traced if stepping and name in PRODUCTS else again)(calls) for name, calls in operators.calls.items()
    }
    figures: dict[str, list[float]] = defaultdict(list)
    for _ in range(rounds):
        figures["transformers"].append(median(base.ask(kind, *asked(kind))))
        for name, work in {**works, "the pass": step}.items():
            for _ in range(2 if kind == "prefill" else TIMES):
                operators.restore(name)
                figures[name].append(seconds(work, 1))
    base.end()
    taken = {name: 1e3 * median(each) for name, each in figures.items()}
    theirs, whole = taken.pop("transformers"), taken.pop("the pass")
    print(f"\n{folder.name}, {dtype}, {KINDS[kind]}\n{'':32}{'calls':>7}{'us each':>10}{'ms':>9}{'ratio':>8}")
    for name in sorted(taken, key=lambda each: -taken[each]):
        count = len(operators.calls[name])
        print(f"{name:32}{count:7}{1e3 * taken[name] / count:10.1f}{taken[name]:9.2f}")
    for name, each in (("all operators", sum(taken.values())), ("the pass", whole), ("transformers float32", theirs)):
        print(f"{name:49}{each:9.2f}{theirs / each:8.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for the checkpoints, kept for the next run")
    parser.add_argument("--shape", choices=[*shapes.SHAPES], required=True)
    parser.add_argument("--only", choices=[*KINDS], required=True)
    parser.add_argument("--dtype", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(THREADS)
    profile(shapes.make(given.shape, given.work), given.dtype, given.only, given.rounds)


if __name__ == "__main__":
    main()
