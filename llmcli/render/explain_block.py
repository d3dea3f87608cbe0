"""The stages of a transformer block, drawn: norm, self-attention, residual, feed-forward network, all blocks."""

from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from llmcli.ranges import ranges_text
from llmcli.render.explain_parts import (
    Page,
    heading,
    number,
    numbers,
    short,
    steps_table,
    token_table,
    words,
)
from llmcli.render.heatmap import Heatmap, columns_that_fit, draw_heatmap
from llmcli.render.parts import percent
from llmcli.render.plot import Chart, Series
from llmcli.render.plot import draw as draw_chart
from llmcli.render.table import table
from llmcli.render.window import Window, choose_part

Parts = list[RenderableType | None]

_CURVE_WIDTH, _CURVE_HEIGHT = 34, 5


def draw_norm(page: Page, stage: dict[str, Any]) -> Parts:
    name = page.norm_name()
    layer = stage["layer"]
    where = stage["place"] if layer is None else f"{stage['place']}, block {layer}"
    eps = page.data["config"]["norm_eps"]
    if page.data["config"]["norm"] == "layernorm":
        said = (
            f"Keeps the numbers in a steady range: from each token's channels their mean is taken off, they are "
            f"divided by their spread, sqrt(variance + {eps:g}), then each channel gets its learned weight and bias."
        )
        fields: tuple[str, ...] = ("mean", "spread")
        heads = ("centred, divided", "x weight + bias")
    else:
        weight = "1 + its learned weight" if page.data["config"]["norm_offset"] else "its learned weight"
        said = (
            f"Keeps the numbers in a steady range: each token's channels are divided by their root mean square (rms), "
            f"sqrt(mean of squares + {eps:g}), then each channel is multiplied by {weight}."
        )
        fields = ("mean", "spread", "rms")
        heads = ("divided", "x weight")
    return [
        heading(page, stage, f"{name} {where}"),
        words(said + " Each token is treated alone."),
        _moments(page, stage, fields, heads),
        page.hidden(),
    ]


def _moments(page: Page, stage: dict[str, Any], fields: tuple[str, ...], heads: tuple[str, str]) -> RenderableType:
    """Three groups of columns: before, after the division, after the learned weights."""
    headers, columns = [], []
    for group, key in (("before", "before"), (heads[0], "scaled"), (heads[1], "after")):
        for i, field in enumerate(fields if key != "after" else fields[:2]):
            headers.append(f"{group if i == 0 else ''}\n{field:>6}")
            columns.append([number(float(value)) for value in stage[key][field]])
    rows = [[*page.names(i), *(column[i] for column in columns)] for i in page.shown]
    return table(("\n#", "\ntoken", *headers), rows, left=(1,))


def draw_attention(page: Page, stage: dict[str, Any]) -> Parts:
    window, heads = stage["window"], page.data["config"]["num_heads"]
    reach = "those before it" if window is None else f"the {window - 1} before it"
    said = f"Here tokens learn from one another: each looks at itself and {reach}."
    weights = np.asarray(stage["weights"])
    row = weights[-1]
    best = int(row.argmax())
    looks = f"Token {len(weights) - 1} looks most at {best} {short(page.tokens[best]['label'])}: {row[best]:.2f}."
    return [
        heading(page, stage, f"Self-attention, block {stage['layer']}"),
        words(said),
        steps_table(stage),
        Group(
            _map(page, stage),
            words(f"Map: mean of {heads} heads; blank: not seen. {looks}"),
        ),
    ]


def _map(page: Page, stage: dict[str, Any]) -> RenderableType:
    """The weights as numbers on their colours, and of what does not fit, which option shows it."""
    weights = np.asarray(stage["weights"])
    count = len(weights)
    labels = [short(token["label"]) for token in page.tokens]
    query, key = np.indices((count, count))
    masked = (key > query) | (key <= query - (stage["window"] or count))
    heatmap = Heatmap(weights, labels, [""] * count, masked=masked, causal=True, summed=True)
    whole = page.columns is None and len(page.shown) == count
    window = Window(None if whole else ranges_text(page.shown), page.columns)
    text = draw_heatmap(heatmap, page.screen, window, numbers=True, legend=False)
    room = columns_that_fit(heatmap, page.screen, numbers=True)
    part = choose_part(weights.shape, heatmap.names, window, room, causal=True)
    others = [
        f"{option} {ranges_text(missing)}"
        for option, chosen in (("--rows", part.rows), ("--cols", part.columns))
        if (missing := sorted(set(range(count)) - set(chosen)))
    ]
    if not others:
        return text
    drawn = f"{len(part.rows)} queries x {len(part.columns)} keys of {count} x {count}"
    return Group(text, Text(f"note: {drawn} are shown; the others: {', '.join(others)}"))


