"""The logit lens: one line a layer."""

from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.console import RenderableType
from rich.text import Text

from llmcli.render.export import Table as CsvTable
from llmcli.render.export import View, drawable
from llmcli.render.labels import fit
from llmcli.render.logits import make_view
from llmcli.render.parts import bar, model_name, percent, stacked, tail, title
from llmcli.render.screen import Screen
from llmcli.render.table import table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WORD = 12


def lens_view(data: dict[str, Any]) -> View:
    """From the document of a `Lens`."""
    return make_view(data, lambda screen: _lens(data, screen), lambda: _csv(data), lambda: _figure(data))


def layer_name(layer: int) -> str:
    return "embedding" if layer < 0 else f"block {layer}"


def _lens(data: dict[str, Any], screen: Screen) -> RenderableType:
    head = title(data, f"What each layer would say follows token {data['position']}")
    head.append(f"\nafter {tail(data['tokens'][: data['position'] + 1], screen.width - 12)}", "not bold")
    final = data["rows"][-1]["final"]["token"]["label"]
    count = min(len(data["rows"][0]["top"]), max(1, (screen.width - 60) // (_WORD + 7)))
    rows: list[list[str | Text]] = []
    for each in data["rows"]:
        best = [
            Text(f"{fit(top['token']['label'], _WORD)} {100 * top['prob']:3.0f} %", "bold" if i == 0 else "dim")
            for i, top in enumerate(each["top"][:count])
        ]
        place = each["final"]
        shares = [percent(place["prob"]), str(place["rank"])]
        line: list[str | Text] = [layer_name(each["layer"]), *best, *shares, Text(bar(place["prob"], 8), "cyan")]
        rows.append([*line, f"{each['entropy']:.2f}", f"{each['kl']:.3f}"])
    places = ["most probable", *(["then"] * (count - 1))]
    headers = ["after", *places, fit(final, min(_WORD, cell_len(final))), "rank", "", "entropy", "KL"]
    meaning = (
        "entropy and KL in bits; KL: how far from the model's output. "
        f"Last row and output differ by {data['difference']:.1g} at most."
    )
    left = (0, *range(1, count + 1), count + 3)
    return stacked(head, table(headers, rows, left=left), Text(meaning, "dim"))


def _csv(data: dict[str, Any]) -> CsvTable:
    header = ("layer", "rank", "id", "piece", "logit", "prob", "entropy", "kl")
    rows = (
        [
            row["layer"],
            e["rank"],
            e["token"]["id"],
            e["token"]["piece"],
            e["logit"],
            e["prob"],
            row["entropy"],
            row["kl"],
        ]
        for row in data["rows"]
        for e in row["top"]
    )
    return header, rows


def _figure(data: dict[str, Any]) -> "Figure":
    from matplotlib.figure import Figure

    rows = data["rows"]
    figure = Figure(figsize=(8, 1.5 + 0.3 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    count = len(rows[0]["top"])
    image = axes.imshow([[top["prob"] for top in row["top"]] for row in rows], aspect="auto", vmin=0, vmax=1)
    for y, row in enumerate(rows):
        for x, top in enumerate(row["top"]):
            ink = "black" if top["prob"] > 0.6 else "white"
            axes.text(x, y, drawable(top["token"]["label"]), ha="center", va="center", color=ink, fontsize=9)
    axes.set_yticks(range(len(rows)), [layer_name(row["layer"]) for row in rows])
    axes.set_xticks(range(count), [str(i) for i in range(count)])
    axes.set(xlabel="rank", title=drawable(f"{model_name(data)}: logit lens at token {data['position']}"))
    figure.colorbar(image, label="probability")
    return figure
