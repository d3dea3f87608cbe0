"""One head drawn as a textbook draws it: every tensor with its shape, an arrow and the operation between them."""

from typing import TYPE_CHECKING

import numpy as np
from rich.text import Text

from llmcli.render.heatmap import Heatmap, columns_that_fit, draw_heatmap
from llmcli.render.palette import Scale
from llmcli.render.screen import Screen
from llmcli.render.window import Window

if TYPE_CHECKING:
    from llmcli.inspect.steps import HeadSteps, Step

PRINTED_TOKENS = 10
"""Matrices of texts of at most so many tokens are printed without being asked for."""

SQUARE = ("QK^T", "scores", "masked scores", "weights")


def draw_steps(found: "HeadSteps", screen: Screen, *, numbers: bool) -> Text:
    """The computation from the hidden states down to what the head adds, then what the scaling does.

    Short texts print every matrix, their channels as far as they fit; with `numbers` all of them at any length.
    """
    printed = numbers or len(found.tokens) <= PRINTED_TOKENS
    shared = (
        f", which reads key/value head {found.kv_head} of {found.kv_heads}" if found.kv_heads != found.heads else ""
    )
    text = Text(f"layer {found.layer}, head {found.head} of {found.heads}{shared}\n", "bold")
    text.append(f"{len(found.tokens)} tokens, {found.head_dim} channels a head\n\n", "not bold")
    for i, step in enumerate(found.steps):
        if i:
            text.append("  │\n  ▼ ", "not bold")
        text.append(f"{step.name} ", "")
        text.append(f"({', '.join(map(str, step.values.shape))})", "cyan" if screen.color else "")
        text.append(f"  {step.operation}\n", "not bold")
        if printed:
            drawn = _matrix(found, step, screen, everything=numbers)
            drawn.style = "not bold"
            text.append_text(drawn)
            text.append("\n")
    text.append(_no_rotation(found), "not bold")
    text.append("\n" + _scaling(found), "not bold")
    if not printed:
        text.append("\nnote: --values prints the matrices of a text of more than 10 tokens\n", "not bold")
    elif not numbers:
        text.append("\nnote: … counts channels that do not fit; --values prints them all\n", "not bold")
    text.rstrip()
    return text


def _matrix(found: "HeadSteps", step: "Step", screen: Screen, *, everything: bool) -> Text:
    """One matrix, indented; wide ones cut with an ellipsis, or with `everything` in blocks of columns."""
    square = step.name in SQUARE
    labels = [token.label for token in found.tokens]
    width = step.values.shape[1]
    columns = labels if square else [""] * width
    masked = np.isnan(found.values("masked scores") if step.name == "weights" else step.values)
    high = float(np.nanmax(np.abs(step.values))) or 1.0
    heatmap = Heatmap(
        np.nan_to_num(step.values, nan=0.0),
        labels,
        columns,
        names=("query", "key") if square else ("token", "channel"),
        scale=Scale() if step.name == "weights" else Scale(high, "diverging", root=False),
        masked=masked if masked.any() else None,
    )
    room = columns_that_fit(heatmap, screen, numbers=True)
    shown = width if everything or square else min(width, room)
    text = Text(no_wrap=True)
    for first in range(0, shown, room):
        window = Window("all", f"{first}-{min(width, first + room) - 1}")
        text.append_text(draw_heatmap(heatmap, screen, window, numbers=True, legend=False))
        text.append("\n")
    if shown < width:
        text.append(f"… {width - shown} of {width} channels more\n")
    return text


def _no_rotation(found: "HeadSteps") -> str:
    if any(step.name == "rotated Q" for step in found.steps):
        return ""
    return "\nno rotation here: this layer's Q and K take no positions; a learned table was added to the embedding\n"


def _scaling(found: "HeadSteps") -> str:
    rows = [
        ("with", f"x {found.scale:.4g}", found.scaled.std, found.scaled.entropy),
        ("without", "x 1", found.unscaled.std, found.unscaled.entropy),
    ]
    lines = ["what the scaling does        std of the scores   mean row entropy (bits)"]
    lines += [f"  {name:<8} {factor:<10} {std:>18.4f} {entropy:>25.4f}" for name, factor, std, entropy in rows]
    return "\n".join(lines) + "\n"
