"""The log of a run: JSON lines, the first with the facts of the run, then steps, validations and samples."""

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmcli.errors import UsageError
from llmcli.files import write_whole

NAME = "log.jsonl"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Event:
    """One line of the log. `kind`: run (the facts), step, valid, sample, done."""

    kind: str
    step: int
    values: dict[str, Any] = field(default_factory=dict)

    def line(self) -> str:
        values = {key: round(v, 6) if isinstance(v, float) else v for key, v in self.values.items()}
        return json.dumps({"kind": self.kind, "step": self.step, **values}, allow_nan=False) + "\n"


class Log:
    """A log that is written."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def begin(self, facts: Mapping[str, Any], step: int) -> None:
        """Keeps the lines up to `step` steps, and puts the facts first: the rest is about to be taken again."""
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True) if self.path.exists() and step else []
        kept = [line for line in lines if line.endswith("\n") and _before(json.loads(line), step)]
        first = Event("run", 0, {"schema_version": SCHEMA_VERSION, **facts}).line()
        write_whole(self.path, "".join([first, *kept]).encode())

    def write(self, event: Event) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(event.line())


def last_values(path: Path) -> dict[str, dict[str, Any]]:
    """The last line of each kind in a log; what cannot be read is passed over, and NaN is None."""
    last: dict[str, dict[str, Any]] = {}
    for text in path.read_text(encoding="utf-8").splitlines():
        with suppress(ValueError, KeyError, TypeError):
            line = json.loads(text, parse_constant=lambda _: None)
            last[line["kind"]] = line
    return last


def _before(line: Mapping[str, Any], step: int) -> bool:
    """Whether a line still holds after `step` steps. What is measured after a step carries the next one's number."""
    kind = line["kind"]
    return bool(line["step"] < step if kind == "step" else kind in ("valid", "sample") and line["step"] <= step)


@dataclass(frozen=True)
class RunLog:
    """A log that was read. Without facts (an old log) parameters and tokens are NaN."""

    name: str
    parameters: float
    tokens_per_step: float
    steps: list[tuple[int, float]]
    """(step, bits per byte in training)."""
    valid: list[tuple[int, float]]
    """(step, bits per byte in validation)."""

    @property
    def final(self) -> float:
        """The last validation, else the mean of the last twentieth of the steps."""
        if self.valid:
            return self.valid[-1][1]
        tail = [value for _, value in self.steps[-max(1, len(self.steps) // 20) :]]
        return sum(tail) / len(tail)

    @property
    def compute(self) -> float:
        """Floating-point operations: 6 per parameter and token (Kaplan et al. 2020, arXiv:2001.08361, table 1)."""
        return 6 * self.parameters * self.tokens_per_step * (self.steps[-1][0] + 1)


def read_log(path: Path) -> RunLog:
    """A log, or that of a run's folder. Raises UsageError naming the line that is none of a log."""
    path = path / NAME if path.is_dir() else path
    facts: dict[str, Any] = {}
    steps: list[tuple[int, float]] = []
    valid: list[tuple[int, float]] = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the log {path}: {error}", f"give {NAME} of a run, or its folder") from error
    for number, text in enumerate(lines, 1):
        try:
            line = json.loads(text)
            if line["kind"] == "run":
                facts = line
            elif line["kind"] in ("step", "valid"):
                point = (int(line["step"]), float(line["bits_per_byte"]))
                (steps if line["kind"] == "step" else valid).append(point)
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines):  # a run that is being written, or was killed
                break
            raise UsageError(f"{path}, line {number} is no line of a training log", f"give {NAME} of a run") from error
    if not steps:
        raise UsageError(f"{path} holds no training steps", f"give {NAME} of a run")
    name = str(facts.get("name", path.parent.name))
    parameters, tokens = (float(facts.get(key, math.nan)) for key in ("parameters", "tokens_per_step"))
    return RunLog(name, parameters, tokens, steps, valid)
