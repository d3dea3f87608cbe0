"""What it takes to choose a token among 50,257: ours beside a sampler that sorts the whole vocabulary.

    python benchmarks/sampling.py

Logits as a trained model gives them: a few high, a long tail. Each way takes turns with the others, some tokens at a
time; a figure is the median, in microseconds. Run it while nothing else runs.
"""

import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor

from llmcli.sampling import Sampler
from llmcli.sampling_params import SamplingParams

VOCABULARY = 50_257
WAYS: dict[str, dict[str, float]] = {
    "greedy": {"temperature": 0.0},
    "temperature": {"temperature": 0.8, "top_p": 1.0},
    "top-k 40": {"temperature": 0.8, "top_k": 40, "top_p": 1.0},
    "top-p 0.95": {"temperature": 0.8, "top_p": 0.95},
    "top-k 40, top-p 0.95": {"temperature": 0.8, "top_k": 40, "top_p": 0.95},
}


def sorting(top_k: int, top_p: float) -> Callable[[Tensor], int]:
    """As many write it: sort, cut, softmax, multinomial."""

    def choose(logits: Tensor) -> int:
        values, order = torch.sort(logits / 0.8, descending=True)
        if top_k:
            values[top_k:] = float("-inf")
        probs = values.softmax(-1)
        if top_p < 1:
            probs[probs.cumsum(-1) - probs >= top_p] = 0.0
        return int(order[torch.multinomial(probs, 1)])

    return choose


def main() -> None:
    generator = torch.Generator().manual_seed(1)
    many = [torch.randn(VOCABULARY, generator=generator) * 2.5 for _ in range(8)]
    ways: dict[str, Callable[[Tensor], object]] = {}
    for name, given in WAYS.items():
        sampler = Sampler(SamplingParams(**given))  # type: ignore[arg-type]
        ways[name] = lambda logits, sampler=sampler: sampler.choose(logits.clone(), [1], 0.4, new=0)  # type: ignore[misc]
    ways["sorting, top-k 40"] = sorting(40, 1.0)
    ways["sorting, top-p 0.95"] = sorting(0, 0.95)
    times: dict[str, list[float]] = {name: [] for name in ways}
    with torch.inference_mode():
        for _ in range(25):
            for name, way in ways.items():
                for logits in many:
                    start = time.perf_counter()
                    way(logits)
                    times[name].append(time.perf_counter() - start)
    for name, taken in times.items():
        print(f"{name:24}{median(taken) * 1e6:8.0f}")


if __name__ == "__main__":
    main()
