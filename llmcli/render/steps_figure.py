"""One head as a picture: every tensor of its computation as a panel, in order, with its shape and its operation."""

import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

from llmcli.render.export import drawable
from llmcli.render.steps import SQUARE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from llmcli.inspect.steps import HeadSteps, Step

_ACROSS = 4
_NUMBERED = 8
"""Tokens up to which the cells of a map say their numbers."""
_LABELLED = 24
"""Tokens up to which every row carries its label."""


def steps_figure(found: "HeadSteps") -> "Figure":
    """The panels of all steps, read row by row; arrows between them are the operations below their names."""
    from matplotlib.figure import Figure

    down = -(-len(found.steps) // _ACROSS)
    side = min(8.0, max(3.4, 0.2 * len(found.tokens) + 1.4))
    figure = Figure(figsize=(side * _ACROSS, (side + 0.7) * down), layout="constrained")
    panels = figure.subplots(down, _ACROSS, squeeze=False).ravel()
    shared = f", key/value head {found.kv_head}" if found.kv_heads != found.heads else ""
    figure.suptitle(f"Layer {found.layer}, head {found.head} of {found.heads}{shared}, step by step")
    for number, (axes, step) in enumerate(zip(panels, found.steps, strict=False), 1):
        _panel(axes, found, step)
        operation = textwrap.fill(step.operation, int(side * 10))
        axes.set_title(f"{number}. {step.name} {step.values.shape}\n{operation}", fontsize=8)
    for axes in panels[len(found.steps) :]:
        axes.set_visible(False)
    return figure


def _panel(axes: Any, found: "HeadSteps", step: "Step") -> None:
    values = _masked(found, step)
    axes.set_facecolor("0.88")
    if step.name == "weights":
        image = axes.imshow(values, cmap="viridis", vmin=0, vmax=1, interpolation="nearest")
    else:
        high = float(np.abs(values).max()) or 1.0
        aspect = "equal" if step.name in SQUARE else "auto"
        image = axes.imshow(values, cmap="RdBu_r", vmin=-high, vmax=high, aspect=aspect, interpolation="nearest")
    axes.figure.colorbar(image, ax=axes, shrink=0.7).ax.tick_params(labelsize=6)
    if step.name in SQUARE and len(found.tokens) <= _NUMBERED:
        _write(axes, values, image)
    axes.set_xlabel("key" if step.name in SQUARE else "channel", fontsize=7)
    axes.tick_params(labelsize=6)
    axes.xaxis.get_major_locator().set_params(integer=True)
    if len(found.tokens) <= _LABELLED:
        labels = [drawable(f"{i} {token.label}") for i, token in enumerate(found.tokens)]
        axes.set_yticks(range(len(labels)), labels)
        if step.name in SQUARE:
            axes.set_xticks(range(len(labels)), labels, rotation=90)


def _masked(found: "HeadSteps", step: "Step") -> "np.ma.MaskedArray[Any, Any]":
    """The values, without those that the mask hides: of the weights they are zeros that no softmax gave."""
    hidden = np.isnan(found.values("masked scores") if step.name == "weights" else step.values)
    return np.ma.array(step.values, mask=hidden)


def _write(axes: Any, values: "np.ma.MaskedArray[Any, Any]", image: Any) -> None:
    """Each cell's number on its colour."""
    for row, column in zip(*np.nonzero(~np.ma.getmaskarray(values)), strict=True):
        value = values[row, column]
        red, green, blue, _ = image.cmap(image.norm(value))
        ink = "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.55 else "white"
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=6, color=ink)
