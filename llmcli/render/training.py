"""How a training run looks while it goes: a live view on a terminal, plain lines elsewhere."""

import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from llmcli.render.safe import visible

_RECENT = 20
"""Steps whose mean speed and loss are shown."""


class Figures:
    """What is known of a run so far."""

    def __init__(self) -> None:
        self.name, self.steps, self.parameters = "", 0, 0
        self.step = 0
        self.loss = self.bits = self.valid = math.nan
        self.sample = ""
        self._seconds: deque[float] = deque(maxlen=_RECENT)
        self._speeds: deque[float] = deque(maxlen=_RECENT)

    def take(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """One line of the log."""
        if kind == "run":
            self.name, self.steps, self.parameters = values["name"], values["steps"], values["parameters"]
            self.step = step
        elif kind == "step":
            self.step = step + 1
            self.loss, self.bits = values["loss"], values["bits_per_byte"]
            self._seconds.append(values["seconds"])
            self._speeds.append(values["tokens_per_second"])
        elif kind == "valid":
            self.valid = values["bits_per_byte"]
        elif kind == "sample":
            self.sample = values["text"]

    @property
    def speed(self) -> float:
        """Tokens per second."""
        return sum(self._speeds) / len(self._speeds) if self._speeds else 0.0

    @property
    def left(self) -> float:
        """Seconds to the last step at the present speed."""
        return (self.steps - self.step) * sum(self._seconds) / len(self._seconds) if self._seconds else math.nan


class PlainView:
    """Lines for a file or a pipe: now and then a step, every validation, every sample."""

    def __init__(self, write: Callable[[str], None], every_seconds: float = 10.0) -> None:
        self._write, self._every = write, every_seconds
        self._figures = Figures()
        self._written = -math.inf
        self._doing = ""

    def __enter__(self) -> "PlainView":
        return self

    def __exit__(self, *_: object) -> None:
        return

    def note(self, text: str) -> None:
        self._write(visible(text))

    def progress(self, what: str, fraction: float) -> None:
        now = time.monotonic()
        if what != self._doing or now - self._written >= self._every:
            self._doing, self._written = what, now
            self._write(f"{what} {fraction:.0%}")

    def take(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """One line of the log."""
        figures = self._figures
        figures.take(kind, step, values)
        now = time.monotonic()
        if kind == "run":
            self._write(f"{figures.name}: {figures.parameters:,} parameters, {figures.steps} steps")
        elif kind == "valid":
            self._write(f"step {step}/{figures.steps}  validation {figures.valid:.4f} bits per byte")
        elif kind == "sample":
            self._write(f"sample: {visible(figures.sample)}")
        elif now - self._written >= self._every or figures.step == figures.steps:
            self._written = now
            self._write(_step_line(figures))


class LiveView:
    """A panel that is drawn over and over: bar, figures, the last sample."""

    def __init__(self, console: Console) -> None:
        self._figures = Figures()
        self._doing: tuple[str, float] | None = None
        self._live = Live(console=console, refresh_per_second=4, get_renderable=self._drawn)

    def __enter__(self) -> "LiveView":
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def note(self, text: str) -> None:
        self._live.console.print(Text(visible(text)))

    def progress(self, what: str, fraction: float) -> None:
        self._doing = what, fraction

    def take(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """One line of the log."""
        self._doing = None
        self._figures.take(kind, step, values)

    def _drawn(self) -> RenderableType:
        figures = self._figures
        if self._doing is not None:
            what, fraction = self._doing
            return _bar(what, fraction, f"{fraction:.0%}")
        if not figures.steps:
            return Text("")
        parts: list[RenderableType] = [
            _bar(figures.name, figures.step / figures.steps, f"step {figures.step}/{figures.steps}"),
            Text(_figures_line(figures)),
        ]
        if figures.sample:
            parts.append(Panel(Text(visible(figures.sample, keep="\n")), title="sample", title_align="left"))
        return Group(*parts)


class SilentView:
    """Nothing but what goes wrong: --quiet, and all processes but the first."""

    def __enter__(self) -> "SilentView":
        return self

    def __exit__(self, *_: object) -> None:
        return

    def note(self, text: str) -> None:
        """Not said."""

    def progress(self, what: str, fraction: float) -> None:
        """Not shown."""

    def take(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Not shown."""


View = PlainView | LiveView | SilentView


def _bar(title: str, fraction: float, after: str) -> Table:
    grid = Table.grid(padding=(0, 1), expand=True)
    grid.add_column()
    grid.add_column(ratio=1)
    grid.add_column(justify="right")
    grid.add_row(Text(visible(title)), ProgressBar(total=1.0, completed=fraction), Text(after))
    return grid


def _step_line(figures: Figures) -> str:
    return f"step {figures.step}/{figures.steps}  {_figures_line(figures)}"


def _figures_line(figures: Figures) -> str:
    parts = [f"loss {figures.loss:.4f}", f"{figures.bits:.4f} bits per byte", f"{figures.speed:,.0f} tokens/s"]
    if not math.isnan(figures.valid):
        parts.insert(2, f"validation {figures.valid:.4f}")
    if not math.isnan(figures.left):
        parts.append(f"{duration(figures.left)} left")
    return "  ".join(parts)


def duration(seconds: float) -> str:
    """1:02:03, or 2:03 under an hour."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
