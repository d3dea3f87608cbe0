"""What a recipe must satisfy before any work is done with it."""

from llmcli.errors import UsageError
from llmcli.train.recipe import Optimizer, Recipe, Schedule, Shape

# The options of `llmcli train` that set a recipe key by a name of its own.
FLAGS = {
    "schedule.steps": "--steps",
    "schedule.batch_tokens": "--batch-tokens",
    "optimizer.learning_rate": "--learning-rate",
    "seed": "--seed",
    "dtype": "--dtype",
}


def check_recipe(recipe: Recipe, processes: int = 1) -> None:
    """Raises UsageError naming the key, and the option that sets it, of the first value that cannot be used."""
    _at_least("seed", recipe.seed, 0)
    _at_least("limit_bytes", recipe.limit_bytes, 0)
    _within("valid_share", recipe.valid_share, 0.0, 0.5)
    _at_least("valid_tokens", recipe.valid_tokens, 1)
    _at_least("checkpoint_every", recipe.checkpoint_every, 1)
    _at_least("valid_every", recipe.valid_every, 1)
    _at_least("sample_every", recipe.sample_every, 0)
    _check_shape(recipe.shape)
    _check_schedule(recipe.schedule, recipe.shape.context, processes)
    _check_optimizer(recipe.optimizer)


def _check_shape(shape: Shape) -> None:
    for name in ("hidden_size", "layers", "heads", "kv_heads", "intermediate_size"):
        _at_least(f"shape.{name}", getattr(shape, name), 1)
    _at_least("shape.context", shape.context, 2)
    _at_least("shape.vocab_size", shape.vocab_size, 257)  # 256 bytes and the end-of-text token
    _divides("shape.heads", shape.heads, "shape.hidden_size", shape.hidden_size)
    _divides("shape.kv_heads", shape.kv_heads, "shape.heads", shape.heads)
    if not 0 < shape.norm_eps < 1:
        raise UsageError(f"shape.norm_eps is {shape.norm_eps}", "it must be above 0 and below 1")
    if shape.family == "llama":
        width = shape.hidden_size // shape.heads
        if width % 2:
            raise UsageError(f"shape.hidden_size / shape.heads is {width}", "RoPE turns pairs: it must be even")
        if not shape.rope_theta > 1:
            raise UsageError(f"shape.rope_theta is {shape.rope_theta}", "it must be above 1")
        return
    if shape.kv_heads != shape.heads:
        raise UsageError(f"shape.kv_heads is {shape.kv_heads}: gpt2 has no grouped-query attention", "leave it out")
    if shape.rope_theta != Shape.rope_theta:
        raise UsageError(f"shape.rope_theta is {shape.rope_theta}: gpt2 has no RoPE", "leave it out")


def _check_schedule(schedule: Schedule, context: int, processes: int) -> None:
    _at_least("schedule.steps", schedule.steps, 1)
    _at_least("schedule.warmup", schedule.warmup, 0)
    _at_least("schedule.decay", schedule.decay, 0)
    _at_least("schedule.micro_tokens", schedule.micro_tokens, 1)
    _at_least("schedule.batch_tokens", schedule.batch_tokens, 1)
    if schedule.warmup + schedule.decay > schedule.steps:
        good = (schedule.steps // 20, schedule.steps // 4)
        raise UsageError(
            f"{_label('schedule.steps')} is {schedule.steps}, less than schedule.warmup + schedule.decay, "
            f"{schedule.warmup} + {schedule.decay}",
            f"for example: --set schedule.warmup={good[0]} --set schedule.decay={good[1]}",
        )
    shares = [share for share, _ in schedule.lengths]
    if shares[0] != 0 or sorted(set(shares)) != shares or shares[-1] >= 1:
        raise UsageError(f"schedule.lengths begins its stages at {shares}", "from 0.0 on, rising, below 1")
    unit = max(length for _, length in schedule.lengths)
    for _, length in schedule.lengths:
        _at_least("schedule.lengths", length, 1)
        _divides("schedule.lengths", length, "its largest", unit)
    if unit > context:
        raise UsageError(f"schedule.lengths has rows of {unit} tokens", f"shape.context is {context}")
    _divides("the longest row of schedule.lengths", unit, "schedule.batch_tokens", schedule.batch_tokens)
    if schedule.batch_tokens // unit < processes:
        raise UsageError(
            f"{_label('schedule.batch_tokens')} is {schedule.batch_tokens}, fewer than a row for each process",
            f"{processes} processes need at least {processes * unit}",
        )


def _check_optimizer(optimizer: Optimizer) -> None:
    for name in ("learning_rate", "matrix_learning_rate", "clip"):
        value = getattr(optimizer, name)
        if not 0 < value < float("inf"):
            raise UsageError(f"{_label(f'optimizer.{name}')} is {value}", "it must be above 0")
    for name in ("beta1", "beta2"):
        value = getattr(optimizer, name)
        if not 0 <= value < 1:
            raise UsageError(f"optimizer.{name} is {value}", "it must be at least 0 and below 1")
    _within("optimizer.weight_decay", optimizer.weight_decay, 0.0, 1.0)


def _label(key: str) -> str:
    return f"{key} ({FLAGS[key]})" if key in FLAGS else key


def _at_least(key: str, value: int, least: int) -> None:
    if value < least:
        raise UsageError(f"{_label(key)} is {value}", f"it must be at least {least}")


def _within(key: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise UsageError(f"{_label(key)} is {value}", f"it must be from {low:g} to {high:g}")


def _divides(part: str, value: int, whole: str, total: int) -> None:
    if total % value:
        raise UsageError(f"{_label(part)}, {value}, does not divide {_label(whole)}, {total}", "change one of the two")
