"""Attention in the terminal: the overview of all heads, single maps, grids of small ones, bars, rankings."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import RenderableType
from rich.text import Text

from llmcli.inspect.patterns import MEANINGS, Pattern
from llmcli.ranges import parse_ranges
from llmcli.render.grid import Tile, draw_grid
from llmcli.render.heatmap import Heatmap, draw_heatmap
from llmcli.render.labels import fit
from llmcli.render.palette import SHADES, Scale, foreground, ground
from llmcli.render.parts import bar, stacked
from llmcli.render.screen import Screen
from llmcli.render.window import Window

if TYPE_CHECKING:
    from llmcli.inspect.attention import Attention, AttentionMap, HeadSummary

SHORT: dict[Pattern, str] = {
    "previous token": "prev",
    "first-token sink": "sink",
    "induction": "indu",
    "same token": "same",
    "uniform": "unif",
    "diagonal": "diag",
}
MASKED = "masked, a query sees no later token"
_MOST_BARS = 40


def token_labels(found: "Attention") -> list[str]:
    """Labels of the tokens that have a row."""
    return [token.label for token in found.fed]


# --- maps ---


def weights_map(found: "Attention", drawn: "AttentionMap") -> Heatmap:
    """Weights from 0 to 1 with the sum of each row; where the sink was taken out, its weights beside them."""
    labels = token_labels(found)
    masked, means = ~drawn.visible, MASKED
    sums = [f"{each:.3f}" for each in drawn.row_sums]
    notes = ("sum", sums)
    if drawn.sink is not None:
        masked = masked.copy()
        masked[:, 0] = drawn.weights[:, 0] == 0
        means = f"{MASKED}, or the first token's weight, at the right"
        notes = ("first sum", [f"{sink:.3f} {total}" for sink, total in zip(drawn.sink, sums, strict=True)])
    return Heatmap(
        drawn.weights, labels, labels, masked=masked, masked_means=means, notes=notes, causal=True, summed=True
    )


def scores_map(found: "Attention", drawn: "AttentionMap") -> Heatmap:
    """Scaled scores of all pairs; those that the mask hides are struck out."""
    assert drawn.scores is not None
    labels = token_labels(found)
    scale = scores_scale(found.maps)
    return Heatmap(drawn.scores, labels, labels, scale=scale, struck=~drawn.visible, struck_means=MASKED)


def scores_scale(maps: "Sequence[AttentionMap]") -> Scale:
    """One scale for the scores of all maps, so that they can be compared."""
    high = max((float(np.abs(each.scores).max()) for each in maps if each.scores is not None), default=0.0)
    return Scale(high or 1.0, "diverging", root=False)


def legends(found: "Attention", *, overview: bool) -> dict[str, Any]:
    """The numbers of the legends that are drawn below the maps, and with `overview` below all heads."""
    shown = {"weights": Scale().legend()}
    if any(each.scores is not None for each in found.maps):
        shown["scores"] = scores_scale(found.maps).legend()
    if overview:
        shown["strength"] = {"shades": list(_SHARES), "colors": list(_SHARES)}
    return shown


def headline(found: "Attention", drawn: "AttentionMap") -> str:
    """The map's name, and of a single head its pattern and entropy."""
    summary = summary_of(found, drawn)
    return drawn.name if summary is None else f"{drawn.name}  {described(summary)}"


def summary_of(found: "Attention", drawn: "AttentionMap") -> "HeadSummary | None":
    return next((each for each in found.heads if (each.layer, each.head) == (drawn.layer, drawn.head)), None)


def described(summary: "HeadSummary") -> str:
    pattern = "" if summary.pattern is None else f"{summary.pattern} {summary.strength:.2f}, "
    return f"{pattern}entropy {summary.entropy:.2f} bits"


