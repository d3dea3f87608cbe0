"""What the text's distributions become when chosen parts of the model add nothing."""

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from llmcli.errors import UsageError
from llmcli.inspect.funnel import entropy_bits
from llmcli.inspect.logits import Ranked, divergence, most_probable, ranked, surprisal_bits
from llmcli.inspect.running import ShownToken, each_logits, fitting_ids, shown_token
from llmcli.model.config import ModelConfig
from llmcli.ranges import parse_ranges

if TYPE_CHECKING:
    from llmcli.pipeline import Pipeline, Prompt

Kind = Literal["head", "attention", "ffn"]
_PART = re.compile(r"L(?P<layers>[-\d]+)\.(?:H(?P<heads>[-\d]+)|(?P<whole>attention|ffn))")
EXAMPLE = "for example --ablate L3.H5,L4.ffn, or L0-2.attention"


@dataclass(frozen=True, order=True)
class Part:
    """A part that adds to the residual: one head, a layer's whole attention, or its feed-forward network."""

    layer: int
    kind: Kind
    head: int | None = None

    def __str__(self) -> str:
        return f"L{self.layer}.H{self.head}" if self.kind == "head" else f"L{self.layer}.{self.kind}"


def parse_parts(text: str, config: ModelConfig) -> list[Part]:
    """`L3.H5,L4.ffn`: layers and heads from 0, negatives from the end, ranges as `L0-2.H1-3`; empty: none.

    Raises `UsageError` naming the part that is none of this model's.
    """
    parts: set[Part] = set()
    for item in filter(None, (each.strip() for each in text.split(","))):
        match = _PART.fullmatch(item)
        if match is None:
            raise UsageError(f"--ablate: {item!r} is no part of a model", EXAMPLE)
        for layer in parse_ranges(match["layers"], config.num_layers, "layer"):
            if match["heads"] is not None:
                heads = parse_ranges(match["heads"], config.num_heads, "head")
                parts |= {Part(layer, "head", head) for head in heads}
            else:
                parts.add(Part(layer, "ffn" if match["whole"] == "ffn" else "attention"))
    return sorted(parts, key=lambda part: (part.layer, part.kind != "head", part.head or 0, part.kind))


class Zeroed:
    """The tap that sets what the chosen parts add to 0: a head's weighted sum before the output projection, or the
    output of the attention or of the feed-forward network just before it joins the residual."""

    def __init__(self, parts: Collection[Part]) -> None:
        self._heads: Mapping[int, list[int]] = {
            layer: [p.head for p in parts if p.layer == layer and p.head is not None]
            for layer in {p.layer for p in parts if p.kind == "head"}
        }
        points = {"attention": "attention_out", "ffn": "ffn_out"}
        self._whole = {(points[p.kind], p.layer) for p in parts if p.kind in points}

    def __call__(self, point: str, layer: int, value: Tensor) -> Tensor:
        if (point, layer) in self._whole:
            return torch.zeros_like(value)
        if point == "heads" and layer in self._heads:
            value = value.clone()
            value[:, self._heads[layer]] = 0
        return value

    def heads(self, layer: int) -> Collection[int] | None:  # noqa: ARG002
        return None


@dataclass(frozen=True)
class TokenChange:
    """How the prediction at one token of the text changed.

    kl         KL(before || after) of the distribution of what follows this token, bits
    surprisal  of this token given those before it, before and after, bits; None for the first token
    """

    token: ShownToken
    kl: float
    surprisal_before: float | None
    surprisal_after: float | None

    @property
    def change(self) -> float | None:
        """Of the surprisal, bits."""
        if self.surprisal_before is None or self.surprisal_after is None:
            return None
        return self.surprisal_after - self.surprisal_before


@dataclass(frozen=True)
class NextChange:
    """A token that may follow the text: its place before and after."""

    before: Ranked
    after: Ranked

    @property
    def change(self) -> float:
        """Of the probability."""
        return self.after.prob - self.before.prob


@dataclass(frozen=True)
class Ablation:
    """The change of the distribution that follows the text, and of every token's surprisal."""

    parts: list[str]
    tokens: list[TokenChange]
    next: list[NextChange]
    kl: float
    entropy_before: float
    entropy_after: float
    bits_before: float
    bits_after: float
    largest_change: float
    """Of any logit at any position; 0 where nothing is ablated."""


def ablation(pipeline: "Pipeline", text: "Prompt", parts: str, *, limit: int = 10) -> Ablation:
    """Runs the text with and without the parts (see `parse_parts`). `limit` tokens that may follow are told: the most
    probable before, and the most probable after.

    Raises `UsageError` for parts that the model does not have, `ContextLengthError` for a text that is too long.
    """
    chosen = parse_parts(parts, pipeline.model.config)
    ids = fitting_ids(pipeline, text)
    tokens: list[TokenChange] = []
    largest = 0.0
    surprisals: tuple[float | None, float | None] = (None, None)
    both = zip(each_logits(pipeline, ids), each_logits(pipeline, ids, Zeroed(chosen)), strict=True)
    for token_id, following, (before, after) in zip(ids, [*ids[1:], None], both, strict=True):
        tokens.append(TokenChange(shown_token(pipeline, token_id), divergence(before, after), *surprisals))
        largest = max(largest, float((after - before).abs().max()))
        if following is not None:
            surprisals = (surprisal_bits(before, following), surprisal_bits(after, following))
    order = [each.token.id for side in (before, after) for each in most_probable(pipeline, side, limit)]
    return Ablation(
        parts=[str(part) for part in chosen],
        tokens=tokens,
        next=[NextChange(ranked(pipeline, before, i), ranked(pipeline, after, i)) for i in dict.fromkeys(order)],
        kl=tokens[-1].kl,
        entropy_before=entropy_bits(before),
        entropy_after=entropy_bits(after),
        bits_before=math.fsum(t.surprisal_before for t in tokens if t.surprisal_before is not None),
        bits_after=math.fsum(t.surprisal_after for t in tokens if t.surprisal_after is not None),
        largest_change=largest,
    )
