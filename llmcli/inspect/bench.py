"""How fast a model runs here, and how much of what the memory allows that is.

A decode step reads every weight once, so its speed is bounded by memory: bytes of the matrices and of the KV cache,
divided by the bandwidth (the roofline model, Williams et al. 2009, https://doi.org/10.1145/1498765.1498785).
"""

import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import torch

from llmcli.errors import LlmcliError, UsageError
from llmcli.generation import decode_step, prefill
from llmcli.model.linear import Linear
from llmcli.model.transformer import CausalLM

if TYPE_CHECKING:
    from llmcli.pipeline import Pipeline

_READ_BYTES = 1 << 28
_STEPS = 20


@dataclass(frozen=True)
class PrefillSpeed:
    """A prompt of so many tokens in one pass."""

    tokens: int
    seconds: float
    tokens_per_second: float


@dataclass(frozen=True)
class DecodeSpeed:
    """One more token after so many.

    bytes_read   of all matrices and of the KV cache, which the step reads
    share        of the memory's bandwidth that reading them takes: 1 is as fast as memory allows
    """

    context: int
    seconds: float
    tokens_per_second: float
    bytes_read: int
    share: float


@dataclass(frozen=True)
class ColdStart:
    """Whole processes, the files in the page cache.

    first_token    `llmcli generate -n 1`, from the start of the process to its end
    import_torch   `python -c "import torch"`, of which `generate` runs no more than it needs
    """

    first_token: float
    import_torch: float


@dataclass(frozen=True)
class Bench:
    """All of it. Times in seconds, the median of the rounds; bandwidth in bytes a second, the best of them."""

    model: str
    dtype: str
    threads: int
    rounds: int
    bandwidth: float
    weight_bytes: int
    peak_bytes: int
    prefill: tuple[PrefillSpeed, ...]
    decode: tuple[DecodeSpeed, ...]
    cold: ColdStart | None


def bench(
    pipeline: "Pipeline", prefills: Sequence[int], contexts: Sequence[int], *, rounds: int = 5, cold: ColdStart | None
) -> Bench:
    """Measures, each thing once in every round, so that a disturbance touches all alike.

    Raises `UsageError` for a length that the model's context does not hold.
    """
    longest = max([*prefills, *(each + _STEPS for each in contexts)])
    if longest > pipeline.context_length:
        raise UsageError(
            f"a length of {longest} tokens does not fit the context of {pipeline.context_length}",
            "give shorter lengths",
        )
    model = pipeline.model
    buffer = torch.ones(_READ_BYTES // 4)
    bandwidths: list[float] = []
    prefill_times: dict[int, list[float]] = {each: [] for each in prefills}
    decode_times: dict[int, list[float]] = {each: [] for each in contexts}
    cache_bytes: dict[int, int] = {}
    for _ in range(rounds):
        bandwidths.append(_READ_BYTES / _timed(buffer.sum))
        for length in prefills:
            prefill_times[length].append(_prefill(model, length))
        for length in contexts:
            with model.traced.after(0):
                times, cache_bytes[length] = _decode(model, length)
            decode_times[length] += times
    bandwidth, weights = max(bandwidths), matrix_bytes(model)
    return Bench(
        model=pipeline.name,
        dtype=pipeline.dtype,
        threads=torch.get_num_threads(),
        rounds=rounds,
        bandwidth=bandwidth,
        weight_bytes=weights,
        peak_bytes=_peak_bytes(),
        prefill=tuple(PrefillSpeed(n, median(times), n / median(times)) for n, times in prefill_times.items()),
        decode=tuple(
            _speed(n, median(times), weights + cache_bytes[n], bandwidth) for n, times in decode_times.items()
        ),
        cold=cold,
    )


def _peak_bytes() -> int:
    """The most memory that this process has held. Linux tells it per program in /proc; what getrusage tells there may
    be that of the program that started this one."""
    try:
        lines = Path("/proc/self/status").read_text("ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        scale = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def _speed(context: int, seconds: float, bytes_read: int, bandwidth: float) -> DecodeSpeed:
    return DecodeSpeed(context, seconds, 1 / seconds, bytes_read, bytes_read / bandwidth / seconds)


def _prefill(model: CausalLM, length: int) -> float:
    ids, cache = _some_ids(model, length), model.new_cache()
    return _timed(lambda: prefill(model, cache, ids))


def _decode(model: CausalLM, length: int) -> tuple[list[float], int]:
    """Seconds of some decode steps after `length` tokens, and the bytes of the KV cache that each reads."""
    ids, cache = _some_ids(model, length), model.new_cache()
    prefill(model, cache, ids)
    times = []
    for _ in range(_STEPS):
        ids.append(ids[-1])
        times.append(_timed(lambda: decode_step(model, cache, ids)))
    read = sum(2 * each.kept()[0].numel() * each.kept()[0].element_size() for each in cache.layers)
    return times, read


def matrix_bytes(model: CausalLM) -> int:
    """Bytes of all matrices that a decode step multiplies by."""
    return sum(_bytes(each) for each in model.modules() if isinstance(each, Linear))


def _bytes(linear: Linear) -> int:
    if linear.form is not None:
        return linear.form.bytes
    return 0 if linear.weight is None or linear.weight.is_meta else linear.weight.nbytes


def _some_ids(model: CausalLM, count: int) -> list[int]:
    return [7 * i % model.config.vocab_size for i in range(count)]


def _timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def cold_start(arguments: Sequence[str], rounds: int = 3) -> ColdStart:
    """Runs `llmcli generate` with these arguments in processes of their own. Raises LlmcliError where that fails."""
    generate = [sys.executable, "-m", "llmcli", "generate", "--quiet", "--greedy", "-n", "1", *arguments]
    times: tuple[list[float], list[float]] = ([], [])
    for kept, command in _in_turn(times, (generate, [sys.executable, "-c", "import torch"]), rounds):
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True)
        kept.append(time.perf_counter() - start)
        if done.returncode:
            raise LlmcliError(f"a new process fails: {done.stderr.strip()}", "run `llmcli generate` to see why")
    return ColdStart(median(times[0]), median(times[1]))


def _in_turn(
    kept: tuple[list[float], ...], commands: tuple[list[str], ...], rounds: int
) -> Iterator[tuple[list[float], list[str]]]:
    for _ in range(rounds):
        yield from zip(kept, commands, strict=True)
