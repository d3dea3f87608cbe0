"""A damaged checkpoint folder either loads and runs, or is a ModelError: nothing else, and at no great cost."""

import json
import resource
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from llmcli.errors import ModelError
from llmcli.model.checkpoint import load_model

from .conftest import Pair
from .folders import copy_folder, read_raw_header, shard, write_raw_header

Pairs = Callable[[str], Pair]
EACH = 60  # mutations of each kind and folder: 60 x 6 kinds x 3 folders

JUNK: list[Any] = [None, True, False, 0, 1, -1, 2, 7, 0.5, -0.0, 1e-30, 1e30, 1e308, 2**31, 2**63, 2**64, 10**40]
JUNK += ["", "x", "\x1b[2J", "\ud800", "F32", "F64", "I8", [], {}, [0], [-1], [1, 2], [None], [[1]]]
JUNK += [["full_attention"] * 3, ["sliding_attention"] * 3, {"full_attention": {}}, float("nan"), float("inf")]
JUNK += [{"rope_type": "dynamic", "factor": 2}, {"type": "yarn", "factor": 1e9}, {"type": "llama3"}]
JUNK += [{"rope_type": "linear", "factor": 3, "rope_theta": 2}]


def flip_bytes(folder: Path, random: Random) -> None:
    path = random.choice(sorted(folder.iterdir()))
    blob = bytearray(path.read_bytes())
    # Half of the flips strike the first kilobyte, where header and keys stand.
    reach = min(len(blob), random.choice([1024, len(blob)]))
    for _ in range(random.choice([1, 1, 3, 20])):
        blob[random.randrange(reach)] = random.randrange(256)
    path.write_bytes(blob)


def cut_or_grow(folder: Path, random: Random) -> None:
    path = random.choice(sorted(folder.iterdir()))
    blob = path.read_bytes()
    at = random.randrange(len(blob))
    path.write_bytes(random.choice([blob[:at], blob[at:], blob + blob[:at], blob[: at // 2] + blob[at:], b""]))


def edit_header(folder: Path, random: Random) -> None:
    path = random.choice(sorted(folder.glob("*.safetensors")))
    header, data = read_raw_header(path)
    name = random.choice(sorted(header))
    match random.randrange(4):
        case 0:
            header[name] = random.choice(JUNK)
        case 1:
            header[random.choice(["", "\x1b[2J", "__metadata__", name + ".x"])] = header.pop(name)
        case 2:
            other = random.choice(sorted(header))
            header[name], header[other] = header[other], header[name]
        case _:
            mutate(header, random)
    write_raw_header(path, header, data)


def edit_config(folder: Path, random: Random) -> None:
    path = folder / "config.json"
    keys = json.loads(path.read_text())
    for _ in range(random.choice([1, 1, 2, 4])):
        mutate(keys, random)
    path.write_text(json.dumps(keys))


def edit_index(folder: Path, random: Random) -> None:
    path = folder / "model.safetensors.index.json"
    if not path.exists():
        path.write_text(json.dumps({"weight_map": {"a": "model.safetensors"}}))
        (folder / "model.safetensors").rename(folder / random.choice(["model.safetensors", "x.bin", "y.safetensors"]))
    index = json.loads(path.read_text())
    mutate(index, random)
    weight_map = index.get("weight_map")
    if isinstance(weight_map, dict) and weight_map:
        name = random.choice(sorted(weight_map))
        weight_map[name] = random.choice([*JUNK, "../x.safetensors", "/dev/zero", "config.json", *weight_map.values()])
    path.write_text(json.dumps(index))


def remove_or_swap(folder: Path, random: Random) -> None:
    first, second = random.choice(sorted(folder.iterdir())), random.choice(sorted(folder.iterdir()))
    match random.randrange(3):
        case 0:
            first.unlink()
        case 1:
            first.write_bytes(second.read_bytes())
        case _:
            first.unlink()
            first.mkdir()


def mutate(value: dict[str, Any], random: Random) -> None:
    """Replaces, scales or removes one value somewhere below."""
    key = random.choice(sorted(value)) if value else "x"
    inner = value.get(key)
    if isinstance(inner, dict) and inner and random.random() < 0.7:
        mutate(inner, random)
    elif isinstance(inner, list) and inner and random.random() < 0.7:
        inner[random.randrange(len(inner))] = random.choice(JUNK)
    elif isinstance(inner, int | float) and random.random() < 0.4:
        value[key] = random.choice([inner + 1, inner - 1, inner * 2, -inner, inner * 10**6, float(inner)])
    elif random.random() < 0.2:
        value.pop(key, None)
    else:
        value[key] = random.choice(JUNK)


KINDS = [flip_bytes, cut_or_grow, edit_header, edit_config, edit_index, remove_or_swap]


@pytest.mark.parametrize("mutation", KINDS, ids=[kind.__name__ for kind in KINDS])
@pytest.mark.parametrize("name", ["llama-yarn", "gemma3-linear", "gpt2"])
@torch.inference_mode()
def test_damaged_folders(pairs: Pairs, tmp_path: Path, name: str, mutation: Callable[[Path, Random], None]) -> None:
    whole = copy_folder(pairs(name).folder, tmp_path / "whole")
    if name == "llama-yarn":
        shard(whole)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refusals = []
    for seed in range(EACH):
        random = Random(f"{mutation.__name__} {seed}")
        folder = copy_folder(whole, tmp_path / str(seed))
        mutation(folder, random)
        try:
            load_model(folder)(torch.tensor([[1, 2, 3]]))
        except ModelError as error:
            refusals.append(str(error) + error.remedy)
        except Exception as error:
            pytest.fail(f"seed {seed}: {type(error).__name__}: {error}")
    assert refusals
    assert not any(set(refusal) & {"\n", "\x1b"} for refusal in refusals)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 200 * 1024, f"{grown} KiB more than before"
