"""A folder of safetensors -> `CausalLM`, without a second copy of the weights.

The files are mapped, not read: where the stored dtype is the one asked for, the model's weights are views of the
mapping. Otherwise tensors are converted one by one, and the pages of each are given back before the next.
"""

import mmap
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from llmcli.errors import CheckpointError, UsageError
from llmcli.model.config import ModelConfig
from llmcli.model.families import read_config, weight_table
from llmcli.model.families.table import Stored
from llmcli.model.header import AGAIN, StoredTensor, read_headers
from llmcli.model.transformer import CausalLM

STORED_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_model(folder: str | Path, *, dtype: str = "float32", device: str = "cpu") -> CausalLM:
    """The model of a folder in Hugging Face layout, in eval mode, its parameters without gradients.

    `dtype`: `float32`, `bfloat16`, `float16`, or `stored`: the widest that the files hold. Raises ModelNotFoundError,
    ConfigError, or CheckpointError naming the tensor that is missing, unexpected, misshapen, not finite or of a dtype
    that is no weight's. Nothing is allocated before config.json and the files' headers agree.
    """
    headers = read_headers(folder)
    config = read_config(folder)
    table = weight_table(config)
    names = table.canonical(headers)
    stored = {own: headers[name] for own, name in names.items() if not table.is_ignored(own)}
    if config.num_layers > len(stored):
        raise CheckpointError(
            f"config.json names {config.num_layers} layers, but {folder} holds only {len(stored)} tensors",
            "use the config.json that belongs to these weights",
        )
    files = {tensor.file: MappedFile(tensor.file) for tensor in stored.values()}
    config = _check_head(config, stored, files)
    with torch.device("meta"):
        model = CausalLM(config)
    shapes = {name: tuple(value.shape) for name, value in model.named_parameters()}
    expected = table.expected(config.num_layers, shapes)
    _check_names(expected, stored, names)
    _check_shapes(expected, stored, shapes)
    target = _target_dtype(dtype, stored)
    # The largest first: while it is converted, little else is in memory.
    for name in sorted(expected, key=lambda n: -stored[n].size):
        file = files[stored[name].file]
        value = _convert(name, stored[name], file, target, device)
        parts = unpack(value, expected[name], config)
        for ours, part in zip(expected[name].modules, parts, strict=True):
            _assign(model, ours, part)
        if not file.holds(parts[0]):
            file.release(stored[name])
    if config.tied:
        model.tie()
    return model.eval().requires_grad_(False)


