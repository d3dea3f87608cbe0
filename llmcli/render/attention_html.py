"""Attention as one HTML file: every map's exact numbers within it, nothing fetched from anywhere."""

import base64
import json
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np

from llmcli.errors import UsageError
from llmcli.inspect.patterns import MEANINGS
from llmcli.render.attention import SHORT, remarks
from llmcli.render.palette import SEQUENTIAL
from llmcli.render.parts import model_name

if TYPE_CHECKING:
    from llmcli.inspect.attention import Attention

LARGEST = 100_000_000
"""Bytes of a page that browsers still open with ease."""


def page_bytes(tokens: int, maps: int) -> int:
    """About the size of a page: the lower triangle of every map, float32 in base64."""
    return maps * tokens * (tokens + 1) // 2 * 4 * 4 // 3


def check_page(tokens: int, maps: int) -> None:
    """Raises `UsageError` where a page would be too large to be of use."""
    size = page_bytes(tokens, maps)
    if size > LARGEST:
        raise UsageError(
            f"a page of {maps} maps of {tokens} tokens would take {size / 1e6:.0f} MB",
            "choose fewer with --layer and --head, or write the numbers with --npz",
        )


def attention_page(found: "Attention", model: str, dtype: str) -> str:
    """The page. Weights in it are float32, as in --json."""
    template = (files("llmcli.render") / "attention.html").read_text("utf-8")
    text = json.dumps(_content(found, model, dtype), allow_nan=False, separators=(",", ":"))
    # Inside a script element only these could end it early.
    return template.replace("__DATA__", text.replace("<", "\\u003c").replace("\u2028", "\\u2028"))


def _content(found: "Attention", model: str, dtype: str) -> dict[str, Any]:
    length = len(found.fed)
    triangle = np.tril_indices(length)
    weights = b"".join(each.weights[triangle].astype("<f4").tobytes() for each in found.maps)
    return {
        "model": model_name({"model": model}),
        "dtype": dtype,
        "labels": [token.label for token in found.fed],
        "heads": [
            {
                "layer": head.layer,
                "head": head.head,
                "entropy": head.entropy,
                "pattern": head.pattern,
                "strength": head.strength,
            }
            for head in found.heads
        ],
        "maps": [
            {
                "layer": each.layer,
                "head": each.head,
                "name": each.name,
                "reach": None if each.visible[-1, 0] else int(each.visible[-1].sum()),
                "sink": None if each.sink is None else [float(str(value)) for value in each.sink],
            }
            for each in found.maps
        ],
        "weights": base64.b64encode(weights).decode("ascii"),
        "palette": SEQUENTIAL,
        "short": SHORT,
        "meanings": MEANINGS,
        "remark": "; ".join(remarks(found, found.maps[0])),
    }
