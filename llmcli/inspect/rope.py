"""RoPE, looked at: its angles, a rotation as a matrix, and one query turned."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from llmcli.errors import UsageError
from llmcli.inspect.running import Doubles, Floats, ShownToken, batch_of, fitting_ids, place, shown_token
from llmcli.model.config import ModelConfig, RopeConfig
from llmcli.model.positions import base_frequencies, frequencies, paired, rotate, rotation
from llmcli.model.recorder import Recorder
from llmcli.ranges import parse_ranges

if TYPE_CHECKING:
    from llmcli.pipeline import Pipeline, Prompt

# The settings that each kind of scaling reads besides theta.
_SETTINGS: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor", "original_length"),
    "llama3": ("factor", "original_length", "low_freq_factor", "high_freq_factor"),
    "yarn": ("factor", "original_length", "beta_fast", "beta_slow"),
    "longrope": ("factor", "original_length"),
}


@dataclass(frozen=True)
class RopePair:
    """Two channels of a head that turn together.

    channels     i and i + d/2, as the checkpoints pair them
    theta        radians a position, the scaling applied
    unscaled     radians a position without it
    wavelength   positions in a whole turn, 2 pi / theta
    turns        whole turns within the context, fractions of one included
    beyond       a whole turn takes longer than the context
    """

    channels: tuple[int, int]
    theta: float
    unscaled: float
    wavelength: float
    turns: float
    beyond: bool


@dataclass(frozen=True)
class Rope:
    """The rotation of one type of layer, for a text as long as the context.

    layers            those that rotate by it
    scaling           its kind; `settings` are the keys that this kind reads
    attention_factor  what cos and sin are multiplied by
    dim, head_dim     channels that rotate, of all
    """

    layer_type: str
    layers: list[int]
    scaling: str
    settings: dict[str, float]
    base: float
    attention_factor: float
    dim: int
    head_dim: int
    context_length: int
    pairs: list[RopePair]

    @property
    def beyond(self) -> int:
        """How many pairs do not complete a turn within the context."""
        return sum(pair.beyond for pair in self.pairs)


@dataclass(frozen=True)
class RotationAt:
    """The rotation of position m of one type of layer.

    angles      position * theta of each pair, radians
    blocks      (pairs, 2, 2) float32: [[cos, -sin], [sin, cos]] of each pair
    matrix      (head_dim, head_dim) float32, zero but for the blocks; 1 where a channel does not rotate
    difference  the largest one between matrix @ x and the two Hadamard products x * cos + swapped(x) * sin, over the
                `vectors` that were turned
    """

    layer_type: str
    position: int
    angles: list[float]
    blocks: Floats
    matrix: Floats
    difference: float
    vectors: int
    of_text: bool


@dataclass(frozen=True)
class Rotations:
    """The rotations of one position, one for each type of layer."""

    rotations: list[RotationAt]


@dataclass(frozen=True)
class Curve:
    """cos and sin of position * theta of one pair, over two wavelengths but no more than the context."""

    layer_type: str
    pair: int
    positions: Doubles
    cos: Doubles
    sin: Doubles


@dataclass(frozen=True)
class TurnedQuery:
    """One pair of channels of a query before and after its rotation, and where it would stand at other positions.

    token    whose query; None where no text was given: then the query is (1, 0)
    before   (2) float32; after (2) float32, at its own position
    path     (positions, 2) float32: the same query at positions 0, 1, 2, ...
    """

    layer: int
    head: int
    pair: int
    position: int
    token: ShownToken | None
    before: Floats
    after: Floats
    path: Floats


@dataclass(frozen=True)
class RopeReport:
    """The rotations of all types of layers, the curves of chosen pairs, and one query turned; the query's layer
    chooses the type of which pairs are drawn."""

    ropes: list[Rope]
    curves: list[Curve]
    query: TurnedQuery


def ropes(config: ModelConfig) -> list[Rope]:
    """One for each type of layer that rotates. Raises `UsageError` for a model without RoPE."""
    if not config.rope:
        raise UsageError("this model has no RoPE", "it has a learned table of positions, which this view shows too")
    found = []
    for layer_type, rope in config.rope.items():
        layers = [i for i in range(config.num_layers) if config.rotates(i) and config.layer_type(i) == layer_type]
        if layers:
            found.append(_rope(config, layer_type, rope, layers))
    return found


def _rope(config: ModelConfig, layer_type: str, rope: RopeConfig, layers: list[int]) -> Rope:
    length = config.context_length
    theta, factor = frequencies(rope, length)
    base = base_frequencies(rope)
    half = len(theta)
    pairs = [
        RopePair((i, i + half), t, b, 2 * math.pi / t, length * t / (2 * math.pi), 2 * math.pi / t > length)
        for i, (t, b) in enumerate(zip(theta.double().tolist(), base.double().tolist(), strict=True))
    ]
    return Rope(
        layer_type=layer_type,
        layers=layers,
        scaling=rope.kind,
        settings={name: float(getattr(rope, name)) for name in _SETTINGS[rope.kind]},
        base=rope.theta,
        attention_factor=factor,
        dim=2 * half,
        head_dim=config.head_dim,
        context_length=length,
        pairs=pairs,
    )


def curve(rope: Rope, pair: int) -> Curve:
    """129 points, between the positions of a text too, so that fast pairs show as curves."""
    end = min(rope.context_length - 1, math.ceil(2 * rope.pairs[pair].wavelength))
    positions = np.linspace(0, end, 129)
    angles = positions * rope.pairs[pair].theta
    return Curve(rope.layer_type, pair, positions, np.cos(angles), np.sin(angles))


def rope_report(
    pipeline: "Pipeline",
    text: "Prompt | None" = None,
    *,
    pairs: str | None = None,
    layer: int = 0,
    head: int = 0,
    token: int = -1,
) -> RopeReport:
    """The whole of it. `pairs` are the ranges of those whose curves are told, the first one's query is turned; without
    it the fastest, and two more out of those that complete a turn within the context.

    Raises `UsageError` for a model without RoPE and for what is not there.
    """
    found = ropes(pipeline.model.config)
    layer = _checked(layer, pipeline.model.config.num_layers, "layer")
    rope = next((each for each in found if layer in each.layers), None)
    if rope is None:
        raise UsageError(f"layer {layer} does not rotate", "choose another with --layer")
    chosen = _typical_pairs(rope) if pairs is None else parse_ranges(pairs, len(rope.pairs), "pair")
    query = turned_query(pipeline, text, layer=layer, head=head, pair=chosen[0], token=token)
    return RopeReport(found, [curve(rope, pair) for pair in chosen], query)


def _typical_pairs(rope: Rope) -> list[int]:
    turning = max(1, len(rope.pairs) - rope.beyond)
    return sorted({0, turning // 2, turning - 1})


@torch.inference_mode()
def rotation_at(pipeline: "Pipeline", position: int, text: "Prompt | None" = None) -> Rotations:
    """The rotation of one position for each type of layer, as a matrix, and its difference from the Hadamard form that
    the model computes: on the queries of the text in the first such layer, else on random vectors of a fixed seed.

    Raises `UsageError` for a model without RoPE and for a negative position.
    """
    config = pipeline.model.config
    if position < 0:
        raise UsageError(f"--at {position}: positions count from 0", "give 0 or more")
    found = []
    for rope in ropes(config):
        length = max(config.context_length, position + 1)
        cos, sin = rotation(config.rope[rope.layer_type], torch.tensor([position]), length)  # (1, dim / 2)
        if text is None:
            x = torch.randn(1, 1, 64, config.head_dim, generator=torch.Generator().manual_seed(0))
        else:
            x = _query(pipeline, text, rope.layers[0])[0]
        x = x.reshape(1, 1, -1, config.head_dim)
        blocks, matrix = matrix_of(cos[0].numpy(), sin[0].numpy(), config.head_dim)
        by_matrix = x @ torch.from_numpy(matrix).T
        by_hadamard = rotate(x, *paired(cos, sin))
        difference = float((by_matrix - by_hadamard).abs().max())
        theta, _ = frequencies(config.rope[rope.layer_type], length)
        angles = (theta.double() * position).tolist()
        found.append(
            RotationAt(
                rope.layer_type, position, angles, blocks, matrix, difference, x.shape[2], of_text=text is not None
            )
        )
    return Rotations(found)


def matrix_of(cos: Floats, sin: Floats, head_dim: int) -> tuple[Floats, Floats]:
    """The 2 x 2 blocks of all pairs and the sparse matrix that they make, pairing channel i with i + d/2.

    cos, sin (pairs) -> (pairs, 2, 2), (head_dim, head_dim).
    """
    blocks = np.stack((np.stack((cos, -sin), -1), np.stack((sin, cos), -1)), -2)
    matrix = np.eye(head_dim, dtype=np.float32)
    half = len(cos)
    for i, block in enumerate(blocks):
        matrix[np.ix_((i, i + half), (i, i + half))] = block
    return blocks, matrix


def _query(pipeline: "Pipeline", text: "Prompt", layer: int) -> tuple[torch.Tensor, list[int]]:
    """The queries of a layer before their rotation, (heads, tokens, head_dim), and the ids."""
    ids = fitting_ids(pipeline, text)
    recorder = Recorder({"query"})
    pipeline.model.hidden_states(batch_of(pipeline, ids), tap=recorder)
    return recorder["query", layer][0].float().cpu(), ids


@torch.inference_mode()
def turned_query(
    pipeline: "Pipeline", text: "Prompt | None" = None, *, layer: int = 0, head: int = 0, pair: int = 0, token: int = -1
) -> TurnedQuery:
    """One pair of channels of one head's query, before and after the rotation of its position. Without a text the
    query (1, 0), at position 8.

    Raises `UsageError` for a layer that does not rotate, and for a head, pair or token that is not there.
    """
    config = pipeline.model.config
    layer = _checked(layer, config.num_layers, "layer")
    head = _checked(head, config.num_heads, "head")
    rope = next((each for each in ropes(config) if layer in each.layers), None)
    if rope is None:
        raise UsageError(f"layer {layer} does not rotate", "choose another with --layer")
    pair = _checked(pair, len(rope.pairs), "pair")
    first, second = rope.pairs[pair].channels
    if text is None:
        at, named, before = 8, None, torch.tensor([1.0, 0.0])
    else:
        queries, ids = _query(pipeline, text, layer)
        at = place(token, len(ids), "--token")
        named, before = shown_token(pipeline, ids[at]), queries[head, at, [first, second]]
    places = torch.arange(at + 1)
    cos, sin = rotation(config.rope[rope.layer_type], places, max(len(places), config.context_length))
    path = rotate(before.expand(1, 1, at + 1, 2), *paired(cos[:, pair : pair + 1], sin[:, pair : pair + 1]))[0, 0]
    return TurnedQuery(layer, head, pair, at, named, before.numpy(), path[-1].numpy(), path.numpy())


def _checked(value: int, count: int, what: str) -> int:
    if not -count <= value < count:
        raise UsageError(f"--{what} {value}: there are {count} {what}s", f"they count from 0 to {count - 1}")
    return value % count
