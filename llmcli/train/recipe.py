"""A recipe: everything that decides a training run, read from one TOML file, keys overridden one by one."""

import copy
import dataclasses
import difflib
import tomllib
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

from llmcli.errors import UsageError

EXAMPLE = "llmcli train books/ --out runs/mine --recipe smoke"
RECIPES = Path(__file__).parent / "recipes"
Dtype = Literal["auto", "float32", "bfloat16"]
Family = Literal["llama", "gpt2"]


@dataclass(frozen=True)
class Shape:
    """The model's shape. `gpt2` has learned positions, LayerNorm and GELU; `llama` RoPE, RMSNorm and SwiGLU."""

    family: Family = "llama"
    vocab_size: int = 4096
    hidden_size: int = 384
    layers: int = 6
    heads: int = 6
    kv_heads: int = 0
    """Key/value heads of grouped-query attention (llama); 0: as many as heads."""
    intermediate_size: int = 864
    context: int = 1024
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-5
    """What the norms add to the variance."""


@dataclass(frozen=True)
class Schedule:
    """Warm-up, constant, then a linear decay to zero: a run stopped before its decay can go on for longer later."""

    steps: int = 2000
    warmup: int = 100
    decay: int = 500
    """Steps at the end over which the rate falls to zero."""
    batch_tokens: int = 16_384
    """Tokens of one optimizer step, over all processes."""
    micro_tokens: int = 8_192
    """Tokens of one forward and backward pass of one process; what is missing to the batch is accumulated."""
    lengths: tuple[tuple[float, int], ...] = ()
    """(from this share of the steps on, tokens in a row): short rows first cost less attention. Empty: the context, or
    all tokens of a step where a long context is a multiple of that."""


@dataclass(frozen=True)
class Optimizer:
    """AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101) for all weights; with `muon`, the blocks' matrices take
    orthogonalised momentum instead (Jordan et al. 2024; scaled to AdamW's size as in Liu et al. 2025,
    arXiv:2502.16982)."""

    kind: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = 1e-3
    matrix_learning_rate: float = 4e-3
    """Of the matrices under `muon`."""
    beta1: float = 0.9
    beta2: float = 0.95
    weight_decay: float = 0.1
    clip: float = 1.0
    """Largest norm of the whole gradient."""


@dataclass(frozen=True)
class Recipe:
    name: str = "custom"
    after: str = ""
    """The recipe, built-in or a file, whose model this one goes on from (`train.parts`); empty: random weights."""
    corpus: tuple[str, ...] = ()
    """Text to train on where the command line names none; relative to the current folder."""
    valid: str = ""
    """Text to validate on where the command line names neither a corpus nor this."""
    limit_bytes: int = 0
    """Train on so many bytes from the start of the corpus; 0: all of it."""
    seed: int = 1
    dtype: Dtype = "auto"
    """Of the matrix products in training; weights and optimizer stay float32. auto: bfloat16 where that is faster."""
    stored_dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    """Of the weights in the finished model."""
    valid_share: float = 0.01
    """Share of the documents held out where no validation text is given; 0: none."""
    valid_tokens: int = 200_000
    """Tokens of the validation text that are measured during training; the whole is measured at the end."""
    checkpoint_every: int = 100
    valid_every: int = 200
    sample_every: int = 500
    """Steps between two samples of text; 0: none."""
    gradient_checkpointing: bool = False
    """Compute each block twice instead of keeping what its gradient needs: less memory, a third more time."""
    shape: Shape = field(default_factory=Shape)
    schedule: Schedule = field(default_factory=Schedule)
    optimizer: Optimizer = field(default_factory=Optimizer)


@dataclass(frozen=True)
class Override:
    """A recipe key set from outside, and the option that said so."""

    key: str
    value: Any
    source: str


def builtin_recipes() -> list[str]:
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def read_table(name: str) -> dict[str, Any]:
    """The recipe of that built-in name, or of that file, as written. Raises UsageError."""
    path = RECIPES / f"{name}.toml" if name in builtin_recipes() else Path(name)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        known = ", ".join(builtin_recipes())
        raise UsageError(f"no recipe {name!r}: {error.strerror}", f"give a TOML file, or one of: {known}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not a recipe: {error}", "a recipe is a TOML file") from error
    return {"name": path.stem, **table}


