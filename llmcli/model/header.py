"""Safetensors headers: names, shapes, dtypes and places of stored tensors, without reading a weight. Torch-free.

Format (https://huggingface.co/docs/safetensors): 8 bytes little-endian header length, a JSON object, the data. Every
claim of a header is checked against the file before anyone allocates or reads by it.
"""

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from llmcli.errors import CheckpointError, ModelNotFoundError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
MAX_HEADER_BYTES = 100_000_000
MAX_INDEX_BYTES = 64 * 2**20
AGAIN = "download or save the file again"

# Bits of one element.
DTYPE_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64,
    "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip


@dataclass(frozen=True)
class StoredTensor:
    """Where one tensor's bytes lie: `start` counts from the beginning of `file`."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    size: int


def read_headers(folder: str | Path) -> dict[str, StoredTensor]:
    """All tensors of a model folder, single file or shards with an index, by name.

    Raises ModelNotFoundError without a folder; CheckpointError naming the file and what is wrong with it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ModelNotFoundError(f"{folder} is not a folder", "name a folder in Hugging Face layout")
    if (folder / SINGLE).is_file():
        return read_header(folder / SINGLE)
    if (folder / INDEX).is_file():
        return _read_shards(folder)
    others = sorted(p.name for p in folder.iterdir() if p.suffix in (".bin", ".gguf", ".pt", ".pth", ".ckpt"))
    if others:
        raise CheckpointError(
            f"{folder} holds {others[0]}, which llmcli does not read",
            "only safetensors are read (never pickles, never GGUF): get the model.safetensors of this model",
        )
    raise CheckpointError(f"{folder} holds no {SINGLE} and no {INDEX}", "name a folder with safetensors weights")


def read_header(path: Path) -> dict[str, StoredTensor]:
    """The tensors of one safetensors file by name. Raises CheckpointError naming the file and the lie."""
    try:
        file_size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if file_size < 10 or not 2 <= length <= min(file_size - 8, MAX_HEADER_BYTES):
                raise CheckpointError(
                    f"{path} is not a safetensors file: {file_size} bytes cannot hold a header of {length}", AGAIN
                )
            text = file.read(length)
    except OSError as error:
        raise _unreadable(path, error) from None
    header = _json_object(path, text)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict):
        raise CheckpointError(f"{path}: the header's __metadata__ is not an object", AGAIN)
    tensors = {name: _entry(path, name, value, 8 + length) for name, value in header.items()}
    _check_layout(path, tensors, 8 + length, file_size)
    return tensors


def _unreadable(path: Path, error: OSError) -> CheckpointError:
    return CheckpointError(f"{path} cannot be read: {error.strerror}", "check its permissions")


def _json_object(path: Path, text: bytes) -> dict[str, Any]:
    def without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a name stands twice in it")
        return found

    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=without_twins)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not valid JSON: {error}", AGAIN) from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: not a JSON object", AGAIN)
    return value


def _entry(path: Path, name: str, value: Any, data_start: int) -> StoredTensor:
    def wrong(what: str) -> CheckpointError:
        return CheckpointError(f"{path}: tensor {name!r} {what}", AGAIN)

    if not isinstance(value, dict) or not {"dtype", "shape", "data_offsets"} <= set(value):
        raise wrong("has no dtype, shape and data_offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise wrong("has a dtype that is not of the format")
    if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2 or len(shape) > 64:
        raise wrong("has a shape or offsets that are not whole numbers")
    begin, end = offsets
    if end < begin or prod(shape) * DTYPE_BITS[dtype] != 8 * (end - begin):
        raise wrong(f"of shape {tuple(shape)} and dtype {dtype} cannot lie at bytes {begin} to {end}")
    return StoredTensor(path, dtype, tuple(shape), data_start + begin, end - begin)


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(v, int) and not isinstance(v, bool) and 0 <= v < 2**63 for v in value
    )


def _check_layout(path: Path, tensors: dict[str, StoredTensor], data_start: int, file_size: int) -> None:
    """The tensors fill the data without holes and without overlap."""
    reached = data_start
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].size)):
        if tensor.start != reached:
            problem = "overlaps another" if tensor.start < reached else "leaves a hole before it"
            raise CheckpointError(f"{path}: tensor {name!r} {problem}", AGAIN)
        reached += tensor.size
    if reached != file_size:
        problem = "is cut off" if reached > file_size else "has bytes that belong to no tensor"
        raise CheckpointError(f"{path} {problem}: its header names {reached} bytes, it has {file_size}", AGAIN)


def _read_shards(folder: Path) -> dict[str, StoredTensor]:
    path = folder / INDEX
    try:
        if path.stat().st_size > MAX_INDEX_BYTES:
            raise CheckpointError(f"{path} is larger than any index", AGAIN)
        text = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from None
    weight_map = _json_object(path, text).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(v, str) for v in weight_map.values()):
        raise CheckpointError(f"{path}: weight_map does not map tensor names to file names", AGAIN)
    tensors: dict[str, StoredTensor] = {}
    paths = {shard: _shard_path(folder, shard) for shard in sorted(set(weight_map.values()))}
    for shard, shard_path in paths.items():
        for name, tensor in read_header(shard_path).items():
            if weight_map.get(name) != shard:
                raise CheckpointError(f"{path} does not place tensor {name!r} in {shard!r}, which holds it", AGAIN)
            tensors[name] = tensor
    for name, shard in weight_map.items():
        if name not in tensors:
            raise CheckpointError(f"{path} names tensor {name!r}, but {shard!r} does not hold it", AGAIN)
    return tensors


def _shard_path(folder: Path, shard: str) -> Path:
    """The shard's file. It may not leave the folder; a link into the hub cache's own blobs is no leaving."""
    path = folder / shard
    plain = Path(shard).name == shard and len(shard) < 250 and not set(shard) & {"\0", "\\"}
    if not plain or not shard.endswith(".safetensors"):
        raise CheckpointError(f"{folder / INDEX} names the file {shard!r}, which is not one of this folder", AGAIN)
    if not path.is_file():
        raise CheckpointError(f"{folder / INDEX} names {shard!r}, which is missing", "download the missing file")
    real, home = path.resolve(), folder.resolve()
    if not any(real.is_relative_to(root) for root in (home, home.parent.parent / "blobs")):
        raise CheckpointError(f"{path} is a link that leaves the folder", "put the file itself into the folder")
    return path


QUANTIZED_KEY = "llmcli_dtype"
QUANTIZED_DTYPES = ("float16", "bfloat16", "int8", "int4")
"""In config.json of a folder of `llmcli quantize`, see `model.quantized`."""


def quantized_dtype(folder: Path) -> str | None:
    """The dtype that a folder's matrices are stored in; None for any other folder. Raises CheckpointError for one that
    this version does not know."""
    try:
        keys = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return None  # whoever reads the model says what is wrong
    dtype = keys.get(QUANTIZED_KEY) if isinstance(keys, dict) else None
    if dtype is not None and dtype not in QUANTIZED_DTYPES:
        raise CheckpointError(
            f"{folder}/config.json: {QUANTIZED_KEY} {dtype!r} is not known", f"known: {', '.join(QUANTIZED_DTYPES)}"
        )
    return dtype
