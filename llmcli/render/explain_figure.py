"""The guided walk as a picture: a panel for each stage that is one, in the order of the walk."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from llmcli.render.export import drawable
from llmcli.render.parts import model_name, tail

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BLUE, _PURPLE, _GREEN = "#31688e", "#440154", "#35b779"
_LABELLED = 40
"""Tokens up to which every row and column of the map carries its label."""


def explain_figure(data: dict[str, Any]) -> "Callable[[], Figure] | None":
    """What makes the picture, from the document of a `Walk`; None where none of its stages has a panel."""
    stages = [stage for stage in data["stages"] if stage["kind"] in _PANELS]
    return (lambda: _figure(data, stages)) if stages else None


def _figure(data: dict[str, Any], stages: list[dict[str, Any]]) -> "Figure":
    from matplotlib.figure import Figure

    across = min(2, len(stages))
    down = -(-len(stages) // across)
    figure = Figure(figsize=(6.2 * across, 4.6 * down), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False).ravel()
    figure.suptitle(drawable(f"{model_name(data)}: what follows {tail(data['tokens'], 50)}"))
    for axes, stage in zip(panels, stages, strict=False):
        axes.set_title(drawable(f"{stage['number'] + 1}/{data['count']}  {_PANELS[stage['kind']](axes, stage, data)}"))
    for axes in panels[len(stages) :]:
        axes.set_visible(False)
    return figure


def _map(axes: Any, stage: dict[str, Any], data: dict[str, Any]) -> str:
    from matplotlib.colors import PowerNorm

    weights = np.asarray(stage["weights"])
    query, key = np.indices(weights.shape)
    hidden = (key > query) | (key <= query - (stage["window"] or len(weights)))
    axes.set_facecolor("0.88")
    image = axes.imshow(np.ma.array(weights, mask=hidden), cmap="viridis", norm=PowerNorm(0.5, 0, 1))
    if len(weights) <= _LABELLED:
        labels = [drawable(f"{i} {token['label']}") for i, token in enumerate(data["tokens"])]
        axes.set_xticks(range(len(labels)), labels, rotation=90, fontsize=7)
        axes.set_yticks(range(len(labels)), labels, fontsize=7)
    axes.set(xlabel="key", ylabel="query")
    axes.figure.colorbar(image, ax=axes, shrink=0.8).set_label("attention weight; grey: not seen")
    return f"Self-attention, block {stage['layer']}, mean of heads"


def _lengths(axes: Any, stage: dict[str, Any], data: dict[str, Any]) -> str:
    layers = [row["layer"] for row in stage["rows"]]
    for field, name, color in (
        ("length", "the vector that leaves", _BLUE),
        ("attention_adds", "what the attention adds", _PURPLE),
        ("ffn_adds", "what the feed-forward part adds", _GREEN),
    ):
        axes.plot(layers, [row[field] for row in stage["rows"]], label=name, color=color, marker=".")
    axes.set_xticks(layers if len(layers) <= 24 else axes.get_xticks())
    axes.set(xlabel=f"block; token {len(data['tokens']) - 1}", ylabel="length", ylim=(0, None))
    axes.legend()
    axes.spines[["top", "right"]].set_visible(False)
    return "All blocks"


def _softmax(axes: Any, stage: dict[str, Any], data: dict[str, Any]) -> str:  # noqa: ARG001
    _bars(axes, [each["token"]["label"] for each in stage["top"]], {"": [each["prob"] for each in stage["top"]]})
    return "Softmax: the most probable"


def _sampling(axes: Any, stage: dict[str, Any], data: dict[str, Any]) -> str:  # noqa: ARG001
    fields = {"the model's own": "model_prob", "drawn from": "prob"}
    values = {name: [each[field] for each in stage["candidates"]] for name, field in fields.items()}
    _bars(axes, [each["token"]["label"] for each in stage["candidates"]], values)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2, frameon=False)  # below: it hides no bar
    return f"Sampling: {stage['drawn']['token']['label']} is drawn"


def _bars(axes: Any, labels: list[str], groups: dict[str, list[float]]) -> None:
    height = 0.8 / len(groups)
    for i, (name, values) in enumerate(groups.items()):
        places = np.arange(len(values)) + i * height
        color = _BLUE if i == len(groups) - 1 else "#b5de2b"
        drawn = axes.barh(places, values, height, color=color, label=name or None)
        axes.bar_label(drawn, [f"{value:.3g}" for value in values], padding=3, fontsize=8)
    axes.set_yticks(np.arange(len(labels)) + 0.4 - height / 2, [drawable(label) for label in labels])
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set(xlabel="probability")
    axes.spines[["top", "right"]].set_visible(False)


_PANELS: dict[str, Callable[[Any, dict[str, Any], dict[str, Any]], str]] = {
    "attention": _map,
    "blocks": _lengths,
    "softmax": _softmax,
    "sampling": _sampling,
}
