"""Small parts that views share: titles, bars, shares in words, the end of a text."""

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.text import Text

from llmcli.render.labels import fit
from llmcli.render.safe import visible
from llmcli.render.screen import Screen

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_EIGHTHS = " ▏▎▍▌▋▊▉"


def bar(share: float, width: int) -> str:
    """A bar of at most `width` cells that stands for 0 to 1, exact to an eighth of a cell; nothing only for 0."""
    eighths = round(min(1.0, max(0.0, share)) * width * 8)
    eighths = max(1, eighths) if share > 0 else 0
    full, rest = divmod(eighths, 8)
    return "█" * full + (_EIGHTHS[rest] if rest else "")


def percent(share: float) -> str:
    """`96.88 %`; small shares with two digits that count: `0.0012 %`, `3.1e-07 %`."""
    value = 100 * share
    if value >= 0.01 or value == 0:
        return f"{value:.2f} %"
    return f"{value:.1e} %" if value < 0.0001 else f"{value:.2g} %"


def title(data: dict[str, Any], text: str) -> Text:
    """The first line of a view: what is shown, of which model, computed in which dtype."""
    line = Text(text, "bold")
    line.append(f"  {model_name(data)}, {data['dtype']}", "dim not bold")
    return line


def model_name(data: dict[str, Any]) -> str:
    """The model's name; of a folder's path the last part."""
    name = str(data["model"])
    short = name.rstrip("/").rpartition("/")[2] if name.startswith((".", "/", "~")) else name
    return visible(short) or visible(name)


def stacked(*parts: RenderableType | None) -> Group:
    """Parts below one another, a blank line between them; None is left out."""
    shown: list[RenderableType] = []
    for part in parts:
        if part is None:
            continue
        if isinstance(part, Text):
            part.end = "\n"
        shown += [Text(""), part] if shown else [part]
    return Group(*shown)


def tail(tokens: Sequence[dict[str, Any]], room: int) -> str:
    """The end of a text as its labels, at most `room` cells, begun by an ellipsis where more stands before."""
    text = ""
    for i, each in enumerate(reversed(tokens)):
        if cell_len(each["label"] + text) > room - 1:
            return "…" + text if i else "…"
        text = each["label"] + text
    return text


def short(label: str) -> str:
    """A label of at most 16 cells, so that a long token leaves the numbers beside it their room."""
    return label if cell_len(label) <= 16 else fit(label, 16)


def clamp(value: int, low: int, high: int) -> int:
    return max(low, min(high, value))


def page(heading: str, terminal: Callable[[Screen], RenderableType]) -> str:
    """A view as one self-contained HTML page: what a wide terminal would show, on light or dark ground."""
    console = Console(
        file=io.StringIO(), record=True, width=110, force_terminal=True, color_system="truecolor", legacy_windows=False
    )
    console.print(terminal(Screen(110, "truecolor")), markup=False, emoji=False, highlight=False)
    template = _PAGE.replace("HEADING", Text(visible(heading)).plain.replace("&", "&amp;").replace("<", "&lt;"))
    return console.export_html(code_format=template, inline_styles=True)


_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>HEADING</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ margin: 2rem; }}
pre {{ font: 14px/1.35 ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; overflow-x: auto; }}
</style>
</head>
<body>
<pre>{code}</pre>
</body>
</html>
"""


def bar_figure(
    names: Sequence[str], values: Sequence[float], *, heading: str, axis: str, form: str = ".3g"
) -> "Figure":
    """A picture of horizontal bars, the first one on top, each with its number in the format `form`."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    from llmcli.render.export import drawable

    figure = Figure(figsize=(8, 1.2 + 0.28 * max(1, len(names))), layout="constrained")
    axes = figure.add_subplot()
    places = range(len(names))
    drawn = axes.barh(places, values, color="#31688e")
    axes.bar_label(drawn, [format(value, form) for value in values], padding=3, fontsize=8)
    axes.set_yticks(places, [drawable(name) for name in names])
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.set(title=drawable(heading), xlabel=axis)
    if max(values, default=0) >= 1e4:
        axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
    axes.spines[["top", "right"]].set_visible(False)
    return figure
