"""The charts of training logs: loss curves, and for three or more runs the scaling law."""

from collections.abc import Sequence
from pathlib import Path

from llmcli.render.plot import Chart, Series
from llmcli.train.log import RunLog, read_log
from llmcli.train.scaling import PowerLaw, fit_power_law

_ENOUGH = 3
"""Runs that make a scaling law worth fitting."""


def charts_of(paths: Sequence[Path]) -> tuple[list[Chart], list[str]]:
    """The charts of some logs, and what is to be said of charts that cannot be drawn. Raises UsageError."""
    logs = [read_log(path) for path in paths]
    names = _distinct([log.name for log in logs])
    charts = [_curves(logs, names)]
    notes = []
    if len(logs) >= _ENOUGH:
        for title, values in (
            ("parameters", [log.parameters for log in logs]),
            ("compute, floating-point operations", [log.compute for log in logs]),
        ):
            losses = [log.final for log in logs]
            law = fit_power_law(values, losses)
            if law is None:
                notes.append(f"no power law against {title}: it is the same in all runs, or an old log does not say it")
            else:
                charts.append(_scaling(title, values, losses, names, law))
    return charts, notes


def _curves(logs: Sequence[RunLog], names: Sequence[str]) -> Chart:
    series = []
    for log, name in zip(logs, names, strict=True):
        series.append(Series(f"{name}, training", [(step, bits) for step, bits in log.steps]))
        if log.valid:
            series.append(Series(f"{name}, validation", [(step, bits) for step, bits in log.valid]))
    return Chart("loss", "step", "bits per byte", series)


def _scaling(title: str, xs: Sequence[float], ys: Sequence[float], names: Sequence[str], law: PowerLaw) -> Chart:
    series = [Series(name, [(x, y)]) for name, x, y in zip(names, xs, ys, strict=True)]
    low, high = min(xs), max(xs)
    line = [(x, law(x)) for x in (low * (high / low) ** (i / 60) for i in range(61))]
    series.append(Series(f"{law.factor:.4g} * x^{law.exponent:.4f}", line, dots=True))
    return Chart(f"final loss against {title}", title, "bits per byte", series, log=True)


def _distinct(names: Sequence[str]) -> list[str]:
    """Names, numbered where they repeat."""
    return [f"{name} ({names[: i + 1].count(name)})" if names.count(name) > 1 else name for i, name in enumerate(names)]
