"""A learned table of positions: the table, its waves, the likeness of positions, its redundancy."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import RenderableType
from rich.text import Text

from llmcli.render.export import Table as CsvTable
from llmcli.render.export import View, drawable
from llmcli.render.heatmap import Heatmap, draw_heatmap
from llmcli.render.palette import Scale
from llmcli.render.parts import bar, clamp, model_name, page, percent, stacked, title
from llmcli.render.plot import Chart, Series, draw
from llmcli.render.screen import Screen
from llmcli.render.table import table
from llmcli.render.window import Window

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "inspect-positions"
_ROWS = 16
_BLOCKS = 24


def learned_view(data: dict[str, Any], channels: Sequence[int], window: Window) -> View:
    """From the document of a `LearnedTable`. The curves of `channels` are drawn, and of the table what `window` says;
    its rows are positions in both maps."""
    data = data | {"legends": {name: scale.legend() for name, scale in _scales(data).items()}}

    def terminal(screen: Screen) -> RenderableType:
        return _learned(data, channels, window, screen)

    return View(
        NAME,
        data,
        terminal,
        lambda: _csv(data),
        lambda: _figure(data, channels),
        lambda: page(f"{NAME}: {model_name(data)}", terminal),
    )


def _scales(data: dict[str, Any]) -> dict[str, Scale]:
    """How the numbers of both maps become colours."""
    return {
        "table": Scale(float(np.abs(data["table"]).max()) or 1.0, "diverging"),
        "similarity": Scale(1.0, "diverging"),
    }


def strongest(data: dict[str, Any], count: int) -> list[int]:
    """The channels whose own sinusoid is the largest: most spread that one sinusoid explains."""
    order = sorted(data["waves"], key=lambda wave: -(wave["spread"] ** 2) * wave["explained"])
    return sorted(wave["channel"] for wave in order[:count])


def _learned(data: dict[str, Any], channels: Sequence[int], window: Window, screen: Screen) -> RenderableType:
    values = data["table"]
    head = title(data, "A learned table of positions")
    head.append(f"\n{values.shape[0]} positions x {values.shape[1]} channels, added to the embeddings", "not bold")
    charts = [Text(_curve(data, channel, screen).rstrip("\n")) for channel in channels]
    return stacked(
        head,
        _table_map(values, _scales(data)["table"], window, screen),
        *charts,
        _waves(data, channels, screen),
        Text("Cosine similarity between positions", "bold"),
        _similarity_map(data["similarity"], _scales(data)["similarity"], window, screen),
        _redundancy(data, screen),
    )


def _table_map(values: "np.ndarray[Any, Any]", scale: Scale, window: Window, screen: Screen) -> Text:
    heatmap = Heatmap(
        values=values,
        rows=[""] * values.shape[0],
        columns=[""] * values.shape[1],
        names=("position", "channel"),
        scale=scale,
    )
    if window.rows is None and window.pool == 1 and values.shape[0] > _ROWS:
        window = Window(f"0-{_ROWS - 1}", window.columns, 1)
    return draw_heatmap(heatmap, screen, window)


def _similarity_map(values: "np.ndarray[Any, Any]", scale: Scale, window: Window, screen: Screen) -> Text:
    """All of it in blocks, unless rows or blocks are chosen."""
    heatmap = Heatmap(
        values=values,
        rows=[""] * len(values),
        columns=[""] * len(values),
        names=("position", "position"),
        scale=scale,
    )
    pool = window.pool
    if window.rows is None and pool == 1:
        pool = -(-len(values) // min(_BLOCKS, (screen.width - 12) // 2))
    return draw_heatmap(heatmap, screen, Window(window.rows, window.rows, pool))


def _curve(data: dict[str, Any], channel: int, screen: Screen) -> str:
    points = [(float(i), float(value)) for i, value in enumerate(data["table"][:, channel])]
    return draw(Chart(f"channel {channel}", "position", "value", [Series("", points)]), min(screen.width, 100), 9)


def _waves(data: dict[str, Any], channels: Sequence[int], screen: Screen) -> RenderableType:
    width = clamp(screen.width - 60, 8, 40)
    rows: list[list[str | Text]] = []
    for wave in (data["waves"][channel] for channel in channels):
        known = wave["frequency"] is not None
        rows.append(
            [
                str(wave["channel"]),
                f"{wave['frequency']:.5f}" if known else "-",
                f"{wave['wavelength']:.1f}" if known else "-",
                f"{wave['spread']:.4g}",
                percent(wave["explained"]),
                Text(bar(wave["explained"], width), "cyan"),
            ]
        )
    headers = ("channel", "cycles/position", "wavelength", "spread", "explained", "")
    shares = [wave["explained"] for wave in data["waves"]]
    summary = (
        f"of all {len(shares)} channels one sinusoid explains {percent(data['median_explained'])} in the median; "
        f"more than half of {sum(share > 0.5 for share in shares)}"
    )
    meaning = "explained: the share of a channel's variance that its best single sinusoid accounts for"
    return stacked(table(headers, rows, left=(5,)), Text(f"{meaning};\n{summary}"))


def _redundancy(data: dict[str, Any], screen: Screen) -> RenderableType:
    width = clamp(screen.width - 40, 8, 50)
    rows: list[list[str | Text]] = []
    for i, (share, total) in enumerate(zip(data["variance"][:8], data["cumulative"], strict=False)):
        rows.append([str(i), percent(float(share)), percent(float(total)), Text(bar(float(share), width), "cyan")])
    words = ", ".join(f"{each['components']} carry {each['share']:.0%}" for each in data["redundancy"])
    drawn = table(("component", "variance", "so far", ""), rows, left=(3,))
    return stacked(drawn, Text(f"of {len(data['variance'])} principal components {words} of the variance"))


def _csv(data: dict[str, Any]) -> CsvTable:
    fields = ("channel", "frequency", "wavelength", "explained", "spread")
    return fields, ([wave[field] for field in fields] for wave in data["waves"])


def _figure(data: dict[str, Any], channels: Sequence[int]) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 8), layout="constrained")
    (whole, likeness), (curves, variance) = figure.subplots(2, 2)
    high = float(np.abs(data["table"]).max()) or 1.0
    drawn = whole.imshow(data["table"], aspect="auto", cmap="RdBu_r", vmin=-high, vmax=high, interpolation="nearest")
    whole.set(title="table", xlabel="channel", ylabel="position")
    figure.colorbar(drawn)
    drawn = likeness.imshow(data["similarity"], cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
    likeness.set(title="cosine similarity", xlabel="position", ylabel="position")
    figure.colorbar(drawn)
    for channel in channels:
        curves.plot(data["table"][:, channel], label=f"channel {channel}", linewidth=1)
    curves.set(title="channels", xlabel="position")
    if channels:
        curves.legend()
    variance.plot(range(1, len(data["variance"]) + 1), np.cumsum(data["variance"]), color="#31688e")
    for each in data["redundancy"]:
        variance.axhline(each["share"], color="grey", linewidth=0.7)
        variance.annotate(f"{each['components']} for {each['share']:.0%}", (each["components"], each["share"]))
    variance.set(title="variance carried", xlabel="principal components", ylim=(0, 1.05))
    figure.suptitle(drawable(f"{model_name(data)}: learned positions"))
    return figure
