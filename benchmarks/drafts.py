"""What `--draft lookup` gains and costs, as ratios of one interleaved run, and how many ids stay the same.

    python benchmarks/drafts.py --work /tmp/bench

Three tasks on the model that comes with the package and on GPT-2's shape with random weights. `copying`: greedy, which
in both soon goes round in circles, so guesses are right. `novel`: drawn from the whole distribution, so hardly anything
repeats. `misleading`: drawn from the four most probable tokens at a high temperature, so that much seems to repeat and
most guesses are wrong. A ratio is the time without drafts by the time with them: of each round, where one follows the
other, now this one first and now that one, and of all rounds the median. `eq` is the share of ids before the first that
differs, which in float32 is all. Run it while nothing else runs.
"""

import argparse
import time
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path
from statistics import median

import shapes
import torch
from contenders import ids
from remote import THREADS

from llmcli.draft import Lookup, generate_drafted
from llmcli.generation import Sequence, generate
from llmcli.model import heap
from llmcli.model.loading import load
from llmcli.model.transformer import CausalLM
from llmcli.resolve import resolve
from llmcli.sampling_params import SamplingParams

TOKENS = 200
TASKS: dict[str, dict[str, float]] = {
    "copying": {"temperature": 0.0},
    "novel": {"temperature": 1.0},
    "misleading": {"temperature": 5.0, "top_k": 4},
}
DTYPES = ("float32", "auto", "int8", "int4")


def new(model: CausalLM, task: str) -> Sequence:
    params = SamplingParams(max_tokens=TOKENS, ignore_eos=True, **TASKS[task])  # type: ignore[arg-type]
    prompt = [1 + each % (model.config.vocab_size - 1) for each in ids(60)]
    return Sequence(prompt, params, seed=1, eos_ids=[], context=model.config.context_length)


def timed(work: Callable[[], Sequence]) -> tuple[float, list[int]]:
    start = time.perf_counter()
    made = work()
    return time.perf_counter() - start, made.ids[made.prompt_length :]


def run(folder: Path, dtype: str, task: str, rounds: int) -> tuple[float, float]:
    """The median ratio of times, and the share of ids before the first that differs."""
    model = load(folder, dtype)[0]

    def without() -> Sequence:
        made = new(model, task)
        list(generate(model, made))
        return made

    def drafted() -> Sequence:
        made = new(model, task)
        list(generate_drafted(model, made, Lookup()))
        return made

    ways = {"without": without, "drafted": drafted}
    with model.traced.after(0):
        for work in ways.values():
            work()
    ratios: list[float] = []
    for i in range(rounds):
        order = list(ways) if i % 2 else list(ways)[::-1]
        taken = {name: timed(ways[name]) for name in order}
        ratios.append(taken["without"][0] / taken["drafted"][0])
    pairs = zip(taken["without"][1], taken["drafted"][1], strict=True)
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    return median(ratios), same / TOKENS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for the checkpoints, kept for the next run")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--dtype", choices=DTYPES, action="append", help="of the weights; may be repeated; all")
    given = parser.parse_args()
    torch.set_num_threads(THREADS)
    heap.keep()
    dtypes = given.dtype or DTYPES
    for name, folder in (("stories", resolve("stories")), ("gpt2", shapes.make("gpt2", given.work))):
        print(f"\n{name}\n{'':12}" + "".join(f"{dtype:>16}" for dtype in dtypes))
        for task in TASKS:
            found = [run(folder, dtype, task, given.rounds) for dtype in dtypes]
            print(f"{task:12}" + "".join(f"{ratio:8.2f}  {same:4.0%} eq" for ratio, same in found), flush=True)


if __name__ == "__main__":
    main()