def read_recipe(name: str, overrides: Sequence[Override] = ()) -> Recipe:
    """The recipe of that built-in name, or of that file. Raises UsageError naming the key that is wrong."""
    return build_recipe(read_table(name), overrides)


def build_recipe(table: Mapping[str, Any], overrides: Sequence[Override] = ()) -> Recipe:
    """A recipe from a table, keys overridden, what is left open filled in. Raises UsageError naming key or option."""
    current = copy.deepcopy(dict(table))
    recipe = _build(Recipe, current, "")
    for override in overrides:
        try:
            _assign(current, override)
            recipe = _build(Recipe, current, "")
        except UsageError as error:
            raise UsageError(f"{override.source}: {error}", error.remedy) from None
    return _filled(cast(Recipe, recipe))


def parse_assignment(text: str) -> Override:
    """`schedule.steps=100` as an override; the value is read as TOML, and as plain text where it is none."""
    key, separator, value = text.partition("=")
    if not separator or not key.strip():
        raise UsageError(f"--set {text} is no assignment", "write for example --set schedule.steps=100")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()
    return Override(key.strip(), parsed, f"--set {text}")


def as_table(recipe: Recipe) -> dict[str, Any]:
    """The recipe as a table that `build_recipe` reads, fit for JSON."""
    return dataclasses.asdict(recipe)


def _assign(table: dict[str, Any], override: Override) -> None:
    *parents, last = override.key.split(".")
    for parent in parents:
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            raise UsageError(f"recipe key {parent} is no table", "name a key, such as schedule.steps")
    table[last] = override.value


def _filled(recipe: Recipe) -> Recipe:
    shape, schedule = recipe.shape, recipe.schedule
    if shape.kv_heads == 0:
        shape = replace(shape, kv_heads=shape.heads)
    if not schedule.lengths:
        fits = 0 < schedule.batch_tokens < shape.context and shape.context % schedule.batch_tokens == 0
        schedule = replace(schedule, lengths=((0.0, schedule.batch_tokens if fits else shape.context),))
    return replace(recipe, shape=shape, schedule=schedule)


def _build(kind: type[Any], table: dict[str, Any], where: str) -> Any:
    """A frozen dataclass from a table, keys and types checked."""
    fields = {f.name: f for f in dataclasses.fields(kind)}
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in fields:
            near = difflib.get_close_matches(key, fields, 1)
            hint = f"did you mean {where}{near[0]}?" if near else f"known keys: {', '.join(fields)}"
            raise UsageError(f"unknown recipe key {where}{key}", hint)
        values[key] = _value(fields[key].type, value, f"{where}{key}")
    return kind(**values)


def _value(kind: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        if not isinstance(value, dict):
            raise UsageError(f"recipe key {where} must be a table", f"write [{where}]")
        return _build(kind, value, f"{where}.")
    if kind is float and type(value) is int:
        value = float(value)
    if kind in (int, float, str, bool):
        if type(value) is not kind:
            raise UsageError(f"recipe key {where} must be {kind.__name__}, not {value!r}", "correct the recipe")
        return value
    if typing.get_origin(kind) is tuple:
        return _list(typing.get_args(kind), value, where)
    choices = typing.get_args(kind)
    if value not in choices:
        raise UsageError(f"recipe key {where} must be one of {', '.join(choices)}", f"{value!r} is none of them")
    return value


def _list(kinds: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    """A tuple of one kind (`kinds` ends in ...) or of as many values as kinds."""
    if not isinstance(value, list | tuple):
        raise UsageError(f"recipe key {where} must be a list, not {value!r}", "correct the recipe")
    if kinds[-1] is ...:
        kinds = (kinds[0],) * len(value)
    if len(value) != len(kinds):
        raise UsageError(f"recipe key {where}: {list(value)!r} must hold {len(kinds)} values", "correct the recipe")
    return tuple(_value(kind, each, where) for kind, each in zip(kinds, value, strict=True))
