"""The tree of a model's modules with their shapes, and what they cost."""

from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.text import Text

from llmcli.ranges import ranges_text
from llmcli.render.export import Table as CsvTable
from llmcli.render.export import View
from llmcli.render.parts import bar, bar_figure, clamp, model_name, page, percent, stacked
from llmcli.render.safe import visible
from llmcli.render.screen import Screen
from llmcli.render.table import table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "inspect-model"


def model_view(data: dict[str, Any]) -> View:
    """From the document of a `ModelShape`."""

    def terminal(screen: Screen) -> RenderableType:
        return _model(data, screen)

    return View(
        NAME,
        data,
        terminal,
        lambda: _csv(data),
        lambda: _figure(data),
        lambda: page(f"{NAME}: {model_name(data)}", terminal),
    )


def _model(data: dict[str, Any], screen: Screen) -> RenderableType:
    config = data["config"]
    head = Text(model_name(data), "bold")
    files = f"{data['files']} file{'' if data['files'] == 1 else 's'}"
    head.append(
        f"\n{config['family']}, {data['parameters']:,} parameters, {size(data['file_bytes'])} in {files}", "not bold"
    )
    return stacked(
        head,
        Text("\n".join(_facts(config))),
        _tree(data),
        *_remarks(data),
        _groups(data, screen),
        _dtypes(data),
        _cache(data),
        _operations(data),
    )


def size(count: int) -> str:
    """Bytes in decimal units, four digits that count."""
    for unit, scale in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= scale:
            return f"{count / scale:.4g} {unit}"
    return f"{count} B"


def _facts(config: dict[str, Any]) -> list[str]:
    heads = f"{config['num_heads']} heads of {config['head_dim']} channels"
    if config["num_kv_heads"] != config["num_heads"]:
        heads += f" on {config['num_kv_heads']} key/value heads"
    place = "learned positions" if config["learned_positions"] else "RoPE"
    network = f"feed-forward {config['intermediate_size']}{' gated' if config['gated'] else ''}, {config['activation']}"
    facts = [
        f"{config['num_layers']} blocks, hidden size {config['hidden_size']}, vocabulary {config['vocab_size']:,}",
        f"{heads}, {place}, context {config['context_length']:,}",
        f"{network}; {config['norm']}, {config['norm_placement']}-norm",
    ]
    sliding = [i for i, kind in enumerate(config["layer_types"]) if kind == "sliding_attention"]
    if sliding:
        facts.append(f"blocks {ranges_text(sliding)} see only {config['sliding_window']:,} keys (sliding window)")
    still = [i for i, rotates in enumerate(config["rope_layers"]) if not rotates]
    if still:
        facts.append(f"blocks {ranges_text(still)} do not rotate")
    return facts


def _tree(data: dict[str, Any]) -> RenderableType:
    """One branch for each run of blocks that are alike."""
    rows: list[list[str | Text]] = []
    weights = data["weights"]
    for each in (w for w in weights if not w["name"].startswith("blocks.") and w["group"] == "embedding"):
        rows.append(_leaf(each["name"].rpartition(".")[0], "", each))
    for run in data["blocks"]:
        first, last = run["first"], run["last"]
        name = f"block {first}" if first == last else f"blocks {first}-{last}, {last - first + 1} alike"
        inside = [w for w in weights if w["name"].startswith(f"blocks.{first}.")]
        rows.append([Text(name, "bold"), "", f"{run['parameters']:,}" + (" each" if first != last else ""), ""])
        rows += _branch([(w["name"].split(".")[2:], w) for w in inside], "")
    for each in (w for w in weights if not w["name"].startswith("blocks.") and w["group"] != "embedding"):
        rows.append(_leaf(_module(each["name"]), "", each))
    if data["tied"]:
        rows.append([Text("lm_head", "bold"), "", "tied", ""])
    return table(("module", "shape", "parameters", "dtype"), rows, left=(0,))


def _module(name: str) -> str:
    return name.removesuffix(".weight")


