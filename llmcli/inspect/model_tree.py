"""What a model is made of, from config.json and the headers of its files alone: no weight is read. Torch-free."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

from llmcli.errors import CheckpointError, UsageError
from llmcli.model.config import ModelConfig
from llmcli.model.families import read_config, weight_table
from llmcli.model.families.table import Stored, WeightTable
from llmcli.model.header import DTYPE_BITS, StoredTensor, quantized_dtype, read_headers

GROUPS = ("embedding", "attention", "feed-forward", "norms", "lm_head", "other")
# dtype in config.json -> (its name in a safetensors header, bytes of one number)
_DTYPES = {"float32": ("F32", 4), "float16": ("F16", 2), "bfloat16": ("BF16", 2), "float64": ("F64", 8)}


@dataclass(frozen=True)
class Weight:
    """One parameter: its name in the tree, its shape there (out_features first), and how the files hold it."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    group: str
    stored_name: str

    @property
    def count(self) -> int:
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.count * DTYPE_BITS[self.dtype] // 8


@dataclass(frozen=True)
class CacheSize:
    """The KV cache in one dtype: what one more token adds before any sliding window is full, and the whole context's.

    `context` counts for a sliding layer only the keys that its window holds.
    """

    dtype: str
    per_token: int
    context: int


@dataclass(frozen=True)
class Operations:
    """Floating-point operations to compute one token, a multiplication and an addition counted as two.

    weights   of the products with the weight matrices, 2 for each weight; the embedding is looked up, not multiplied
    per_key   of QK^T and of the weighted sum of the values, for each key in sight
    first     of the first token of a text, which sees only itself
    last      of the last token of a full context
    Norms, softmax, activations and rotations are left out: they are small beside these.
    """

    weights: int
    per_key: int
    first: int
    last: int


@dataclass(frozen=True)
class AlikeBlocks:
    """Blocks `first` to `last` have the same parameters, shapes and dtypes: so many `parameters` each."""

    first: int
    last: int
    parameters: int


@dataclass(frozen=True)
class ModelShape:
    """The modules and what they cost.

    weights       every parameter, in the order of the computation; tied ones once
    tied          lm_head reads the embedding table
    blocks        runs of blocks that are alike
    stored_twice  the files hold lm_head beside the embedding table although the model is tied
    unknown       stored tensors that are no part of this family's models, and those that hold no weights
    groups        parameters by part; `shares` of all parameters
    bytes         of the parameters, by dtype; `byte_shares` of all bytes
    file_bytes    of all files together
    files         how many
    """

    config: ModelConfig
    weights: list[Weight]
    tied: bool
    stored_twice: bool
    unknown: list[str]
    groups: dict[str, int]
    bytes: dict[str, int]
    files: int
    file_bytes: int
    cache: list[CacheSize]
    operations: Operations

    @property
    def parameters(self) -> int:
        return sum(self.groups.values())

    @property
    def shares(self) -> dict[str, float]:
        return {part: count / self.parameters for part, count in self.groups.items()}

    @property
    def byte_shares(self) -> dict[str, float]:
        return {dtype: count / sum(self.bytes.values()) for dtype, count in self.bytes.items()}

    @property
    def blocks(self) -> list[AlikeBlocks]:
        return blocks_alike(self.weights)


def model_shape(folder: str | Path) -> ModelShape:
    """Reads config.json and the headers of the files. Raises `ConfigError`, `CheckpointError`, `ModelNotFoundError`."""
    config = read_config(folder)
    if quantized_dtype(Path(folder)) is not None:
        raise UsageError(
            f"{folder} is a folder of `llmcli quantize`, whose tensors are stacked and rounded",
            "look into the model that it was made from",
        )
    headers = read_headers(folder)
    table = weight_table(config)
    weights: list[Weight] = []
    unknown = []
    for own, name in table.canonical(headers).items():
        found = None if table.is_ignored(own) else _modules(table, own)
        if found is None:
            unknown.append(name)
        else:
            weights += _weights(found, headers[name], name, config)
    names = {weight.name for weight in weights}
    _check(names, config, folder)
    stored_twice = config.tied and "lm_head.weight" in names
    if stored_twice:
        weights = [weight for weight in weights if weight.name != "lm_head.weight"]
    weights.sort(key=lambda weight: _order(weight.name))
    files = {tensor.file for tensor in headers.values()}
    return ModelShape(
        config=config,
        weights=weights,
        tied=config.tied,
        stored_twice=stored_twice,
        unknown=sorted(unknown),
        groups={g: sum(w.count for w in weights if w.group == g) for g in GROUPS},
        bytes={d: sum(w.bytes for w in weights if w.dtype == d) for d in sorted({w.dtype for w in weights})},
        files=len(files),
        file_bytes=sum(each.stat().st_size for each in files),
        cache=cache_sizes(config),
        operations=operations(config, weights),
    )


def _modules(table: WeightTable, own: str) -> Stored | None:
    """The parameters that a stored tensor of the table's own naming holds; None where the table does not know it."""
    stem, _, kind = own.rpartition(".")
    layer = re.search(r"\.(\d+)\.", stem)
    pattern = stem if layer is None else stem.replace(layer[0], ".{i}.", 1)
    entry = table.modules.get(pattern)
    if entry is None or kind not in ("weight", "bias"):
        return None
    names = tuple(f"{module}.{kind}".replace("{i}", layer[1] if layer else "") for module in entry.modules)
    return Stored(names, entry.transposed and kind == "weight", entry.by_head)


