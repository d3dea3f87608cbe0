"""The next-token distribution as bars, and a whole text coloured by how well each token was predicted."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.text import Text

from llmcli.render.export import Table as CsvTable
from llmcli.render.export import View, drawable
from llmcli.render.parts import bar, bar_figure, clamp, model_name, page, percent, short, stacked, tail, title
from llmcli.render.screen import Screen
from llmcli.render.stream import BANDS, band
from llmcli.render.table import table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "inspect-logits"
IN_FULL = 40
"""Tokens of a text that are listed in full; of a longer one only the most surprising are."""


def make_view(
    data: dict[str, Any],
    terminal: Callable[[Screen], RenderableType],
    rows: Callable[[], CsvTable],
    figure: "Callable[[], Figure]",
) -> View:
    return View(NAME, data, terminal, rows, figure, lambda: page(f"{NAME}: {model_name(data)}", terminal))


def distribution_view(data: dict[str, Any]) -> View:
    """From the document of a `Distribution`."""
    return make_view(
        data, lambda screen: _distribution(data, screen), lambda: _ranked_csv(data), lambda: _distribution_figure(data)
    )


def _distribution(data: dict[str, Any], screen: Screen) -> RenderableType:
    position = data["position"]
    before = tail(data["tokens"][: position + 1], screen.width - 12)
    head = title(data, f"What follows token {position}")
    head.append(f"\nafter {before}", "not bold")
    width = clamp(screen.width - 50, 10, 60)
    rows = [ranked_row(each, width) for each in data["top"]]
    parts: list[RenderableType | None] = [head, table(RANKED, rows, left=(1, 5))]
    vocabulary = len(data["logits"])
    lines = [f"entropy {data['entropy']:.3f} bits, of at most {data['most_entropy']:.3f}"]
    if vocabulary > len(data["top"]):
        lines.append(f"all others of the {vocabulary:,} tokens together: {percent(data['other_mass'])}")
    if data["actual"] is not None:
        actual = data["actual"]
        lines.append(
            f"the text goes on with {actual['token']['label']}: rank {actual['rank']}, {percent(actual['prob'])}"
        )
    return stacked(*parts, Text("\n".join(lines)))


RANKED = ("rank", "token", "id", "logit", "probability", "")


def ranked_row(each: dict[str, Any], width: int) -> list[str | Text]:
    token = each["token"]
    shown = Text(bar(each["prob"], width), "cyan")
    return [
        str(each["rank"]),
        short(token["label"]),
        str(token["id"]),
        f"{each['logit']:.3f}",
        percent(each["prob"]),
        shown,
    ]


def _ranked_csv(data: dict[str, Any]) -> CsvTable:
    rows = ([e["rank"], e["token"]["id"], e["token"]["piece"], e["logit"], e["prob"]] for e in data["top"])
    return ("rank", "id", "piece", "logit", "prob"), rows


def _distribution_figure(data: dict[str, Any]) -> "Figure":
    names = [each["token"]["label"] for each in data["top"]]
    heading = f"{model_name(data)}: what follows {tail(data['tokens'][: data['position'] + 1], 50)}"
    return bar_figure(names, [each["prob"] for each in data["top"]], heading=heading, axis="probability")


def score_view(data: dict[str, Any], limit: int) -> View:
    """From the document of a `TextScore`. Of a long text `limit` tokens are listed."""
    edges = [low for low, _, _ in BANDS[1:]]
    data = data | {"legends": {"probability": {"shades": edges, "colors": edges}}}
    return make_view(
        data, lambda screen: _score(data, screen, limit), lambda: _score_csv(data), lambda: _score_figure(data)
    )


def _score(data: dict[str, Any], screen: Screen, limit: int) -> RenderableType:
    tokens = data["tokens"]
    places = range(len(tokens))
    note = None
    if len(tokens) > IN_FULL:
        order = sorted(places, key=lambda i: -(tokens[i]["surprisal"] or 0.0))
        places_shown = order[:limit]
        note = Text(
            f"note: the {len(places_shown)} most surprising of {len(tokens)} tokens; all of them: --csv or --json"
        )
    else:
        places_shown = list(places)
    largest = max((tokens[i]["surprisal"] or 0.0 for i in places_shown), default=0.0) or 1.0
    width = clamp(screen.width - 62, 8, 50)
    rows = [_score_row(i, tokens[i], largest, width) for i in places_shown]
    headers = ("#", "token", "probability", "rank", "entropy", "surprisal", "")
    return stacked(
        title(data, "How well each token was predicted"),
        _colored(tokens, screen),
        table(headers, rows, left=(1, 6)),
        note,
        Text("\n".join(_totals(data))),
    )


def _score_row(place: int, each: dict[str, Any], largest: float, width: int) -> list[str | Text]:
    label = short(each["token"]["label"])
    if each["surprisal"] is None:
        return [str(place), label, "-", "-", "-", "-", ""]
    return [
        str(place),
        label,
        percent(each["prob"]),
        str(each["rank"]),
        f"{each['entropy']:.2f}",
        f"{each['surprisal']:.3f}",
        Text(bar(each["surprisal"] / largest, width), "magenta"),
    ]


def _totals(data: dict[str, Any]) -> list[str]:
    if not data["predicted"]:
        return ["nothing predicts a first token, and there is no other"]
    lines = [
        "nothing predicts the first token",
        f"total {data['bits']:.3f} bits for {data['predicted']} tokens: {data['bits_per_token']:.3f} a token",
    ]
    if data["perplexity"] is not None:
        lines.append(f"perplexity {data['perplexity']:.4g}")
    if data["bits_per_byte"] is not None:
        lines.append(f"bits per byte {data['bits_per_byte']:.4f}, over {data['bytes']} bytes")
    return lines


def _colored(tokens: list[dict[str, Any]], screen: Screen) -> Text:
    """The text's labels in the colours of their probabilities, or each followed by the bar of its band."""
    text = Text()
    for each in tokens:
        label, prob = each["token"]["label"], each["prob"]
        if prob is None:
            text.append(label, "dim")
        elif screen.color:
            text.append(label, _STYLES[BANDS.index(band(prob))])
        else:
            text.append(label + band(prob)[1])
    text.append("\nprobability: ")
    for i, (low, mark, _) in enumerate(BANDS):
        reach = f"under {BANDS[1][0]:.0%}" if i == 0 else f"from {low:.0%}"
        text.append(f" {reach} ", _STYLES[i]) if screen.color else text.append(f"{mark} {reach}  ")
    return text