def _leaf(name: str, stem: str, weight: dict[str, Any]) -> list[str | Text]:
    shape = " x ".join(map(str, weight["shape"]))
    text = Text(stem, "dim")
    text.append(name, "" if stem else "bold")
    return [text, shape, f"{weight['count']:,}", weight["dtype"]]


def _branch(items: list[tuple[list[str], dict[str, Any]]], stem: str) -> list[list[str | Text]]:
    """Rows of a subtree; a module that holds one weight alone is one line, its biases stand beside it."""
    rows: list[list[str | Text]] = []
    names = list(dict.fromkeys(path[0] for path, _ in items))
    for name in names:
        last = name == names[-1]
        own = [(path[1:], weight) for path, weight in items if path[0] == name]
        here, below = stem + ("└ " if last else "├ "), stem + ("  " if last else "│ ")
        weight = next((each for path, each in own if path == ["weight"]), None)
        if weight is None:
            rows.append([Text.assemble((here, "dim"), name), "", "", ""])
            rows += _branch(own, below)
            continue
        rows.append(_leaf(name, here, weight))
        rows += [_leaf("bias", below, each) for path, each in own if path == ["bias"]]
    return rows


def _remarks(data: dict[str, Any]) -> list[Text]:
    remarks = []
    if data["tied"]:
        text = "lm_head is tied: it reads the embedding table, whose parameters are counted once."
        if data["stored_twice"]:
            text += " The files hold it a second time, which is not counted; whether it is equal is not read here."
        remarks.append(Text(text))
    if data["unknown"]:
        names = ", ".join(visible(name) for name in data["unknown"][:3])
        more = f" and {len(data['unknown']) - 3} more" if len(data["unknown"]) > 3 else ""
        remarks.append(Text(f"not counted, no weights of this family: {names}{more}"))
    return remarks


def _groups(data: dict[str, Any], screen: Screen) -> RenderableType:
    width = clamp(screen.width - 46, 8, 50)
    rows: list[list[str | Text]] = []
    for part, count in data["groups"].items():
        if part == "lm_head" and data["tied"]:
            rows.append([part, "tied", "", ""])
        elif count:
            share = data["shares"][part]
            rows.append([part, f"{count:,}", percent(share), Text(bar(share, width), "cyan")])
    rows.append([Text("all", "bold"), f"{data['parameters']:,}", "", ""])
    return table(("part", "parameters", "share", ""), rows, left=(0, 3))


def _dtypes(data: dict[str, Any]) -> RenderableType:
    shares = data["byte_shares"]
    rows = [[dtype, f"{count:,}", size(count), percent(shares[dtype])] for dtype, count in data["bytes"].items()]
    return table(("dtype", "bytes", "", "share"), rows, left=(0,))


def _cache(data: dict[str, Any]) -> RenderableType:
    context = data["config"]["context_length"]
    rows = [[each["dtype"], f"{each['per_token']:,}", size(each["context"])] for each in data["cache"]]
    return table(("KV cache", "bytes per token", f"at {context:,} tokens"), rows, left=(0,))


def _operations(data: dict[str, Any]) -> RenderableType:
    operations, context = data["operations"], data["config"]["context_length"]
    rows = [
        ["products with the weights", f"{operations['weights']:,}"],
        ["attention, for each key in sight", f"{operations['per_key']:,}"],
        ["first token of a text", f"{operations['first']:,}"],
        [f"last token of a full context of {context:,}", f"{operations['last']:,}"],
    ]
    return table(("floating-point operations per token", ""), rows, left=(0,))


def _csv(data: dict[str, Any]) -> CsvTable:
    header = ("name", "shape", "count", "bytes", "dtype", "group", "stored_name")
    rows = (["x".join(map(str, w["shape"])) if f == "shape" else w[f] for f in header] for w in data["weights"])
    return header, rows


def _figure(data: dict[str, Any]) -> "Figure":
    shown = {part: count for part, count in data["groups"].items() if count}
    heading = f"{model_name(data)}: {data['parameters']:,} parameters"
    return bar_figure(list(shown), list(shown.values()), heading=heading, axis="parameters", form=",")