def draw_map(found: "Attention", drawn: "AttentionMap", screen: Screen, window: Window, *, numbers: bool) -> Text:
    """One map of weights under its name; before it the scores, where they were recorded."""
    text = Text(headline(found, drawn) + "\n", "bold")
    if drawn.scores is not None:
        text.append("\nscores: Q K^T scaled, before mask and softmax\n", "not bold")
        text.append_text(_plain(draw_heatmap(scores_map(found, drawn), screen, window, numbers=numbers)))
        text.append("\n\nweights: after mask and softmax\n", "not bold")
    text.append_text(_plain(draw_heatmap(weights_map(found, drawn), screen, window, numbers=numbers)))
    for note in remarks(found, drawn):
        text.append(f"\nnote: {note}", "not bold")
    return text


def _plain(text: Text) -> Text:
    text.style = "not bold"
    return text


def remarks(found: "Attention", drawn: "AttentionMap") -> list[str]:
    """What must be said beside a map: a sink taken out, a generation's rows."""
    said = []
    if drawn.sink is not None:
        said.append(
            "the first token's weights are left out and the rest is divided by its sum; a query that looks at "
            "the first token alone keeps its row"
        )
    if found.generated:
        last = len(found.tokens) - 1
        said.append(
            f"rows {found.prompt_length} to {last - 1} are decode steps with the KV cache; token {last}, "
            f"{found.tokens[-1].label}, was drawn last and never fed: it has no row"
        )
    return said


def draw_maps(found: "Attention", screen: Screen, window: Window, *, numbers: bool) -> RenderableType:
    """The chosen maps: one in full, several as a grid of small ones, or one below the other with their numbers."""
    if len(found.maps) == 1:
        return draw_map(found, found.maps[0], screen, window, numbers=numbers)
    if numbers or found.maps[0].scores is not None:
        return stacked(*(draw_map(found, each, screen, window, numbers=numbers) for each in found.maps))
    tiles = [Tile(tile_name(each), _tile_note(found, each), weights_map(found, each)) for each in found.maps]
    text = draw_grid(tiles, screen, window)
    for note in remarks(found, found.maps[0]):
        text.append(f"\nnote: {note}")
    return text


def tile_name(drawn: "AttentionMap") -> str:
    """The map's name in at most 13 cells."""
    return drawn.name.replace(" of heads", "").replace(" of layers", "")


def _tile_note(found: "Attention", drawn: "AttentionMap") -> str:
    summary = summary_of(found, drawn)
    if summary is None or summary.pattern is None:
        return ""
    return f"{SHORT[summary.pattern]} {summary.strength:.2f}"


# --- all heads ---


