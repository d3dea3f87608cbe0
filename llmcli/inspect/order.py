"""What positions do to attention: the text moved as a whole, and the text shuffled."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from llmcli.errors import UsageError
from llmcli.inspect.running import ShownToken, batch_of, fitting_ids, shown_tokens
from llmcli.model.recorder import Recorder
from llmcli.model.transformer import CausalLM

if TYPE_CHECKING:
    from llmcli.pipeline import Pipeline, Prompt


@dataclass(frozen=True)
class LayerShift:
    """change  the largest change of any attention score that enters a softmax, over heads, queries and keys in sight
    largest the largest such score before
    """

    layer: int
    change: float
    largest: float


@dataclass(frozen=True)
class Shift:
    """The scores of a text at positions 0, 1, ... beside those at k, k + 1, ...; `change` relative to
    max(1, the largest score)."""

    tokens: list[ShownToken]
    shift: int
    layers: list[LayerShift]
    learned: bool

    @property
    def change(self) -> float:
        return max(each.change / max(1.0, each.largest) for each in self.layers)


@dataclass(frozen=True)
class Shuffle:
    """The last token's attention output in the first block, before and after all tokens before it changed places.

    order          the places that the tokens came from, the last one its own
    with_positions    largest change of that output, relative to max(1, its largest magnitude)
    without_positions the same with positions switched off: no rotation, no learned table
    window            the first block's sliding window, where it hides some tokens from the last one; else None
    """

    tokens: list[ShownToken]
    order: list[int]
    with_positions: float
    without_positions: float
    magnitude: float
    window: int | None


@torch.inference_mode()
def shift(pipeline: "Pipeline", text: "Prompt", k: int) -> Shift:
    """Moves the whole text by k positions and compares the attention scores of all layers and heads.

    Raises `UsageError` for a negative k, and for a learned table that ends before the moved text does.
    """
    config = pipeline.model.config
    ids = fitting_ids(pipeline, text)
    end = len(ids) + k
    if k < 0:
        raise UsageError(f"--shift {k}: positions count from 0", "give 0 or more")
    if config.learned_positions and end > config.context_length:
        raise UsageError(
            f"--shift {k}: the text would end at position {end - 1}, and the table has {config.context_length}",
            f"give at most {config.context_length - len(ids)}",
        )
    scores = [_scores(pipeline, ids, start) for start in (0, k)]
    mask = torch.ones(len(ids), len(ids), dtype=torch.bool).tril()
    layers = []
    for layer, (before, after) in enumerate(zip(*scores, strict=True)):
        seen = mask if config.window(layer) is None else mask.triu(1 - (config.window(layer) or 0))
        change = (after - before).abs()[:, seen].max()
        layers.append(LayerShift(layer, float(change), float(before[:, seen].abs().max())))
    return Shift(shown_tokens(pipeline, ids), k, layers, config.learned_positions)


def _scores(pipeline: "Pipeline", ids: list[int], start: int) -> list[Tensor]:
    """Of each layer (heads, tokens, tokens), the text's first token at position `start`."""
    config = pipeline.model.config
    recorder = Recorder({"scores"}, {layer: range(config.num_heads) for layer in range(config.num_layers)})
    batch = batch_of(pipeline, ids)
    positions = torch.arange(start, start + len(ids), device=batch.device)
    pipeline.model.hidden_states(batch, positions=positions, tap=recorder)
    return [recorder["scores", layer][0].float().cpu() for layer in range(config.num_layers)]


class Unplaced:
    """The tap that switches positions off: what no rotation and no learned table would give. Keeps the first block's
    attention output of the last token."""

    def __init__(self, model: CausalLM, ids: Tensor, *, off: bool) -> None:
        self._model, self._ids, self._off = model, ids, off
        self._plain: dict[tuple[str, int], Tensor] = {}
        self.output: Tensor | None = None

    def __call__(self, point: str, layer: int, value: Tensor) -> Tensor:
        if point == "attention_out" and layer == 0:
            self.output = value[0, -1].float().cpu()
        if not self._off:
            return value
        if point == "embedding" and self._model.config.learned_positions:
            plain: Tensor = self._model.embedding(self._ids) * self._model.config.embedding_scale
            return plain
        if point in ("query", "key"):
            self._plain[point, layer] = value
        if point in ("rotated_query", "rotated_key"):
            return self._plain[point.removeprefix("rotated_"), layer]
        return value

    def heads(self, layer: int) -> Collection[int] | None:  # noqa: ARG002
        return None


@torch.inference_mode()
def shuffle(pipeline: "Pipeline", text: "Prompt", *, seed: int = 0) -> Shuffle:
    """Permutes all tokens but the last, and compares the last one's attention output in the first block.

    Raises `UsageError` for a text of fewer than 3 tokens, in which nothing can change places.
    """
    ids = fitting_ids(pipeline, text)
    if len(ids) < 3:
        raise UsageError(f"--shuffle: the text has {len(ids)} tokens", "give a text of at least 3")
    order = [*_permutation(len(ids) - 1, seed), len(ids) - 1]
    moved = [ids[i] for i in order]
    changes = []
    magnitude = 1.0
    for off in (False, True):
        before, after = (_output(pipeline, each, off=off) for each in (ids, moved))
        largest = max(1.0, float(before.abs().max()))
        magnitude = magnitude if off else float(before.abs().max())
        changes.append(float((after - before).abs().max()) / largest)
    window = pipeline.model.config.window(0)
    return Shuffle(
        tokens=shown_tokens(pipeline, ids),
        order=order,
        with_positions=changes[0],
        without_positions=changes[1],
        magnitude=magnitude,
        window=window if window is not None and window < len(ids) else None,
    )


def _permutation(count: int, seed: int) -> list[int]:
    """A permutation that is not the identity."""
    generator = torch.Generator().manual_seed(seed)
    order: list[int] = torch.randperm(count, generator=generator).tolist()
    return order if order != sorted(order) else order[1:] + order[:1]


def _output(pipeline: "Pipeline", ids: list[int], *, off: bool) -> Tensor:
    """(hidden) float32."""
    batch = batch_of(pipeline, ids)
    tap = Unplaced(pipeline.model, batch, off=off)
    pipeline.model.hidden_states(batch, tap=tap)
    assert tap.output is not None
    return tap.output