class MappedFile:
    """A file mapped privately: tensors are views of its pages, read from disk when first touched."""

    def __init__(self, path: Path) -> None:
        try:
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path} cannot be mapped: {error}", "check its permissions") from None
        self._address = torch.frombuffer(self._map, dtype=torch.uint8, count=1).data_ptr()

    def tensor(self, stored: StoredTensor) -> Tensor:
        """A view; a copy only where the bytes do not lie on a multiple of the element's size."""
        dtype = STORED_DTYPES[stored.dtype]
        if stored.start % dtype.itemsize:
            data = torch.frombuffer(bytearray(self._map[stored.start : stored.start + stored.size]), dtype=dtype)
        else:
            count = stored.size // dtype.itemsize
            data = torch.frombuffer(self._map, dtype=dtype, count=count, offset=stored.start)
        return data.view(stored.shape)

    def holds(self, tensor: Tensor) -> bool:
        """Whether the tensor is a view of this mapping."""
        return 0 <= tensor.data_ptr() - self._address < len(self._map)

    def release(self, stored: StoredTensor) -> None:
        """Gives the tensor's whole pages back; touched again, they are read again."""
        if hasattr(mmap, "MADV_DONTNEED"):
            start = -(-stored.start // mmap.PAGESIZE) * mmap.PAGESIZE
            length = (stored.start + stored.size) // mmap.PAGESIZE * mmap.PAGESIZE - start
            if length > 0:
                self._map.madvise(mmap.MADV_DONTNEED, start, length)


def _check_head(
    config: ModelConfig, stored: Mapping[str, StoredTensor], files: Mapping[Path, MappedFile]
) -> ModelConfig:
    """A tied model may store its lm_head too; where that differs from the embedding table, it counts as untied."""
    head, table = stored.get("lm_head.weight"), _embedding(config, stored)
    if not config.tied or head is None or table is None:
        return config
    if head.dtype not in STORED_DTYPES or (head.dtype, head.shape) != (table.dtype, table.shape):
        return replace(config, tied=False)
    equal = torch.equal(files[head.file].tensor(head), files[table.file].tensor(table))
    files[head.file].release(head)
    return config if equal else replace(config, tied=False)


def _embedding(config: ModelConfig, stored: Mapping[str, StoredTensor]) -> StoredTensor | None:
    modules = weight_table(config).modules.items()
    return next((stored.get(f"{name}.weight") for name, entry in modules if entry.modules == ("embedding",)), None)


def _check_names(expected: Mapping[str, Stored], stored: Mapping[str, StoredTensor], names: Mapping[str, str]) -> None:
    missing = sorted(set(expected) - set(stored))
    if missing:
        raise CheckpointError(
            f"tensor {missing[0]} is missing{_more(missing)}", "use the config.json that belongs to these weights"
        )
    spare = sorted(names[name] for name in set(stored) - set(expected) if name != "lm_head.weight")
    if spare:
        raise CheckpointError(
            f"tensor {spare[0]!r} is unexpected: this model has no such part{_more(spare)}",
            "use the config.json that belongs to these weights",
        )


def _more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def _check_shapes(
    expected: Mapping[str, Stored], stored: Mapping[str, StoredTensor], shapes: Mapping[str, tuple[int, ...]]
) -> None:
    for name, entry in expected.items():
        tensor = stored[name]
        shape = entry.shape([shapes[ours] for ours in entry.modules])
        if tensor.shape != shape:
            raise CheckpointError(
                f"tensor {name} is misshapen: {tensor.shape}, but config.json asks for {shape}",
                "use the config.json that belongs to these weights",
            )
        if tensor.dtype not in STORED_DTYPES:
            raise CheckpointError(
                f"tensor {name} has dtype {tensor.dtype}, which is no weight's",
                "use weights in F32, F16, BF16 or F64; quantized checkpoints are not read",
            )


def _target_dtype(name: str, stored: Mapping[str, StoredTensor]) -> torch.dtype:
    if name in DTYPES:
        return DTYPES[name]
    if name != "stored":
        raise UsageError(f"dtype {name!r} is not known", "use one of " + ", ".join([*DTYPES, "stored"]))
    found = {STORED_DTYPES[tensor.dtype] for tensor in stored.values() if tensor.dtype in STORED_DTYPES}
    return found.pop() if len(found) == 1 and torch.float64 not in found else torch.float32


def _convert(name: str, stored: StoredTensor, file: MappedFile, dtype: torch.dtype, device: str) -> Tensor:
    """The stored tensor in the dtype asked for: itself where it has it. CheckpointError if it is not finite."""
    source = file.tensor(stored)
    value = source.to(device=device, dtype=dtype)
    if not _is_finite(value):
        if value.dtype != source.dtype and _is_finite(source):
            kind = str(dtype).removeprefix("torch.")
            raise CheckpointError(f"tensor {name} holds numbers too large for {kind}", "load it with dtype float32")
        raise CheckpointError(f"tensor {name} holds numbers that are not finite", AGAIN)
    return value


def _is_finite(tensor: Tensor) -> bool:
    """One pass over a contiguous tensor, allocating nothing: NaN and infinity both reach the smallest or the largest.

    It reads the whole tensor, which the first token would do anyway: the pages are then in memory for it.
    """
    low, high = torch.aminmax(tensor)
    return bool(torch.isfinite(low) & torch.isfinite(high))


def unpack(stored: Tensor, entry: Stored, config: ModelConfig) -> list[Tensor]:
    """The tensors stacked in `stored`, each (out_features, ...), as views unless their rows run by head."""
    rows = stored.t() if entry.transposed else stored
    count = len(entry.modules)
    if count == 1:
        return [rows]
    if entry.by_head:
        # (heads, modules, head_dim, ...) -> per module (heads * head_dim, ...)
        split = rows.reshape(config.num_heads, count, config.head_dim, *rows.shape[1:])
        return [split[:, i].flatten(0, 1) for i in range(count)]
    return list(torch.split(rows, [_rows(name, config) for name in entry.modules]))


def pack(parts: list[Tensor], entry: Stored, config: ModelConfig) -> Tensor:
    """The inverse of `unpack`: the tensor as it is stored."""
    if entry.by_head:
        heads = [part.reshape(config.num_heads, config.head_dim, *part.shape[1:]) for part in parts]
        split = torch.stack(heads, dim=1)
        rows = split.flatten(0, 2)
    else:
        rows = torch.cat(parts) if len(parts) > 1 else parts[0]
    return (rows.t() if entry.transposed else rows).contiguous()


def _rows(name: str, config: ModelConfig) -> int:
    """out_features of the modules that are stored stacked."""
    module = name.split(".")[-2]
    if module in ("gate", "up"):
        return config.intermediate_size
    return config.head_dim * (config.num_heads if module == "q" else config.num_kv_heads)


def _assign(model: nn.Module, name: str, value: Tensor) -> None:
    module, _, parameter = name.rpartition(".")
    setattr(model.get_submodule(module), parameter, nn.Parameter(value, requires_grad=False))