def draw_overview(found: "Attention", screen: Screen) -> Text:
    """Layers x heads: the pattern that each head matches best, shaded by how well, above its entropy."""
    layers = found.heads[-1].layer + 1
    count = found.heads[-1].head + 1
    grouped = is_grouped(found.heads)
    last = found.heads[-1]
    cell = max(6, 1 + len(f"H{last.head}→kv{last.kv_head}" if grouped else f"H{last.head}"))
    across = max(1, (screen.width - 5) // cell)
    across = -(-count // -(-count // across))
    text = Text()
    text.append(f"{layers} layers x {count} heads on {len(found.fed)} tokens", "bold")
    text.append(": best pattern, entropy in bits\n")
    for first in range(0, count, across):
        heads = range(first, min(count, first + across))
        names = (f"H{h}→kv{found.heads[h].kv_head}" if grouped else f"H{h}" for h in heads)
        text.append(" " * 5 + "".join(fit(name, cell) for name in names).rstrip() + "\n", "dim")
        for layer in range(layers):
            row = [found.heads[layer * count + head] for head in heads]
            text.append(f"L{layer:<4}", "dim")
            for each in row:
                text.append(*_pattern_cell(each, screen))
                text.append(" " * (cell - 5))
            text.append("\n     " + "".join(fit(f" {each.entropy:.2f}", cell) for each in row).rstrip() + "\n")
    used = {each.pattern for each in found.heads}
    for pattern, meaning in MEANINGS.items():
        if pattern in used:
            text.append(f"{SHORT[pattern]}: {meaning}\n", "dim")
    if used != {None}:
        text.append_text(_strength_legend(screen))
    text.rstrip()
    return text


_STRENGTH = Scale(1.0, root=False)
_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


def _pattern_cell(summary: "HeadSummary", screen: Screen) -> tuple[str, str]:
    if summary.pattern is None:
        return " -   ", ""
    name = SHORT[summary.pattern]
    if screen.color:
        color = _STRENGTH.rgb(summary.strength)
        return f" {name}", ground(color, screen.depth)
    return _STRENGTH.shade(summary.strength) + name, ""


def _strength_legend(screen: Screen) -> Text:
    """What the ground or the shade of a head's pattern stands for."""
    text = Text("share of the weights that the pattern explains: ")
    for share, shade in zip(_SHARES, SHADES, strict=True):
        shown = f" {share:g} " if screen.color else f"{shade} {share:g}  "
        text.append(shown, ground(_STRENGTH.rgb(share), screen.depth))
    return text


def draw_summary(found: "Attention", screen: Screen, window: Window, *, numbers: bool) -> RenderableType:
    """The overview, then the chosen maps."""
    return stacked(draw_overview(found, screen), draw_maps(found, screen, window, numbers=numbers))


def head_name(head: "HeadSummary", grouped: bool) -> str:
    """`L3.H5`, or `L3.H5→kv1` where heads share key/value heads."""
    return f"L{head.layer}.H{head.head}{f'→kv{head.kv_head}' if grouped else ''}"


def is_grouped(heads: "Sequence[HeadSummary]") -> bool:
    """Whether several heads share a key/value head."""
    return any(each.kv_head != each.head for each in heads)


def ranked_by(by: str) -> str:
    """What heads are ranked by, and its unit."""
    return "entropy in bits" if by == "entropy" else f"{by}: share of the weights on {MEANINGS[by]}"  # type: ignore[index]


def draw_ranking(found: "Attention", ranking: list[tuple["HeadSummary", float]], by: str, screen: Screen) -> Text:
    """Heads one a line, most first, with a bar."""
    grouped = is_grouped(found.heads)
    text = Text(f"heads by {ranked_by(by)}\n", "bold")
    most = max([value for _, value in ranking] + [1.0])
    for rank, (head, value) in enumerate(ranking, 1):
        text.append(f"{rank:>3}  {fit(head_name(head, grouped), 13)} {value:6.3f} ", "not bold")
        text.append(bar(value / most, screen.width - 26) + "\n", _bar_style(value / most, screen))
    text.rstrip()
    return text


# --- one token ---


def token_keys(drawn: "AttentionMap", query: int, window: Window) -> list[int]:
    """The keys that are drawn of those that a query sees: the ones asked for, or all; of a long text the heaviest."""
    seen = [int(key) for key in np.flatnonzero(drawn.visible[query])]
    if window.columns is not None:
        return [key for key in parse_ranges(window.columns, drawn.weights.shape[1], "key") if key in set(seen)]
    return sorted(sorted(seen, key=lambda key: -drawn.weights[query, key])[:_MOST_BARS])


def draw_token(found: "Attention", drawn: "AttentionMap", query: int, screen: Screen, window: Window) -> Text:
    """Where one token looks: a bar for each key of `token_keys`, in the text's order."""
    labels = token_labels(found)
    row = drawn.weights[query]
    keys = token_keys(drawn, query, window)
    seen = int(drawn.visible[query].sum())
    text = Text(f"{headline(found, drawn)}\n", "bold")
    text.append(f"where query {query} {labels[query]} looks\n", "not bold")
    width = min(20, max((Text(labels[key]).cell_len for key in keys), default=0))
    digits = len(str(len(labels)))
    for key in keys:
        text.append(f"{key:>{digits}} {fit(labels[key], width)} {row[key]:.3f} ", "not bold")
        text.append(bar(float(row[key]), screen.width - digits - width - 9) + "\n", _bar_style(float(row[key]), screen))
    if len(keys) < seen:
        how = "" if window.columns is not None else " heaviest"
        text.append(f"note: the {len(keys)}{how} of {seen} keys; --cols all draws every one\n", "not bold")
    text.rstrip()
    return text


def _bar_style(value: float, screen: Screen) -> str:
    return f"not bold {foreground(Scale().rgb(value), screen.depth)}"
