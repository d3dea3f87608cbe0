"""What each sampling filter leaves, drawn as a funnel, then the draw."""

from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.text import Text

from llmcli.render.export import Table as CsvTable
from llmcli.render.export import View
from llmcli.render.logits import make_view
from llmcli.render.parts import bar, bar_figure, clamp, model_name, percent, short, stacked, tail, title
from llmcli.render.screen import Screen
from llmcli.render.table import table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def funnel_view(data: dict[str, Any]) -> View:
    """From the document of a `TextFunnel`."""
    return make_view(data, lambda screen: _funnel(data, screen), lambda: _csv(data), lambda: _figure(data))


def _funnel(data: dict[str, Any], screen: Screen) -> RenderableType:
    head = title(data, "What each filter leaves")
    head.append(f"\nafter {tail(data['tokens'], screen.width - 12)}", "not bold")
    width = clamp(screen.width - 70, 8, 40)
    rows: list[list[str | Text]] = [
        [
            stage_name(each),
            str(each["candidates"]),
            percent(each["mass"]),
            percent(each["model_mass"]),
            f"{each['entropy']:.3f}",
            Text(bar(each["mass"], width), "cyan"),
        ]
        for each in data["stages"]
    ]
    headers = ("filter", "candidates", "mass", "of the model", "entropy", "")
    meaning = "mass: of the distribution before anything is cut; of the model: of its own, before any filter"
    return stacked(
        head, table(headers, rows, left=(0, 5)), Text(meaning, "dim"), _candidates(data, screen), _draw(data)
    )


def stage_name(stage: dict[str, Any]) -> str:
    return stage["name"] if stage["value"] is None else f"{stage['name']} {stage['value']:g}"


def _candidates(data: dict[str, Any], screen: Screen) -> RenderableType:
    width = clamp(screen.width - 60, 8, 50)
    rows: list[list[str | Text]] = []
    for each in data["candidates"]:
        chosen = each["token"]["id"] == data["drawn"]["token"]["id"]
        shares = [percent(each["model_prob"]), percent(each["prob"])]
        mark = "→" if chosen else ""
        rows.append(
            [
                mark,
                short(each["token"]["label"]),
                str(each["token"]["id"]),
                *shares,
                Text(bar(each["prob"], width), "cyan"),
            ]
        )
    left = data["stages"][-1]["candidates"]
    drawn = table(("", "token", "id", "model", "drawn from", ""), rows, left=(0, 1, 5))
    if left <= len(rows):
        return drawn
    return stacked(drawn, Text(f"the first {len(rows)} of {left} candidates; --limit shows more"))


def _draw(data: dict[str, Any]) -> Text:
    drawn = data["drawn"]
    text = Text("drawn: ")
    text.append(drawn["token"]["label"], "bold")
    text.append(f" (id {drawn['token']['id']}), probability {percent(drawn['prob'])}")
    if data["uniform"] is None:
        text.append(", greedy: no random number")
    else:
        text.append(f", by the random number {data['uniform']:.6f} of seed {data['seed']}")
    return text


def _csv(data: dict[str, Any]) -> CsvTable:
    fields = ("name", "value", "candidates", "mass", "model_mass", "entropy")
    return fields, ([each[field] for field in fields] for each in data["stages"])


def _figure(data: dict[str, Any]) -> "Figure":
    names = [f"{stage_name(each)}: {each['candidates']}" for each in data["stages"]]
    masses = [each["mass"] for each in data["stages"]]
    return bar_figure(names, masses, heading=f"{model_name(data)}: candidates and mass left", axis="mass")
