"""Training logs as charts and as numbers: loss curves, and for three or more runs the scaling laws."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmcli.render.plot import Chart, Series
from llmcli.train.log import RunLog, read_log
from llmcli.train.scaling import PowerLaw, fit_power_law

_ENOUGH = 3
"""Runs that make a scaling law worth fitting."""


def charts_of(paths: Sequence[Path]) -> tuple[list[Chart], list[str]]:
    """The charts of some logs, and what is to be said of charts that cannot be drawn. Raises UsageError."""
    logs = [read_log(path) for path in paths]
    names = _names(logs)
    fits = _fits(logs)
    scaling = [_scaling(fit, fit.law, names) for fit in fits if fit.law is not None]
    return [_curves(logs, names), *scaling], _notes(fits)


def figures_of(paths: Sequence[Path]) -> tuple[dict[str, Any], list[str]]:
    """The same as numbers fit for JSON, None where one is not known; and the same notes. Raises UsageError."""
    logs = [read_log(path) for path in paths]
    names = _names(logs)
    fits = _fits(logs)
    runs = [_run(path, name, log) for path, name, log in zip(paths, names, logs, strict=True)]
    return {"runs": runs, "laws": [_law(fit, fit.law) for fit in fits if fit.law is not None]}, _notes(fits)


@dataclass(frozen=True)
class _Fit:
    """The final losses of several runs against what was spent on them. `law`: None where there is none."""

    against: str
    unit: str
    spent: list[float]
    losses: list[float]
    law: PowerLaw | None

    @property
    def title(self) -> str:
        return f"{self.against}, {self.unit}" if self.unit else self.against


def _fits(logs: Sequence[RunLog]) -> list[_Fit]:
    if len(logs) < _ENOUGH:
        return []
    losses = [log.final for log in logs]
    spent = [
        ("parameters", "", [log.parameters for log in logs]),
        ("compute", "floating-point operations", [log.compute for log in logs]),
    ]
    return [_Fit(name, unit, values, losses, fit_power_law(values, losses)) for name, unit, values in spent]


def _notes(fits: Sequence[_Fit]) -> list[str]:
    why = "it is nearly the same in all runs, or an old log does not say it"
    return [f"no power law against {fit.title}: {why}" for fit in fits if fit.law is None]


def _run(path: Path, name: str, log: RunLog) -> dict[str, Any]:
    return {
        "name": name,
        "log": str(path),
        "parameters": _count(log.parameters),
        "tokens_per_step": _count(log.tokens_per_step),
        "compute": _known(log.compute),
        "final_bits_per_byte": _known(log.final),
        "training": [[step, _known(bits)] for step, bits in log.steps],
        "validation": [[step, _known(bits)] for step, bits in log.valid],
    }


def _law(fit: _Fit, law: PowerLaw) -> dict[str, Any]:
    points = [list(point) for point in zip(fit.spent, fit.losses, strict=True)]
    return {"against": fit.against, "exponent": law.exponent, "factor": law.factor, "points": points}


def _count(value: float) -> int | None:
    return int(value) if math.isfinite(value) else None


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _curves(logs: Sequence[RunLog], names: Sequence[str]) -> Chart:
    series = []
    for log, name in zip(logs, names, strict=True):
        series.append(Series(f"{name}, training", [(step, bits) for step, bits in log.steps]))
        if log.valid:
            series.append(Series(f"{name}, validation", [(step, bits) for step, bits in log.valid]))
    return Chart("loss", "step", "bits per byte", series)


def _scaling(fit: _Fit, law: PowerLaw, names: Sequence[str]) -> Chart:
    title, xs, ys = fit.title, fit.spent, fit.losses
    series = [Series(name, [(x, y)]) for name, x, y in zip(names, xs, ys, strict=True)]
    low, high = min(xs), max(xs)
    line = [(x, law(x)) for x in (low * (high / low) ** (i / 60) for i in range(61))]
    series.append(Series(f"{law.factor:.4g} * x^{law.exponent:.4f}", line, dots=True))
    return Chart(f"final loss against {title}", title, "bits per byte", series, log=True)


def _names(logs: Sequence[RunLog]) -> list[str]:
    """What tells the runs apart: the recipe's name, with the size where it trained several, numbered if need be."""
    names = [log.name for log in logs]
    sized = [_sized(log) if names.count(log.name) > 1 else log.name for log in logs]
    return [f"{name} ({sized[: i + 1].count(name)})" if sized.count(name) > 1 else name for i, name in enumerate(sized)]


def _sized(log: RunLog) -> str:
    return f"{log.name}, {log.parameters / 1e6:.3g} million" if math.isfinite(log.parameters) else log.name
