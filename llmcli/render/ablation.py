"""What ablation changed: the distribution that follows, and every token's surprisal."""

from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.text import Text

from llmcli.render.export import Table as CsvTable
from llmcli.render.export import View, drawable
from llmcli.render.logits import IN_FULL, make_view
from llmcli.render.parts import bar, clamp, model_name, percent, short, stacked, tail, title
from llmcli.render.screen import Screen
from llmcli.render.table import table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def ablation_view(data: dict[str, Any], limit: int) -> View:
    """From the document of an `Ablation`. Of a long text the `limit` tokens that changed most are listed."""
    return make_view(data, lambda screen: _ablation(data, screen, limit), lambda: _csv(data), lambda: _figure(data))


def _ablation(data: dict[str, Any], screen: Screen, limit: int) -> RenderableType:
    head = title(data, "Without " + (", ".join(data["parts"]) if data["parts"] else "nothing: no part is ablated"))
    tokens = [each["token"] for each in data["tokens"]]
    head.append(f"\nafter {tail(tokens, screen.width - 12)}", "not bold")
    rows: list[list[str | Text]] = []
    for each in data["next"]:
        before, after = each["before"], each["after"]
        ranks = f"{before['rank']} → {after['rank']}"
        shares: list[str | Text] = [percent(before["prob"]), percent(after["prob"]), _signed(100 * each["change"], 2)]
        rows.append([short(before["token"]["label"]), str(before["token"]["id"]), *shares, ranks])
    following = table(("token", "id", "before", "after", "points", "rank"), rows, left=(0,))
    return stacked(head, following, _per_token(data, screen, limit), Text("\n".join(_summary(data))))


def _signed(value: float, digits: int) -> Text:
    text = f"{value:+.{digits}f}"
    if float(text) == 0:
        return Text(f"{0:.{digits}f}", "dim")
    return Text(text, "green" if value > 0 else "red")


def _per_token(data: dict[str, Any], screen: Screen, limit: int) -> RenderableType:
    tokens = data["tokens"]
    places = list(range(len(tokens)))
    note = None
    if len(places) > IN_FULL:
        places = sorted(places, key=lambda i: -tokens[i]["kl"])[:limit]
        note = Text(f"note: the {len(places)} most changed of {len(tokens)} tokens; all of them: --csv or --json")
    largest = max((tokens[i]["kl"] for i in places), default=0.0) or 1.0
    width = clamp(screen.width - 66, 8, 40)
    rows: list[list[str | Text]] = []
    for i in places:
        each = tokens[i]
        before, after = each["surprisal_before"], each["surprisal_after"]
        known = before is not None
        surprisals = [f"{before:.3f}", f"{after:.3f}", _signed(each["change"], 3)] if known else ["-", "-", "-"]
        shown = Text(bar(each["kl"] / largest, width), "magenta")
        rows.append([str(i), short(each["token"]["label"]), *surprisals, f"{each['kl']:.4f}", shown])
    headers = ("#", "token", "surprisal", "after", "change", "KL of next", "")
    drawn = table(headers, rows, left=(1, 6))
    return stacked(drawn, note) if note else drawn


def _summary(data: dict[str, Any]) -> list[str]:
    return [
        f"what follows the text: KL(before || after) {data['kl']:.4f} bits",
        f"its entropy: {data['entropy_before']:.3f} → {data['entropy_after']:.3f} bits",
        f"the whole text: {data['bits_before']:.3f} → {data['bits_after']:.3f} bits",
        f"largest change of any logit: {data['largest_change']:.4g}",
    ]


def _csv(data: dict[str, Any]) -> CsvTable:
    fields = ("surprisal_before", "surprisal_after", "kl")
    rows = ([i, e["token"]["id"], e["token"]["piece"], *(e[f] for f in fields)] for i, e in enumerate(data["tokens"]))
    return ("token", "id", "piece", *fields), rows


def _figure(data: dict[str, Any]) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout="constrained")
    top, bottom = figure.subplots(2, 1)
    places = range(len(data["next"]))
    top.bar(
        [i - 0.2 for i in places], [e["before"]["prob"] for e in data["next"]], 0.4, label="before", color="#31688e"
    )
    top.bar([i + 0.2 for i in places], [e["after"]["prob"] for e in data["next"]], 0.4, label="after", color="#fde725")
    top.set_xticks(places, [drawable(e["before"]["token"]["label"]) for e in data["next"]], rotation=60)
    top.set(ylabel="probability", title=drawable(f"{model_name(data)} without {', '.join(data['parts']) or 'nothing'}"))
    top.legend()
    tokens = data["tokens"]
    bottom.bar(range(len(tokens)), [each["kl"] for each in tokens], color="#440154")
    if len(tokens) <= 60:
        bottom.set_xticks(range(len(tokens)), [drawable(e["token"]["label"]) for e in tokens], rotation=90)
    bottom.set(ylabel="KL of what follows, bits")
    for axes in (top, bottom):
        axes.spines[["top", "right"]].set_visible(False)
    return figure
