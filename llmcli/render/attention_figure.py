"""Attention as a picture: matplotlib figures, true labels, one scale of colours for all maps."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from llmcli.inspect.patterns import PATTERNS
from llmcli.render.attention import SHORT, head_name, headline, is_grouped, ranked_by, summary_of, token_keys
from llmcli.render.export import drawable
from llmcli.render.parts import bar_figure
from llmcli.render.window import Window

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure

    from llmcli.inspect.attention import Attention, AttentionMap, HeadSummary

_LABELLED = 48
"""Tokens up to which every row and column carries its label."""


def maps_figure(found: "Attention") -> "Figure":
    """One map with labels, or several small ones; colours follow the square root of the weight, 0 to 1."""
    if len(found.maps) == 1:
        return _single(found, found.maps[0])
    return _grid(found)


def overview_figure(found: "Attention") -> "Figure":
    """Every head's pattern and entropy beside the chosen map."""
    from matplotlib.figure import Figure

    layers, heads = found.heads[-1].layer + 1, found.heads[-1].head + 1
    left = max(4.0, 0.62 * heads + 1)
    side = _side(found)
    figure = Figure(figsize=(left + side, max(side, 0.5 * layers + 2)), layout="constrained")
    first, second = figure.subplots(1, 2, width_ratios=(left, side))
    strength = np.array([head.strength for head in found.heads]).reshape(layers, heads)
    image = first.imshow(strength, vmin=0, vmax=1, cmap="viridis", aspect="auto")
    for head in found.heads:
        name = "-" if head.pattern is None else SHORT[head.pattern]
        color = "black" if head.strength > 0.6 else "white"
        first.text(
            head.head, head.layer, f"{name}\n{head.entropy:.2f}", ha="center", va="center", fontsize=7, color=color
        )
    grouped = is_grouped(found.heads)
    names = [f"H{head.head}\n→kv{head.kv_head}" if grouped else f"H{head.head}" for head in found.heads[:heads]]
    first.set_xticks(range(heads), names, fontsize=8)
    first.set_yticks(range(layers), [f"L{i}" for i in range(layers)], fontsize=8)
    first.set_title("best pattern, and entropy in bits", fontsize=10)
    bar = figure.colorbar(image, ax=first, location="bottom", shrink=0.8, pad=0.02)
    bar.set_label("share of the weights that the pattern explains", fontsize=8)
    used = [p for p in PATTERNS if any(head.pattern == p for head in found.heads)]
    first.set_xlabel("  ".join(f"{SHORT[p]}: {p}" for p in used), fontsize=7)
    _draw(second, found, found.maps[0], labelled=len(found.fed) <= _LABELLED)
    second.set_title(headline(found, found.maps[0]), fontsize=10)
    return figure


def ranking_figure(found: "Attention", ranking: "Sequence[tuple[HeadSummary, float]]", by: str) -> "Figure":
    """Heads by one quality, as bars."""
    grouped = is_grouped(found.heads)
    names = [head_name(head, grouped) for head, _ in ranking]
    return bar_figure(names, [value for _, value in ranking], heading="heads by " + by, axis=ranked_by(by))


def token_figure(found: "Attention", drawn: "AttentionMap", query: int, window: Window) -> "Figure":
    """Where one token looks, as bars."""
    keys = token_keys(drawn, query, window)
    names = [f"{key} {found.fed[key].label}" for key in keys]
    heading = f"{drawn.name}: where query {query} {found.fed[query].label} looks"
    return bar_figure(
        names, [float(drawn.weights[query, key]) for key in keys], heading=heading, axis="attention weight"
    )


def _side(found: "Attention") -> float:
    """Inches of one labelled map."""
    return min(16.0, max(5.0, 0.24 * len(found.fed) + 2))


def _single(found: "Attention", drawn: "AttentionMap") -> "Figure":
    from matplotlib.figure import Figure

    side = _side(found)
    panels = 1 if drawn.scores is None else 2
    figure = Figure(figsize=(side * panels + 1, side), layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    labelled = len(found.fed) <= _LABELLED
    if drawn.scores is not None:
        high = float(np.abs(drawn.scores).max()) or 1.0
        image = axes[0].imshow(drawn.scores, cmap="RdBu_r", vmin=-high, vmax=high)
        query, key = np.nonzero(~drawn.visible)
        axes[0].scatter(key, query, marker="x", s=8, linewidths=0.5, color="black")
        axes[0].set_title("scaled scores; x: masked", fontsize=10)
        _label(axes[0], found, labelled)
        figure.colorbar(image, ax=axes[0], shrink=0.8)
    image = _draw(axes[-1], found, drawn, labelled=labelled)
    axes[-1].set_title(headline(found, drawn), fontsize=10)
    figure.colorbar(image, ax=axes[-1], shrink=0.8).set_label("attention weight; grey: masked")
    return figure


def _grid(found: "Attention") -> "Figure":
    from matplotlib.figure import Figure

    across = min(len(found.maps), max(4, math.ceil(math.sqrt(len(found.maps)))))
    down = math.ceil(len(found.maps) / across)
    figure = Figure(figsize=(1.7 * across + 1, 2.0 * down), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False).ravel()
    image: Any = None
    for axes, drawn in zip(panels, found.maps, strict=False):
        image = _draw(axes, found, drawn, labelled=False)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_xlabel("")
        axes.set_ylabel("")
        summary = summary_of(found, drawn)
        note = (
            "" if summary is None or summary.pattern is None else f"\n{SHORT[summary.pattern]} {summary.strength:.2f}"
        )
        axes.set_title(f"{drawn.name}{note}", fontsize=8)
    for axes in panels[len(found.maps) :]:
        axes.set_visible(False)
    figure.colorbar(image, ax=list(panels), shrink=0.6).set_label("attention weight; rows queries, columns keys")
    return figure


def _draw(axes: Any, found: "Attention", drawn: "AttentionMap", *, labelled: bool) -> Any:
    from matplotlib.colors import PowerNorm

    hidden = ~drawn.visible
    if drawn.sink is not None:
        hidden = hidden | ((np.arange(hidden.shape[1]) == 0)[None] & (drawn.weights == 0))
    axes.set_facecolor("0.88")
    image = axes.imshow(np.ma.array(drawn.weights, mask=hidden), cmap="viridis", norm=PowerNorm(0.5, 0, 1))
    _label(axes, found, labelled)
    return image


def _label(axes: Any, found: "Attention", labelled: bool) -> None:
    axes.set_xlabel("key")
    axes.set_ylabel("query")
    if labelled:
        labels = [drawable(f"{i} {token.label}") for i, token in enumerate(found.fed)]
        axes.set_xticks(range(len(labels)), labels, rotation=90, fontsize=7)
        axes.set_yticks(range(len(labels)), labels, fontsize=7)
