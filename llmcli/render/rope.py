"""RoPE: its pairs and wavelengths, curves, one query turned, and the rotation of a position as a matrix."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import RenderableType
from rich.text import Text

from llmcli.render.export import Table as CsvTable
from llmcli.render.export import View, drawable
from llmcli.render.heatmap import Heatmap, draw_heatmap
from llmcli.render.palette import Scale
from llmcli.render.parts import bar, clamp, model_name, page, stacked, title
from llmcli.render.plot import Chart, Series, draw, draw_plane
from llmcli.render.positions import NAME
from llmcli.render.screen import Screen
from llmcli.render.table import table
from llmcli.render.window import Window

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def rope_view(data: dict[str, Any]) -> View:
    """From the document of a `RopeReport`."""

    def terminal(screen: Screen) -> RenderableType:
        return _rope(data, screen)

    return View(
        NAME,
        data,
        terminal,
        lambda: _csv(data),
        lambda: _figure(data),
        lambda: page(f"{NAME}: {model_name(data)}", terminal),
    )


def _rope(data: dict[str, Any], screen: Screen) -> RenderableType:
    parts: list[RenderableType] = [title(data, "Rotary position embedding (RoPE)")]
    for rope in data["ropes"]:
        parts += [Text("\n".join(_facts(rope))), _pairs(rope, screen)]
    for curve in data["curves"]:
        parts.append(Text(_chart(curve, screen).rstrip("\n")))
    return stacked(*parts, _query(data["query"]))


def _facts(rope: dict[str, Any]) -> list[str]:
    count = len(rope["layers"])
    layers = f"{count} layer{'' if count == 1 else 's'} ({rope['layer_type'].replace('_', ' ')})"
    turned = "all" if rope["dim"] == rope["head_dim"] else f"{rope['dim']} of"
    settings = "".join(f", {name} {value:g}" for name, value in rope["settings"].items())
    scaling = "none" if rope["scaling"] == "default" else rope["scaling"] + settings
    if rope["attention_factor"] != 1:
        scaling += f", cos and sin times {rope['attention_factor']:.6g}"
    return [
        f"{layers}: {turned} {rope['head_dim']} channels of queries and keys turn",
        f"base {rope['base']:g}, scaling: {scaling}",
        f"wavelengths longer than the context of {rope['context_length']:,}: {rope['beyond']} of {len(rope['pairs'])}",
    ]


def _pairs(rope: dict[str, Any], screen: Screen) -> RenderableType:
    """The bar shows how many turns a pair completes within the context, on a logarithmic scale."""
    width = clamp(screen.width - 66, 8, 40)
    scaled = rope["scaling"] != "default"
    most = max(math.log10(1 + pair["turns"]) for pair in rope["pairs"])
    rows: list[list[str | Text]] = []
    for i, pair in enumerate(rope["pairs"]):
        turns = pair["turns"]
        channels = f"{pair['channels'][0]}, {pair['channels'][1]}"
        unscaled = [f"{pair['unscaled']:.4g}"] if scaled else []
        mark = Text("> context", "red") if pair["beyond"] else _turns(turns, most, width)
        rows.append(
            [str(i), channels, f"{pair['theta']:.4g}", *unscaled, f"{pair['wavelength']:,.1f}", f"{turns:.3g}", mark]
        )
    headers = ["pair", "channels", "theta", *(["unscaled"] if scaled else []), "wavelength", "turns", ""]
    return table(headers, rows, left=(len(headers) - 1,))


def _turns(turns: float, most: float, width: int) -> Text:
    return Text(bar(math.log10(1 + turns) / most, width), "cyan")


def _chart(curve: dict[str, Any], screen: Screen) -> str:
    xs = [float(x) for x in curve["positions"]]
    series = [Series(f, list(zip(xs, map(float, curve[f]), strict=True))) for f in ("cos", "sin")]
    chart = Chart(f"pair {curve['pair']}: cos and sin of position x theta", "position", "value", series)
    return draw(chart, min(screen.width, 100), 9)


def _query(query: dict[str, Any]) -> RenderableType:
    whose = "the query (1, 0)" if query["token"] is None else f"the query of {query['token']['label']}"
    head = Text(
        f"Pair {query['pair']} of {whose} in L{query['layer']}.H{query['head']}, position {query['position']}", "bold"
    )
    before, after = query["before"], query["after"]
    words = (
        f"○ before ({before[0]:.3f}, {before[1]:.3f})   ● after ({after[0]:.3f}, {after[1]:.3f})   "
        "· at the positions between"
    )
    marked = {"·": query["path"], "○": [before], "●": [after]}
    plane = draw_plane({mark: [(float(x), float(y)) for x, y in points] for mark, points in marked.items()})
    return stacked(head, Text(plane.rstrip("\n")), Text(words))


def _csv(data: dict[str, Any]) -> CsvTable:
    header = ("layer_type", "pair", "channel", "other_channel", "theta", "unscaled", "wavelength", "beyond")
    rows = (
        [rope["layer_type"], i, *p["channels"], p["theta"], p["unscaled"], p["wavelength"], p["beyond"]]
        for rope in data["ropes"]
        for i, p in enumerate(rope["pairs"])
    )
    return header, rows


def _figure(data: dict[str, Any]) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 8), layout="constrained")
    (waves, turned), (cosines, sines) = figure.subplots(2, 2)
    for rope in data["ropes"]:
        waves.semilogy([pair["wavelength"] for pair in rope["pairs"]], ".-", label=rope["layer_type"].replace("_", " "))
    waves.axhline(data["ropes"][0]["context_length"], color="grey", linewidth=0.8, label="context")
    waves.set(title="wavelength, positions", xlabel="pair")
    waves.yaxis.set_major_formatter("{x:g}")
    waves.xaxis.get_major_locator().set_params(integer=True)
    waves.legend()
    path, query = np.asarray(data["query"]["path"]), data["query"]
    turned.plot(path[:, 0], path[:, 1], ".", color="#b5de2b")
    for field, color in (("before", "#31688e"), ("after", "#440154")):
        turned.annotate("", query[field], (0, 0), arrowprops={"arrowstyle": "->", "color": color, "linewidth": 2})
        turned.plot([], [], color=color, label=f"{field}")
    radius = 1.1 * float(np.hypot(path[:, 0], path[:, 1]).max()) or 1.0
    place = f"L{query['layer']}.H{query['head']}, position {query['position']}"
    turned.set(
        title=f"pair {query['pair']} of a query, {place}",
        xlim=(-radius, radius),
        ylim=(-radius, radius),
        aspect="equal",
    )
    turned.legend()
    for curve in data["curves"]:
        cosines.plot(curve["positions"][1:], curve["cos"][1:], label=f"pair {curve['pair']}")
        sines.plot(curve["positions"][1:], curve["sin"][1:], label=f"pair {curve['pair']}")
    for axes, name in ((cosines, "cos"), (sines, "sin")):
        axes.set(title=f"{name}(position x theta)", xlabel="position", ylim=(-1.1, 1.1))
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.legend()
    figure.suptitle(drawable(f"{model_name(data)}: RoPE"))
    return figure


def rotation_view(data: dict[str, Any], pairs: list[int], window: Window) -> View:
    """From the document of `Rotations`. The 2 x 2 blocks of `pairs` are printed."""
    data = data | {"legends": {"matrix": _scale(data).legend()}}

    def terminal(screen: Screen) -> RenderableType:
        return _rotations(data, pairs, window, screen)

    return View(
        NAME,
        data,
        terminal,
        lambda: _rotation_csv(data),
        lambda: _rotation_figure(data),
        lambda: page(f"{NAME}: {model_name(data)}", terminal),
    )


def _scale(data: dict[str, Any]) -> Scale:
    """One scale for the matrices of all types of layers."""
    return Scale(max(1.0, *(float(np.abs(each["matrix"]).max()) for each in data["rotations"])), "diverging")


def _rotations(data: dict[str, Any], pairs: list[int], window: Window, screen: Screen) -> RenderableType:
    parts: list[RenderableType] = [title(data, f"The rotation of position {data['rotations'][0]['position']}")]
    for each in data["rotations"]:
        parts.append(Text(each["layer_type"].replace("_", " "), "bold"))
        parts += [_block(each, pair) for pair in pairs if pair < len(each["blocks"])]
        parts.append(_matrix(each, _scale(data), window, screen))
        what = "queries of the text" if each["of_text"] else "random vectors"
        parts.append(
            Text(
                f"matrix product and Hadamard form (x * cos + swapped x * sin) of {each['vectors']} {what}\n"
                f"differ by {each['difference']:.1g} at most"
            )
        )
    return stacked(*parts)


def _block(rotation: dict[str, Any], pair: int) -> Text:
    (a, b), (c, d) = rotation["blocks"][pair]
    half = len(rotation["blocks"])
    return Text(
        f"pair {pair}, channels {pair} and {pair + half}, angle {rotation['angles'][pair]:.6g} radians\n"
        f"  ⎡{a:10.6f} {b:10.6f} ⎤   ⎡ cos -sin ⎤\n"
        f"  ⎣{c:10.6f} {d:10.6f} ⎦   ⎣ sin  cos ⎦"
    )


def _matrix(rotation: dict[str, Any], scale: Scale, window: Window, screen: Screen) -> Text:
    matrix = rotation["matrix"]
    stored = np.zeros(matrix.shape, dtype=np.bool_)
    half = len(rotation["blocks"])
    places = np.arange(len(matrix))
    stored[places, places] = True
    for i in range(half):
        stored[i, i + half] = stored[i + half, i] = True
    heatmap = Heatmap(
        values=matrix,
        rows=[""] * len(matrix),
        columns=[""] * len(matrix),
        names=("row", "column"),
        scale=scale,
        masked=~stored,
        masked_means="0",
        format=".3f",
    )
    numbers = window.pool == 1 and 7 + 8 * len(matrix) <= screen.width
    return draw_heatmap(heatmap, screen, window, numbers=numbers)


def _rotation_csv(data: dict[str, Any]) -> CsvTable:
    rows = (
        [each["layer_type"], pair, each["angles"][pair], block[0][0], block[1][0]]
        for each in data["rotations"]
        for pair, block in enumerate(np.asarray(each["blocks"]).tolist())
    )
    return ("layer_type", "pair", "angle", "cos", "sin"), rows


def _rotation_figure(data: dict[str, Any]) -> "Figure":
    from matplotlib.figure import Figure

    count = len(data["rotations"])
    figure = Figure(figsize=(6.5 * count, 6), layout="constrained")
    for i, each in enumerate(data["rotations"]):
        axes = figure.add_subplot(1, count, i + 1)
        drawn = axes.imshow(each["matrix"], cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
        axes.set(title=f"position {each['position']}, {each['layer_type'].replace('_', ' ')}", xlabel="from channel")
        axes.set_ylabel("to channel")
        figure.colorbar(drawn)
    figure.suptitle(drawable(f"{model_name(data)}: rotation matrix"))
    return figure
