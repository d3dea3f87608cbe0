"""Texts to be read before a model's default settings are chosen, and how much of its texts stands in its corpus.

    python benchmarks/reading.py settings MODEL > texts.md        # twenty prompts under six settings
    python benchmarks/reading.py copied MODEL RUN/tokens-*.bin    # the longest row of 200 samples that the corpus has

Every text is what `llmcli generate` gives for the same prompt, seed and settings in float32.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from llmcli.pipeline import Pipeline
from llmcli.train.tokens import open_tokens

PROMPTS = (
    "Once upon a time",
    "The old house stood",
    "It was a dark night, and",
    "The captain looked at",
    '"I will not go," said',
    "My dear sister,",
    "The king had three sons.",
    "She opened the letter and",
    "In the year 1812",
    "The dog",
    "There was a knock at the door.",
    "He loved her",
    "When I was a boy",
    "The train was late that evening",
    "Nobody in the village knew",
    '"Where is the gold?"',
    "The sea was calm",
    "After dinner the doctor",
    "Far away in the forest",
    "At last",
)
SETTINGS: dict[str, dict[str, float]] = {
    "greedy": {"temperature": 0.0},
    "temperature 0.7, top-p 0.9": {"temperature": 0.7, "top_p": 0.9},
    "temperature 0.8, top-p 0.95": {"temperature": 0.8, "top_p": 0.95},
    "temperature 1, top-p 0.95": {"temperature": 1.0, "top_p": 0.95},
    "temperature 1, min-p 0.05": {"temperature": 1.0, "top_p": 1.0, "min_p": 0.05},
    "temperature 0.8, top-p 0.95, repetition penalty 1.15": {
        "temperature": 0.8,
        "top_p": 0.95,
        "repetition_penalty": 1.15,
    },
}
SAMPLES, LENGTH = 200, 200
SHORTEST = 6
"""Tokens in a row from which on a copy is looked for."""


def settings(model: str) -> Iterator[str]:
    """Markdown, a part a setting, a line a text; a text's seed is its prompt's number."""
    pipeline = Pipeline.load(model, dtype="float32")
    for name, given in SETTINGS.items():
        yield f"\n### {name}\n"
        for seed, prompt in enumerate(PROMPTS):
            text = pipeline.generate(prompt, max_tokens=60, seed=seed, **given).text  # type: ignore[arg-type]
            yield f"{seed}. **{prompt}**{text}".replace("\n", " ")


def copied(model: str, path: Path) -> Iterator[str]:
    """The longest rows of tokens that samples under the model's own settings share with the corpus."""
    tokens = open_tokens(path)
    if tokens is None:
        raise SystemExit(f"{path} is no file of tokens: give the one in the folder of a run")
    pipeline = Pipeline.load(model, dtype="float32")
    samples = [np.array(sample(pipeline, seed), dtype=np.int64) for seed in range(SAMPLES)]
    found = sorted(longest(samples, tokens.ids), reverse=True)
    lengths = [length for length, _, _ in found]
    yield f"{SAMPLES} samples of {LENGTH} tokens; of each the longest row that stands in the corpus, in tokens:"
    yield f"median {lengths[len(lengths) // 2]}, longest {lengths[0]}"
    for length, seed, start in found[:5]:
        row = samples[seed][start : start + length].tolist()
        yield f"{length} tokens, seed {seed}: {pipeline.tokenizer.decode(row)!r}"


def sample(pipeline: Pipeline, seed: int) -> list[int]:
    return list(pipeline.generate(PROMPTS[seed % len(PROMPTS)], max_tokens=LENGTH, seed=seed).ids)


def longest(samples: list[npt.NDArray[np.int64]], corpus: npt.NDArray[np.integer]) -> list[tuple[int, int, int]]:
    """(length, sample, start) of the longest row of each sample that the corpus holds, 0 where it is under `SHORTEST`.

    Rows of `SHORTEST` tokens are looked up by a hash; where one is found, it is followed to its end.
    """
    places: dict[int, list[tuple[int, int]]] = {}
    for number, ids in enumerate(samples):
        for start, value in enumerate(hashes(ids).tolist()):
            places.setdefault(value, []).append((number, start))
    wanted = np.array(sorted(places), dtype=np.uint64)
    best = [(0, number, 0) for number in range(len(samples))]
    step = 1 << 22
    for begin in range(0, len(corpus), step):
        part = np.asarray(corpus[begin : begin + step + LENGTH], dtype=np.int64)
        values = hashes(part)[:step]
        index = np.searchsorted(wanted, values)
        hits = np.flatnonzero(wanted[np.minimum(index, len(wanted) - 1)] == values)
        for at in hits.tolist():
            for number, start in places[int(values[at])]:
                length = agreeing(samples[number][start:], part[at:])
                best[number] = max(best[number], (length, number, start))
    return best


def hashes(ids: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """One number for each row of `SHORTEST` ids."""
    count = max(0, len(ids) - SHORTEST + 1)
    total = np.zeros(count, dtype=np.uint64)
    for k in range(SHORTEST):
        total = total * np.uint64(0x9E3779B97F4A7C15) + ids[k : k + count].astype(np.uint64)
    return total


def agreeing(one: npt.NDArray[np.int64], other: npt.NDArray[np.int64]) -> int:
    """How many ids at the start of both are the same."""
    n = min(len(one), len(other))
    different = np.flatnonzero(one[:n] != other[:n])
    return int(different[0]) if len(different) else n


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["settings", "copied"])
    parser.add_argument("model")
    parser.add_argument("tokens", type=Path, nargs="?", help="for `copied`: the token file of a run on the corpus")
    given = parser.parse_args()
    if given.what == "copied" and given.tokens is None:
        parser.error("copied wants the token file of a run")
    for line in settings(given.model) if given.what == "settings" else copied(given.model, given.tokens):
        print(line, flush=True)


if __name__ == "__main__":
    main()
