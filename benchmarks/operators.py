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
from pathlib import Path
from statistics import median

import shapes
import torch
from floor import KINDS, PRODUCTS, again, asked, one_pass, record, seconds, times, traced
from remote import THREADS, Remote

READING = {"lift_fresh", "item", "detach_"}
"""Operators that only make a tensor known, or read a number from it."""


def profile(folder: Path, dtype: str, kind: str, rounds: int) -> None:
    base = Remote("Transformers", folder, "float32")
    model, step = one_pass(folder, dtype, kind)
    recording = record(model, step)
    calls = {name: each for name, each in recording.calls.items() if name not in READING}
    step()
    stepping = kind != "prefill"
    works = {name: (traced if stepping and name in PRODUCTS else again)(each) for name, each in calls.items()}
    figures: dict[str, list[float]] = defaultdict(list)
    for _ in range(rounds):
        figures["transformers"].append(median(base.ask(kind, *asked(kind))))
        for name, work in {**works, "the pass": step}.items():
            for _ in range(times(kind)):
                recording.restore(name)
                figures[name].append(seconds(work, 1))
    base.end()
    taken = {name: 1e3 * median(each) for name, each in figures.items()}
    theirs, whole = taken.pop("transformers"), taken.pop("the pass")
    print(f"\n{folder.name}, {dtype}, {KINDS[kind]}\n{'':32}{'calls':>7}{'us each':>10}{'ms':>9}{'ratio':>8}")
    for name in sorted(taken, key=lambda each: -taken[each]):
        count = len(calls[name])
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
