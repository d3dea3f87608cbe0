"""What moving and shuffling a text did to attention."""

from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.text import Text

from llmcli.render.export import Table as CsvTable
from llmcli.render.export import View
from llmcli.render.parts import bar, bar_figure, clamp, model_name, page, stacked, tail, title
from llmcli.render.positions import NAME
from llmcli.render.screen import Screen
from llmcli.render.table import table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TOLERANCE = 1e-4


def shift_view(data: dict[str, Any]) -> View:
    """From the document of a `Shift`."""

    def terminal(screen: Screen) -> RenderableType:
        return _shift(data, screen)

    def figure() -> "Figure":
        names = [f"layer {each['layer']}" for each in data["layers"]]
        heading = f"{model_name(data)}: change of scores, moved by {data['shift']}"
        return bar_figure(names, [each["change"] for each in data["layers"]], heading=heading, axis="largest change")

    fields = ("layer", "change", "largest")

    def rows() -> CsvTable:
        return fields, ([each[field] for field in fields] for each in data["layers"])

    return View(NAME, data, terminal, rows, figure, lambda: page(f"{NAME}: {model_name(data)}", terminal))


def _shift(data: dict[str, Any], screen: Screen) -> RenderableType:
    head = title(data, f"The text moved by {data['shift']} positions")
    head.append(f"\n{tail(data['tokens'], screen.width - 2)}", "not bold")
    width = clamp(screen.width - 50, 8, 50)
    rows: list[list[str | Text]] = []
    for each in data["layers"]:
        shown = Text(bar(each["change"] / (each["largest"] or 1.0), width), "magenta")
        rows.append([str(each["layer"]), f"{each['largest']:.4f}", f"{each['change']:.2e}", shown])
    drawn = table(("layer", "largest score", "largest change", ""), rows, left=(3,))
    none = data["change"] <= TOLERANCE
    if data["learned"]:
        kind = "a learned table: scores depend on where the text stands"
    elif none:
        kind = "RoPE: scores depend on distances alone"
    else:
        kind = "RoPE with a scaling whose angles depend on the length that is reached"
    words = (
        f"attention scores change by {data['change']:.1e} of the largest: {'none' if none else 'some'} beyond rounding"
    )
    return stacked(head, drawn, Text(f"{words}\n({kind})"))


def shuffle_view(data: dict[str, Any]) -> View:
    """From the document of a `Shuffle`."""

    def terminal(screen: Screen) -> RenderableType:
        return _shuffle(data, screen)

    def figure() -> "Figure":
        values = [data["with_positions"], data["without_positions"]]
        heading = f"{model_name(data)}: change of the last token's attention output"
        return bar_figure(["with positions", "without"], values, heading=heading, axis="largest change, relative")

    def rows() -> CsvTable:
        fields = ("with_positions", "without_positions")
        return ("positions", "change"), ([field.removesuffix("_positions"), data[field]] for field in fields)

    return View(NAME, data, terminal, rows, figure, lambda: page(f"{NAME}: {model_name(data)}", terminal))


def _shuffle(data: dict[str, Any], screen: Screen) -> RenderableType:
    tokens = data["tokens"]
    head = title(data, "All tokens but the last shuffled")
    moved = [tokens[i] for i in data["order"]]
    head.append(f"\n  {tail(tokens, screen.width - 4)}\n→ {tail(moved, screen.width - 4)}", "not bold")
    rows = [
        ["with the model's positions", f"{data['with_positions']:.2e}"],
        ["with positions switched off", f"{data['without_positions']:.2e}"],
    ]
    drawn = table(("attention output of the last token in block 0", "change"), rows, left=(0,))
    words = ["change: the largest of any channel, relative to max(1, the largest magnitude)"]
    if data["window"] is not None:
        words.append(
            f"note: block 0 sees only {data['window']} keys; tokens that came into sight or left it matter too"
        )
    elif data["without_positions"] <= 1e-5:
        words.append("without positions nothing changes: attention alone knows no order")
    return stacked(head, drawn, Text("\n".join(words)))