# The bands' own colours, as rich spells them.
_STYLES = (
    "bright_white on color(53)",
    "bright_white on color(61)",
    "bright_white on color(30)",
    "black on color(77)",
    "black on color(227)",
)


def _score_csv(data: dict[str, Any]) -> CsvTable:
    fields = ("prob", "surprisal", "rank", "entropy")
    rows = ([i, e["token"]["id"], e["token"]["piece"], *(e[f] for f in fields)] for i, e in enumerate(data["tokens"]))
    return ("token", "id", "piece", *fields), rows


def _score_figure(data: dict[str, Any]) -> "Figure":
    from matplotlib.figure import Figure

    tokens = data["tokens"]
    figure = Figure(figsize=(min(40, 2 + 0.22 * len(tokens)) if len(tokens) > 20 else 7, 3.6), layout="constrained")
    axes = figure.add_subplot()
    axes.bar(range(len(tokens)), [each["surprisal"] or 0.0 for each in tokens], color="#440154")
    if len(tokens) <= 160:
        axes.set_xticks(range(len(tokens)), [drawable(each["token"]["label"]) for each in tokens], rotation=90)
    axes.set(ylabel="surprisal, bits", title=drawable(f"{model_name(data)}: {data['bits']:.1f} bits in all"))
    axes.margins(x=0.01)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
