"""What makes a generation repeatable, written down, and its repetition compared id by id."""

import json
import platform
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmcli.errors import LlmcliError, UsageError
from llmcli.files import sha256, write_whole
from llmcli.sampling_params import FIELDS, SamplingParams
from llmcli.settings import MOST_THREADS
from llmcli.version import __version__

if TYPE_CHECKING:
    from llmcli.pipeline import Pipeline, Run

SCHEMA_VERSION = 1
# Files of a model's folder that may decide which ids come.
_DECIDING = frozenset({".json", ".jsonl", ".safetensors", ".model", ".txt", ".jinja"})
_PACKAGES = ("torch", "tokenizers", "safetensors", "numpy", "llguidance")


@dataclass(frozen=True)
class Record:
    """A generation as it was: everything that decides its ids, and the ids. `files`: name -> sha256, in hexadecimal.

    `params` are those in force, and `seed` is what was drawn where they name none.
    """

    model: str
    files: dict[str, str]
    versions: dict[str, str]
    device: str
    dtype: str
    kv_dtype: str
    threads: int
    context_length: int
    params: SamplingParams
    seed: int | None
    prompt: str | None
    prompt_ids: list[int]
    ids: list[int]
    finish_reason: str


@dataclass(frozen=True)
class Difference:
    """The first step at which a repetition went another way: the ids there, None where that side had ended."""

    step: int
    recorded: int | None
    replayed: int | None


def make_record(pipeline: "Pipeline", run: "Run") -> Record:
    """The record of a run that is finished, or was interrupted. Raises `LlmcliError` where a file cannot be read."""
    import torch

    result = run.result()
    return Record(
        model=pipeline.name,
        files=file_hashes(pipeline.folder),
        versions=versions(),
        device=next(pipeline.model.parameters()).device.type,
        dtype=pipeline.dtype,
        kv_dtype=pipeline.kv_dtype,
        threads=torch.get_num_threads(),
        context_length=pipeline.context_length,
        params=run.params,
        seed=result.seed,
        prompt=result.prompt,
        prompt_ids=result.prompt_ids,
        ids=result.ids,
        finish_reason=result.finish_reason,
    )


def file_hashes(folder: Path) -> dict[str, str]:
    """The sha256 of every file of a model's folder that may decide what it generates, by name."""
    try:
        paths = sorted(each for each in folder.iterdir() if each.suffix in _DECIDING and each.is_file())
        return {each.name: sha256(each) for each in paths}
    except OSError as error:
        raise LlmcliError(f"{folder} cannot be read: {error.strerror}", "check the model's folder") from None


def versions() -> dict[str, str]:
    """Versions of this program, of Python, and of the packages that decide what is computed."""
    found = {"llmcli": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def changes(then: dict[str, str], now: dict[str, str]) -> list[str]:
    """What differs between two tables, in words, such as `config.json changed`."""
    gone = {name: "is gone" for name in then if name not in now}
    new = {name: "was added" for name in now if name not in then}
    changed = {name: "changed" for name in then if name in now and then[name] != now[name]}
    return [f"{name} {what}" for name, what in sorted((gone | new | changed).items())]


def write_record(path: Path, record: Record) -> None:
    """Writes it as JSON, whole or not at all. Raises `LlmcliError`."""
    text = json.dumps({"schema_version": SCHEMA_VERSION, **asdict(record)}, indent=1, allow_nan=False)
    write_whole(path, text.encode() + b"\n")


def read_record(path: Path) -> Record:
    """Raises `UsageError` for a file that cannot be read or is no record."""
    try:
        values = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        said = error.strerror if isinstance(error, OSError) else "it is not JSON"
        raise UsageError(f"{path} cannot be read: {said}", "give a file that --record has written") from None
    try:
        return _record(values)
    except (KeyError, TypeError, ValueError, UsageError) as error:
        raise UsageError(f"{path} is no record: {_reason(error)}", "give a file that --record has written") from None


def _reason(error: Exception) -> str:
    return f"it lacks {error}" if isinstance(error, KeyError) else str(error)


def _record(values: Any) -> Record:
    if not isinstance(values, dict) or values.get("schema_version") != SCHEMA_VERSION:
        raise ValueError(f"its schema_version is not {SCHEMA_VERSION}")
    kinds: dict[str, Any] = dict.fromkeys(("model", "device", "dtype", "kv_dtype", "finish_reason"), str)
    kinds |= {"threads": int, "context_length": int, "files": dict, "versions": dict, "params": dict}
    for name, kind in kinds.items():
        if not isinstance(values[name], kind) or isinstance(values[name], bool):
            raise ValueError(f"{name} is {values[name]!r}")
    for name in ("files", "versions"):
        if not all(isinstance(each, str) for each in values[name].values()):
            raise ValueError(f"{name} holds something else than texts")
    if not 1 <= values["threads"] <= MOST_THREADS or values["context_length"] < 1:
        raise ValueError(f"threads is not from 1 to {MOST_THREADS}, or context_length is below 1")
    if not isinstance(values["prompt"], str | None):
        raise ValueError(f"prompt is {values['prompt']!r}")
    for name in ("prompt_ids", "ids"):
        if not isinstance(values[name], list) or any(type(each) is not int or each < 0 for each in values[name]):
            raise ValueError(f"{name} holds something else than token ids")
    if unknown := sorted(set(values["params"]) - set(FIELDS)):
        raise ValueError(f"there is no sampling parameter {unknown[0]!r}")
    params = SamplingParams(**values["params"])
    if values["seed"] is not None:
        replace(params, seed=values["seed"])  # is it one?
    elif not params.greedy:
        raise ValueError("it names no seed")
    names = Record.__dataclass_fields__
    return Record(**{name: values[name] for name in names if name != "params"}, params=params)


def replay(pipeline: "Pipeline", record: Record) -> Difference | None:
    """Runs it again, and returns the first step that differs; None where there is none. An interrupted record is
    compared as far as it goes. Raises `UsageError` for ids that the model does not have."""
    from llmcli.generation import check_ids
    from llmcli.pipeline import Run

    check_ids(record.prompt_ids, pipeline.model.config.vocab_size)
    params = replace(record.params, seed=record.seed, logprobs=None)
    run = Run(pipeline, pipeline.request(params), list(record.prompt_ids), record.prompt)
    run.scored = False
    index = 0
    for index, step in enumerate(run):
        recorded = record.ids[index] if index < len(record.ids) else None
        if recorded is None and record.finish_reason == "interrupt":
            return None
        if step.id != recorded:
            return Difference(index, recorded, step.id)
    count = index + 1 if run.result().ids else 0
    return Difference(count, record.ids[count], None) if count < len(record.ids) else None
