"""A corpus and a recipe small enough to train in a second or two."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

WORDS = (
    "the",
    "a",
    "boy",
    "girl",
    "dog",
    "cat",
    "ran",
    "sat",
    "saw",
    "red",
    "old",
    "new",
    "house",
    "river",
    "said",
    "and",
)

SHAPE = """\
family = "{family}"
vocab_size = 300
hidden_size = 32
layers = 2
heads = 4
intermediate_size = 48
context = 32
"""
RECIPE = """\
name = "small"
seed = 3
dtype = "float32"
stored_dtype = "float32"
checkpoint_every = 4
valid_every = 4
sample_every = 8
valid_share = 0.2
{top}
[shape]
{shape}
[schedule]
steps = 12
warmup = 2
decay = 4
batch_tokens = 256
micro_tokens = 96
lengths = [[0.0, 16], [0.5, 32]]

[optimizer]
kind = "{optimizer}"
"""


def story(seed: int, words: int = 60) -> str:
    draw = random.Random(seed)
    return " ".join(draw.choice(WORDS) for _ in range(words)).capitalize() + ".\n"


def write_corpus(path: Path, documents: int = 60) -> Path:
    path.write_text("".join(json.dumps({"text": story(i)}) + "\n" for i in range(documents)), encoding="utf-8")
    return path


def write_recipe(path: Path, *, family: str = "llama", optimizer: str = "muon", top: str = "") -> Path:
    shape = SHAPE.format(family=family) + ("kv_heads = 2\n" if family == "llama" else "")
    path.write_text(RECIPE.format(shape=shape, optimizer=optimizer, top=top), encoding="utf-8")
    return path


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "llmcli", "train", *map(str, arguments), "--threads", "1", "--device", "cpu"]


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LLMCLI_")}
    return {**kept, "OMP_NUM_THREADS": "1", "XDG_CONFIG_HOME": "/nonexistent"}


def train(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    options = {"capture_output": True, "text": True, "timeout": 300, "env": environment(), **options}
    return subprocess.run(command(*arguments), check=False, **options)


def log_lines(out: Path, kind: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line["kind"] == kind]


def losses(out: Path) -> list[float]:
    return [line["loss"] for line in log_lines(out, "step")]
