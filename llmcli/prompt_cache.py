"""A prompt's keys and values in a file, so that the next run computes only what its prompt does not share with it.

It is a safetensors file: `ids` (tokens) int64, and `keys.I` and `values.I` (1, kv_heads, kept tokens, head_dim) of each
layer. Its metadata tells which weights they come from, by the sha256 of every file that decides them, in which dtypes,
and a checksum of the tensors.

Hashing weights anew would cost more than it saves. Beside each hash stands what the file system said of the file then:
size, times, inode. While it says the same, the hash is not computed again; when in doubt it is. Files that had changed
just before they were hashed get no such note, since a second change might show the same times.
"""

import json
import time
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from llmcli.draft import shared_length
from llmcli.errors import CheckpointError
from llmcli.files import sha256, write_whole
from llmcli.generation import check_ids, prefill
from llmcli.model.cache import KVCache, kv_dtype_name
from llmcli.model.header import INDEX
from llmcli.model.transformer import CausalLM

FORMAT = "llmcli prompt cache 1"
AGAIN = "delete it, and it is written anew, or name another file"
_SETTLED = 2.0  # seconds, more than the coarsest times of a file system

# A file of the model -> its sha256, and what the file system says of it; None: ask the file itself.
Weights = dict[str, tuple[str, list[int] | None]]


@dataclass(frozen=True)
class Saved:
    """What a file holds: the ids, and keys and values of each layer."""

    ids: list[int]
    layers: list[tuple[Tensor, Tensor]]
    weights: Weights


class PromptCache:
    """The file at `path`, for the model of `folder` computed in `dtype`."""

    def __init__(self, path: Path, folder: Path, dtype: str) -> None:
        self.path = path
        self._folder = folder
        self._dtype = dtype

    def fill(self, model: CausalLM, ids: list[int]) -> tuple[KVCache, int]:
        """A KV cache that holds all of a prompt but its last token, and how many of those came from the file. The file
        is written where there were more than it held.

        Where the angles of earlier tokens depend on the length of the text nothing is saved, and nothing is reused.
        Raises CheckpointError for a file that is damaged, or of another model; `UsageError` for ids that the model does
        not have; `LlmcliError` where the file cannot be written.
        """
        check_ids(ids, model.config.vocab_size)
        saved = self._read(model) if self.path.is_file() else None
        wanted = ids[:-1]
        if not wanted or not model.same_angles(len(wanted), len(ids)):
            return model.new_cache(), 0
        cache = model.new_cache()
        if saved is not None and model.same_angles(len(saved.ids), len(ids)):
            _restore(cache, saved, shared_length(saved.ids, wanted), next(model.parameters()).device)
        reused = cache.length
        if reused < len(wanted):
            prefill(model, cache, wanted)
            self._write(model, wanted, cache, {} if saved is None else saved.weights)
        return cache, reused

    # --- the file ---

    def _write(self, model: CausalLM, ids: list[int], cache: KVCache, known: Weights) -> None:
        tensors = {"ids": torch.tensor(ids, dtype=torch.int64)}
        for i, layer in enumerate(cache.layers):
            for name, kept in zip(("keys", "values"), layer.kept(), strict=True):
                tensors[f"{name}.{i}"] = kept.contiguous().cpu()
        told = self._header(model) | {
            "weights": json.dumps(weights_of(self._folder, known)),
            "checksum": _checksum(tensors),
        }
        write_whole(self.path, lambda part: save_file(tensors, part, told))

    def _header(self, model: CausalLM) -> dict[str, str]:
        return {"format": FORMAT, "dtype": self._dtype, "kv_dtype": kv_dtype_name(model.kv_dtype)}

    def _read(self, model: CausalLM) -> Saved:
        try:
            with safe_open(self.path, "pt") as file:
                told = dict(file.metadata() or {})
                if told.get("format") != FORMAT:
                    raise CheckpointError(f"{self.path} is no prompt cache", AGAIN)
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            weights: Weights = {name: (each[0], each[1]) for name, each in json.loads(told["weights"]).items()}
            if told["checksum"] != _checksum(tensors):
                raise ValueError("its checksum is another")
            self._check_origin(model, told, weights)
            return Saved(tensors["ids"].tolist(), _layers(model, tensors), weights)
        except OSError as error:
            raise CheckpointError(f"{self.path} cannot be read: {error.strerror}", "name another file") from None
        except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise CheckpointError(f"{self.path} is damaged: {error}", AGAIN) from error

    def _check_origin(self, model: CausalLM, told: dict[str, str], weights: Weights) -> None:
        for name, now in self._header(model).items():
            if told[name] != now:
                raise CheckpointError(f"{self.path} was written with {name} {told[name]}, now it is {now}", AGAIN)
        ours = weights_of(self._folder, weights)
        other = sorted(
            name for name in ours.keys() | weights.keys() if ours.get(name, ("",))[0] != weights.get(name, ("",))[0]
        )
        if other:
            raise CheckpointError(f"{self.path} is of another model: {other[0]} differs", AGAIN)


def weights_of(folder: Path, known: Weights) -> Weights:
    """The files of a model's folder that decide its keys and values. A hash of `known` is taken over where the file
    system says that the file is still the one that was hashed. Raises CheckpointError where one cannot be read."""
    paths = [folder / "config.json", *sorted(folder.glob("*.safetensors"))]
    if (folder / INDEX).is_file():
        paths.append(folder / INDEX)
    try:
        return {path.name: _identity(path, known.get(path.name)) for path in paths}
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be read: {error.strerror}", "check the model's folder") from None


def _identity(path: Path, known: tuple[str, list[int] | None] | None) -> tuple[str, list[int] | None]:
    seen = path.stat()
    note = [seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns]
    if known is not None and known[1] == note:
        return known
    settled = time.time() - max(seen.st_mtime, seen.st_ctime) > _SETTLED
    return sha256(path), note if settled else None


def _checksum(tensors: dict[str, Tensor]) -> str:
    """crc32 over the tensors' bytes, by their names in order: it finds accidents, at a tenth of the cost of sha256."""
    found = 0
    for name in sorted(tensors):
        data: NDArray[np.uint8] = tensors[name].reshape(-1).view(torch.uint8).numpy()
        found = zlib.crc32(data.data, found)
    return f"crc32 {found:08x}"


def _layers(model: CausalLM, tensors: dict[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Raises ValueError where the tensors are not those of this model."""
    config, length = model.config, tensors["ids"].shape[0]
    found = []
    for i in range(config.num_layers):
        window = config.window(i)
        kept = length if window is None else min(length, window - 1)
        keys, values = tensors[f"keys.{i}"], tensors[f"values.{i}"]
        if not keys.shape == values.shape == (1, config.num_kv_heads, kept, config.head_dim):
            raise ValueError(f"layer {i} has the shape {tuple(keys.shape)}")
        found.append((keys, values))
    return found


@torch.inference_mode()
def _restore(cache: KVCache, saved: Saved, length: int, device: torch.device) -> None:
    """Fills a new cache with the first `length` tokens of a file, where sliding layers still hold what they need."""
    for layer, (keys, values) in zip(cache.layers, saved.layers, strict=True):
        layer.append(keys.to(device), values.to(device))
    cache.length = len(saved.ids)
    if cache.can_crop(length):
        cache.crop(length)
    else:
        cache.clear()