def _weights(entry: Stored, tensor: StoredTensor, stored_name: str, config: ModelConfig) -> list[Weight]:
    shape = tensor.shape[::-1] if entry.transposed else tensor.shape
    if len(entry.modules) == 1:
        return [Weight(entry.modules[0], shape, tensor.dtype, group_of(entry.modules[0]), stored_name)]
    rows = [_rows(name, config) for name in entry.modules]
    if not shape or sum(rows) != shape[0]:
        raise CheckpointError(
            f"tensor {stored_name} is misshapen: {tensor.shape}, but config.json asks for {sum(rows)} rows",
            "use the config.json that belongs to these weights",
        )
    return [
        Weight(name, (count, *shape[1:]), tensor.dtype, group_of(name), stored_name)
        for name, count in zip(entry.modules, rows, strict=True)
    ]


def _rows(name: str, config: ModelConfig) -> int:
    """out_features of a module that the files hold stacked with others."""
    module = name.split(".")[-2]
    if module in ("gate", "up"):
        return config.intermediate_size
    return config.head_dim * (config.num_heads if module == "q" else config.num_kv_heads)


def group_of(name: str) -> str:
    """The part of the model that a parameter counts to."""
    parts = name.split(".")
    if any("norm" in part for part in parts):
        return "norms"
    for part, group in (
        ("attention", "attention"),
        ("ffn", "feed-forward"),
        ("lm_head", "lm_head"),
        ("embedding", "embedding"),
        ("positions", "embedding"),
    ):
        if part in parts:
            return group
    return "other"


_PARTS = ("embedding", "positions", "blocks", "norm", "lm_head")
_BLOCK = ("attention_norm", "attention", "attention_post_norm", "ffn_norm", "ffn", "ffn_post_norm")
_INSIDE = ("q", "k", "v", "q_norm", "k_norm", "o", "gate", "up", "down", "weight", "bias")


def _order(name: str) -> tuple[int, ...]:
    """Where a parameter stands in the order of the computation."""
    parts = name.split(".")
    known = (_PARTS, None, _BLOCK, _INSIDE, _INSIDE) if parts[0] == "blocks" else (_PARTS, _INSIDE)
    key = []
    for part, places in zip(parts, known, strict=False):
        key.append(int(part) if places is None else places.index(part) if part in places else 99)
    return tuple(key)


def _check(names: Iterable[str], config: ModelConfig, folder: str | Path) -> None:
    """Every layer that config.json names is there, and none besides."""
    layers = {int(name.split(".")[1]) for name in names if name.startswith("blocks.")}
    if layers != set(range(config.num_layers)):
        raise CheckpointError(
            f"config.json names {config.num_layers} layers, but the files of {folder} hold {len(layers)}",
            "use the config.json that belongs to these weights",
        )
    needed = {"embedding.weight", "norm.weight"} | (set() if config.tied else {"lm_head.weight"})
    if missing := sorted(needed - set(names)):
        raise CheckpointError(
            f"no tensor holds {missing[0]}{' (the model is not tied)' if missing[0].startswith('lm_head') else ''}",
            "use the config.json that belongs to these weights",
        )


def keys_in_sight(config: ModelConfig, layer: int, tokens: int) -> int:
    """How many keys the last of `tokens` tokens attends to in a layer."""
    window = config.window(layer)
    return tokens if window is None else min(tokens, window)


def cache_bytes(config: ModelConfig, tokens: int, size: int) -> int:
    """Keys and values of a text of `tokens` tokens that the next token can still see; `size` bytes a number."""
    keys = sum(keys_in_sight(config, layer, tokens) for layer in range(config.num_layers))
    return 2 * keys * config.num_kv_heads * config.head_dim * size


def cache_sizes(config: ModelConfig) -> list[CacheSize]:
    """In the dtype that config.json declares, and in float32 and bfloat16."""
    names = dict.fromkeys((config.dtype, "float32", "bfloat16"))
    return [
        CacheSize(name, cache_bytes(config, 1, size), cache_bytes(config, config.context_length, size))
        for name in names
        if name in _DTYPES
        for size in (_DTYPES[name][1],)
    ]


def operations(config: ModelConfig, weights: Iterable[Weight]) -> Operations:
    """See `Operations`; a tied lm_head multiplies though it holds no weights of its own."""
    matrices = [w for w in weights if len(w.shape) == 2 and w.group != "embedding"]
    products = 2 * sum(w.count for w in matrices)
    if not any(w.group == "lm_head" for w in matrices):
        products += 2 * config.vocab_size * config.hidden_size
    per_key = 4 * config.num_heads * config.head_dim  # of one layer: QK^T and the weighted sum, 2 each

    def at(tokens: int) -> int:
        return products + per_key * sum(keys_in_sight(config, i, tokens) for i in range(config.num_layers))

    return Operations(products, per_key * config.num_layers, at(1), at(config.context_length))


def blocks_alike(weights: Iterable[Weight]) -> list[AlikeBlocks]:
    """The runs of neighbouring blocks that are alike, in order."""
    inside: dict[int, list[tuple[str, tuple[int, ...], str]]] = {}
    for weight in weights:
        if weight.name.startswith("blocks."):
            _, number, name = weight.name.split(".", 2)
            inside.setdefault(int(number), []).append((name, weight.shape, weight.dtype))
    runs: list[AlikeBlocks] = []
    for layer in sorted(inside):
        if runs and inside[runs[-1].first] == inside[layer]:
            runs[-1] = replace(runs[-1], last=layer)
        else:
            runs.append(AlikeBlocks(layer, layer, sum(prod(shape) for _, shape, _ in inside[layer])))
    return runs
