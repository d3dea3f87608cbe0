"""The KV cache at work: bytes and milliseconds, step by step."""

from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.text import Text

from llmcli.render.export import Table as CsvTable
from llmcli.render.export import View, drawable
from llmcli.render.model_tree import size
from llmcli.render.parts import bar, model_name, page, short, stacked, tail, title
from llmcli.render.screen import Screen
from llmcli.render.table import table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "inspect-cache"
IN_FULL = 40
FIELDS = ("length", "predicted", "allocated", "cached_ms", "uncached_ms", "difference")


def cache_view(data: dict[str, Any]) -> View:
    """From the document of a `CacheReport`."""

    def terminal(screen: Screen) -> RenderableType:
        return _cache(data, screen)

    return View(
        NAME,
        data,
        terminal,
        lambda: _csv(data),
        lambda: _figure(data),
        lambda: page(f"{NAME}: {model_name(data)}", terminal),
    )


def _cache(data: dict[str, Any], screen: Screen) -> RenderableType:
    head = title(data, "The KV cache as the text grows")
    head.append(f"\nafter {tail(data['prompt'], screen.width - 12)}", "not bold")
    return stacked(head, _steps(data, screen), _note(data), Text("\n".join(_bytes(data))), _checks(data))


def _shown(steps: list[Any]) -> list[int]:
    """All steps, or about 40 of them evenly, the first and the last among them."""
    if len(steps) <= IN_FULL:
        return list(range(len(steps)))
    last = len(steps) - 1
    return [round(i * last / (IN_FULL - 1)) for i in range(IN_FULL)]


def _note(data: dict[str, Any]) -> Text | None:
    count = len(data["steps"])
    return Text(f"note: {IN_FULL} of {count} steps; all of them: --csv or --json") if count > IN_FULL else None


def _steps(data: dict[str, Any], screen: Screen) -> RenderableType:
    steps = data["steps"]
    slowest = max((max(each["cached_ms"], each["uncached_ms"]) for each in steps), default=0.0) or 1.0
    width = min(20, (screen.width - 68) // 2)  # of a bar; a narrow screen has no room for them
    rows: list[list[str | Text]] = []
    for i in _shown(steps):
        each = steps[i]
        same = each["token"]["id"] == each["uncached_id"]
        rows.append(
            [
                str(each["length"]),
                short(each["token"]["label"]) + ("" if same else f" ≠ id {each['uncached_id']}"),
                f"{each['predicted']:,}",
                f"{each['allocated']:,}",
                f"{each['cached_ms']:.2f}",
                Text(bar(each["cached_ms"] / slowest, width), "cyan"),
                f"{each['uncached_ms']:.2f}",
                Text(bar(each["uncached_ms"] / slowest, width), "magenta"),
            ]
        )
    if width < 4:
        plain = [row[:5] + row[6:7] for row in rows]
        return table(("length", "next", "predicted", "allocated", "ms with", "without"), plain, left=(1,))
    headers = ("length", "next", "predicted", "allocated", "ms with", "", "without", "")
    return table(headers, rows, left=(1, 5, 7))


def _bytes(data: dict[str, Any]) -> list[str]:
    lines = [
        f"{data['bytes_per_token']:,} bytes a token in {data['kv_dtype']}; "
        f"the full context of {data['context_length']:,} tokens takes {size(data['full_context'])}",
        "predicted: bytes of the keys and values; allocated: grown ahead of need",
    ]
    cached, uncached = data["cached_ms"], data["uncached_ms"]
    if cached is not None:
        lines.append(f"after the first token: {cached:.2f} ms a token with the cache, {uncached:.2f} ms without")
    lines.append(f"the prompt: {data['prefill_ms']:.2f} ms in one pass, {data['one_by_one_ms']:.2f} ms token by token")
    return lines


def _checks(data: dict[str, Any]) -> Text:
    text = Text()
    excused = sum(each["excused"] for each in data["steps"])
    ties = f", {excused} times but for a tie within 1e-4" if excused else ""
    _check(text, data["same_ids"], f"the same ids with and without the cache{ties}; ", data["largest_difference"])
    text.append("\n")
    _check(text, data["prefill_equal"], "the prompt in one pass and token by token; ", data["prefill_difference"])
    return text


def _check(text: Text, passed: bool, what: str, difference: float) -> None:
    text.append("✓ equal: " if passed else "✗ NOT equal: ", "green" if passed else "bold red")
    text.append(f"{what}logits within {difference:.1e}")


def _csv(data: dict[str, Any]) -> CsvTable:
    header = (*FIELDS, "id", "uncached_id")
    rows = ([*(s[field] for field in FIELDS), s["token"]["id"], s["uncached_id"]] for s in data["steps"])
    return header, rows


def _figure(data: dict[str, Any]) -> "Figure":
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    figure = Figure(figsize=(8, 6), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True)
    lengths = [each["length"] for each in data["steps"]]
    for axes, field, name, color in (
        (top, "predicted", "predicted", "#31688e"),
        (top, "allocated", "allocated", "#b5de2b"),
        (bottom, "cached_ms", "with the cache", "#31688e"),
        (bottom, "uncached_ms", "without", "#440154"),
    ):
        axes.plot(lengths, [each[field] for each in data["steps"]], label=name, color=color, marker=".")
    top.yaxis.set_major_formatter(EngFormatter("B"))
    top.set(title=drawable(f"{model_name(data)}: KV cache"), ylim=(0, None))
    bottom.set(ylabel="milliseconds a token", xlabel="tokens of text", ylim=(0, None))
    for axes in (top, bottom):
        axes.legend()
        axes.spines[["top", "right"]].set_visible(False)
    return figure
