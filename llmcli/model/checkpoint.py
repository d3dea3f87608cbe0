"""A folder of safetensors -> `CausalLM`, without a second copy of the weights.

The files are mapped, not read: where the stored dtype is the one asked for, the model's weights are views of the
mapping. Otherwise tensors are converted one by one, and the pages of each are given back before the next.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from llmcli.errors import CheckpointError, UsageError
from llmcli.model.config import ModelConfig
from llmcli.model.families import read_config, weight_table
from llmcli.model.families.table import Stored
from llmcli.model.header import AGAIN, StoredTensor, read_headers
from llmcli.model.layers import Embedding
from llmcli.model.linear import Linear
from llmcli.model.mapped import STORED_DTYPES, MappedFile, assign, is_finite
from llmcli.model.pack import pack_model
from llmcli.model.transformer import CausalLM

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_model(folder: str | Path, *, dtype: str = "float32", device: str = "cpu") -> CausalLM:
    """The model of a folder in Hugging Face layout, in eval mode, its parameters without gradients.

    `dtype`: `float32`, `bfloat16`, `float16`, or `stored`: the widest that the files hold. Raises ModelNotFoundError,
    ConfigError, or CheckpointError naming the tensor that is missing, unexpected, misshapen, not finite or of a dtype
    that is no weight's. Nothing is allocated before config.json and the files' headers agree.
    """
    source = Source(folder)
    target = _target_dtype(dtype, source.stored)
    return source.load(lambda _: target, device)


def load_packed(folder: str | Path, dtype: str) -> tuple[CausalLM, list[str]]:
    """The model for the CPU with its matrices packed (`pack.pack_model`) in float32, bfloat16, float16, int8 or int4,
    and what a user should know about that. All else is in float32; tables stay in the file. Raises as `load_model`
    does."""
    model, source = stored_model(folder)
    return model, pack_model(model, dtype, done=source.release)


def stored_model(folder: str | Path) -> tuple[CausalLM, "Source"]:
    """The model with matrices and tables as they lie in the files, all else in float32. Raises as `load_model` does."""
    source = Source(folder)
    return source.load(lambda module: None if isinstance(module, (Linear, Embedding)) else torch.float32, "cpu"), source


class Source:
    """A folder's checkpoint, its config and headers read and found to agree. Raises as `load_model` does."""

    def __init__(self, folder: str | Path) -> None:
        headers = read_headers(folder)
        config = read_config(folder)
        table = weight_table(config)
        names = table.canonical(headers)
        self.stored = {own: headers[name] for own, name in names.items() if not table.is_ignored(own)}
        check_count(config, len(self.stored), folder)
        self._files = {tensor.file: MappedFile(tensor.file) for tensor in self.stored.values()}
        self.config = _check_head(config, self.stored, self._files)
        with torch.device("meta"):
            self._model = CausalLM(self.config)
        shapes = {name: tuple(value.shape) for name, value in self._model.named_parameters()}
        self._expected = table.expected(self.config.num_layers, shapes)
        _check_names(self._expected, self.stored, names)
        _check_shapes(self._expected, self.stored, shapes)

    def load(self, dtype_of: Callable[[nn.Module], torch.dtype | None], device: str) -> CausalLM:
        """The model, each module's parameters in the dtype that `dtype_of` names; None leaves them as they are stored,
        and out of memory until they are looked at. The largest first: little else is in memory while it is converted.
        """
        for name in sorted(self._expected, key=lambda n: -self.stored[n].size):
            stored, entry = self.stored[name], self._expected[name]
            file = self._files[stored.file]
            module = self._model.get_submodule(entry.modules[0].rpartition(".")[0])
            dtype = dtype_of(module)
            value = _convert(name, stored, file, dtype or STORED_DTYPES[stored.dtype], device)
            parts = unpack(value, entry, self.config)
            for ours, part in zip(entry.modules, parts, strict=True):
                assign(self._model, ours, part)
            if dtype is None or not file.holds(parts[0]):
                file.release(stored)
        if self.config.tied:
            self._model.tie()
        return self._model.eval().requires_grad_(False)

    def release(self) -> None:
        """Gives all pages of the files back; what is still a view of them reads them again when it is looked at."""
        for file in self._files.values():
            file.release()


def check_count(config: ModelConfig, tensors: int, folder: str | Path) -> None:
    """Raises CheckpointError for more layers than there can be, before modules are made for them."""
    if config.num_layers > tensors:
        raise CheckpointError(
            f"config.json names {config.num_layers} layers, but {folder} holds only {tensors} tensors",
            "use the config.json that belongs to these weights",
        )


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
    if not is_finite(value):
        if value.dtype != source.dtype and is_finite(source):
            kind = str(dtype).removeprefix("torch.")
            raise CheckpointError(f"tensor {name} holds numbers too large for {kind}", "load it with dtype float32")
        raise CheckpointError(f"tensor {name} holds numbers that are not finite", AGAIN)
    return value


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