def draw_residual(page: Page, stage: dict[str, Any]) -> Parts:
    adds = [
        (name, stage[field])
        for name, field in (("attention", "attention_adds"), ("feed-forward", "ffn_adds"))
        if stage[field] is not None
    ]
    what = " and the ".join(f"{name} network's" if name == "feed-forward" else f"{name}'s" for name, _ in adds)
    said = (
        f"The {what} output is added to the vector that came in: what was there stays, something is written on top. "
        "The lengths of these vectors show how much."
    )
    if len(adds) > 1:
        said += " Both read the same vector: this family's blocks do the two side by side (parallel residual)."
    columns = [[number(float(value)) for value in values] for _, values in [("", stage["before"]), *adds]]
    columns.append([number(float(value)) for value in stage["after"]])
    headers = ["length before", *(f"{name} adds" for name, _ in adds), "length after"]
    return [
        heading(page, stage, f"Residual connection, block {stage['layer']}"),
        words(said),
        token_table(page, headers, columns),
        page.hidden(),
    ]


def draw_ffn(page: Page, stage: dict[str, Any]) -> Parts:
    config = page.data["config"]
    size, inner = config["hidden_size"], config["intermediate_size"]
    said = (
        f"Each token alone: {size} channels become {inner}, are bent by {stage['activation']}, and become {size} "
        f"again. Of {page.last}'s {inner} numbers {stage['positive']} are above 0 before the bend."
    )
    return [
        heading(page, stage, f"Feed-forward network, block {stage['layer']}"),
        words(said),
        steps_table(stage),
        _curve_and_numbers(page, stage),
        words(_alone(page, stage)),
    ]


def _curve_and_numbers(page: Page, stage: dict[str, Any]) -> RenderableType:
    """The activation's curve, and at its right the last token's first numbers on their way."""
    points = [(float(x), float(y)) for x, y in zip(stage["curve_x"], stage["curve_y"], strict=True)]
    chart = Chart(f"{stage['activation']}(x)", "", "", [Series("", points)])
    curve = draw_chart(chart, _CURVE_WIDTH, _CURVE_HEIGHT).splitlines()
    lines = [("reads", stage["read"]), ("before" if not stage["gated"] else "gate", stage["before"])]
    lines.append((f"{stage['activation']}", stage["activated"]))
    if stage["gated"]:
        lines.append(("x up", stage["hidden"]))
    lines.append(("gives", stage["added"]))
    count = page.numbers_that_fit(_CURVE_WIDTH + 14, len(stage["read"]))
    rows = [[name, *numbers(values, count), "…"] for name, values in lines]
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True)
    grid.add_row(
        Text("\n".join(curve)),
        table((f"token {len(page.tokens) - 1}", *map(str, range(count)), ""), rows, left=(0,)),
    )
    return grid


def _alone(page: Page, stage: dict[str, Any]) -> str:
    alone = stage["alone"]
    if alone is None:
        return "The text has one token: there is no other whose input could be changed."
    changed = f"token {alone['changed']} {short(page.tokens[alone['changed']]['label'])}"
    return (
        f"Tried: with the sign of {changed}'s input flipped, {page.last}'s output changes by {alone['here']:.3g} "
        f"(token {alone['changed']}'s own by {alone['itself']:.3g}): no token sees another here. Flipped where the "
        f"self-attention reads, {page.last}'s attention output changes by {alone['by_attention']:.3g}."
    )


def draw_blocks(page: Page, stage: dict[str, Any]) -> Parts:
    said = (
        f"All blocks do the same, each with weights of its own. A line each, at {page.last}: lengths of what is added "
        "and of what comes out, and the next token that the model would say if it ended there."
    )
    rows = [["embedding", "", "", number(stage["length"]), *_says(stage["says"]), ""]]
    for each in stage["rows"]:
        adds = [number(each["attention_adds"]), number(each["ffn_adds"])]
        opened = "opened above" if each["layer"] == page.data["layer"] else ""
        rows.append([f"block {each['layer']}", *adds, number(each["length"]), *_says(each["says"]), opened])
    headers = ("", "attention adds", "ffn adds", "length", "would say", "", "")
    return [heading(page, stage, "All blocks"), words(said), table(headers, rows, left=(0, 4, 6))]


def _says(ranked: dict[str, Any]) -> list[str]:
    return [short(ranked["token"]["label"]), percent(ranked["prob"])]
