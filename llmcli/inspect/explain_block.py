"""The stages of one transformer block, in the family's own order, from the model's own tensors."""

from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor, nn

from llmcli.inspect.attention import attention
from llmcli.inspect.explain_stages import (
    FIRST,
    Alone,
    Attention,
    FeedForward,
    Moments,
    Norm,
    Part,
    Place,
    Residual,
    Shaped,
    Stage,
)
from llmcli.inspect.running import Doubles, Floats, batch_of
from llmcli.model.activations import ACTIVATIONS
from llmcli.model.config import ModelConfig
from llmcli.model.layers import FeedForward as FeedForwardNetwork
from llmcli.model.recorder import Recorder
from llmcli.model.transformer import Block

if TYPE_CHECKING:
    from llmcli.pipeline import Pipeline

CURVE = (-4.0, 4.0, 65)
"""From, to, points of the activation's curve."""

_OF_ALL = ("attention_out", "ffn_out", "block")
_OF_ONE = ("attention_norm", "heads", "ffn_norm", "ffn_hidden")


class WalkRecorder(Recorder):
    """Keeps every tensor of one block, and of the others the last token's row of what they add and give."""

    def __init__(self, opened: int, layers: int) -> None:
        super().__init__({"embedding", "final_norm", *_OF_ALL, *_OF_ONE})
        self._opened, self._last = opened, layers - 1

    def __call__(self, point: str, layer: int, value: Tensor) -> Tensor:
        between = point == "block" and layer in (self._opened - 1, self._last)
        if point in ("embedding", "final_norm") or layer == self._opened or between:
            super().__call__(point, layer, value)
        elif point in _OF_ALL:
            super().__call__(point, layer, value[:, -1:].clone())
        return value


class Flipped:
    """The tap that flips the sign of one token's row at a point of one block, and keeps what comes of it at another."""

    def __init__(self, layer: int, point: str, row: int, read: str) -> None:
        self._at, self._row, self._read = (point, layer), row, (read, layer)
        self.output: Tensor | None = None

    def __call__(self, point: str, layer: int, value: Tensor) -> Tensor:
        if (point, layer) == self._at:
            value = value.clone()
            value[:, self._row] = -value[:, self._row]
        if (point, layer) == self._read:
            self.output = value[0].float().cpu()
        return value

    def heads(self, layer: int) -> None:  # noqa: ARG002
        return None


def block_order(config: ModelConfig) -> list[str]:
    """The steps of a block: `norm`, `attention`, `ffn`, and `residual` where the vector is added to."""
    before = ["norm"] if config.norm_placement != "post" else []
    after = ["norm"] if config.norm_placement != "pre" else []
    end = [] if config.parallel_residual else ["residual"]
    return [*before, "attention", *after, *end, *before, "ffn", *after, "residual"]


class OpenedBlock:
    """A block of a pipeline's model with what it computed on a text."""

    def __init__(self, pipeline: "Pipeline", ids: list[int], layer: int, recorder: WalkRecorder) -> None:
        self.pipeline, self.ids, self.layer = pipeline, ids, layer
        self.config = pipeline.model.config
        self.block = cast(Block, pipeline.model.blocks[layer])
        self._recorder = recorder
        self.hidden_shape = (len(ids), self.config.hidden_size)

    def at(self, point: str) -> Tensor:
        """What was recorded there, without the batch."""
        return self._recorder[point, self.layer][0]

    def entering(self) -> Tensor:
        """(n, hidden) of what enters the block."""
        return self._recorder["embedding" if self.layer == 0 else "block", self.layer - 1][0]

    def stages(self) -> list[Stage]:
        """In the family's own order."""
        x, config = self.entering(), self.config
        attended, fed = self.at("attention_out"), self.at("ffn_out")
        first: list[Stage] = [self._attention()]
        second: list[Stage] = [self._feed_forward()]
        middle = x if config.parallel_residual else x + attended
        if config.norm_placement != "post":
            first.insert(0, self._norm("before attention", self.block.attention_norm, x, self.at("attention_norm")))
            second.insert(0, self._norm("before ffn", self.block.ffn_norm, middle, self.at("ffn_norm")))
        if config.norm_placement != "pre":
            heads = self.at("heads").transpose(0, 1).flatten(1)
            raw = self.block.attention.o(heads)
            first.append(self._norm("after attention", self.block.attention_post_norm, raw, attended))
            raw = self.block.ffn.down(self.at("ffn_hidden"))
            second.append(self._norm("after ffn", self.block.ffn_post_norm, raw, fed))
        if config.parallel_residual:
            return [*first, *second, self._residual("both", x, attended, fed, self.at("block"))]
        first.append(self._residual("attention", x, attended, None, middle))
        return [*first, *second, self._residual("ffn", middle, None, fed, self.at("block"))]

    def _norm(self, place: Place, module: nn.Module, before: Tensor, after: Tensor) -> Norm:
        return norm_stage(self.config, place, before, after, cast(float, module.eps), layer=self.layer)

    def _residual(
        self, part: Part, before: Tensor, attended: Tensor | None, fed: Tensor | None, after: Tensor
    ) -> Residual:
        return Residual(
            kind="residual",
            layer=self.layer,
            input=self.hidden_shape,
            output=self.hidden_shape,
            part=part,
            before=lengths(before),
            attention_adds=None if attended is None else lengths(attended),
            ffn_adds=None if fed is None else lengths(fed),
            after=lengths(after),
        )

    def _attention(self) -> Attention:
        found = attention(self.pipeline, self.ids, layers=[self.layer], mean="heads")
        return Attention(
            kind="attention",
            layer=self.layer,
            input=self.hidden_shape,
            output=self.hidden_shape,
            steps=attention_steps(self.config, self.layer, len(self.ids)),
            weights=found.maps[0].weights,
            window=self.config.window(self.layer),
        )

    def _feed_forward(self) -> FeedForward:
        network, x = self.block.ffn, self.at("ffn_norm")
        hidden = self.at("ffn_hidden")
        before = _bent(network, x[-1:])[0]
        xs = torch.linspace(CURVE[0], CURVE[1], int(CURVE[2]))
        n, size, inner = len(self.ids), self.config.hidden_size, self.config.intermediate_size
        half = [Shaped("gate", "x W_gate", (n, size), (n, inner))] if network.gated else []
        bend = f"{self.config.activation}{' of the gate, times up' if network.gated else ''}"
        return FeedForward(
            kind="ffn",
            layer=self.layer,
            input=self.hidden_shape,
            output=self.hidden_shape,
            steps=[
                *half,
                Shaped("up", "x W_up", (n, size), (n, inner)),
                Shaped("activation", bend, (n, inner), (n, inner)),
                Shaped("down", "x W_down", (n, inner), (n, size)),
            ],
            gated=network.gated,
            activation=self.config.activation,
            read=_first(x[-1]),
            before=_first(before),
            activated=_first(ACTIVATIONS[network.activation](before)),
            hidden=_first(hidden[-1]),
            added=_first(network.down(hidden[-1:])[0]),
            positive=int((before > 0).sum()),
            curve_x=xs.numpy(),
            curve_y=ACTIVATIONS[self.config.activation](xs).numpy(),
            alone=self._alone(),
        )

    def _alone(self) -> Alone | None:
        """Whether another token's input matters: to the feed-forward network it does not, to the attention it does."""
        token = len(self.ids) - 1
        if token == 0:
            return None
        changed = token - 1
        fed = self._flipped("ffn_norm", changed, "ffn_out")
        attended = self._flipped("attention_norm", changed, "attention_out")
        return Alone(
            changed=changed,
            token=token,
            here=float(fed[token].abs().max()),
            itself=float(fed[changed].abs().max()),
            by_attention=float(attended[token].abs().max()),
        )

    def _flipped(self, point: str, row: int, read: str) -> Tensor:
        """(n, hidden): how the output `read` changes when a token's row at `point` changes its sign."""
        tap = Flipped(self.layer, point, row, read)
        self.pipeline.model.hidden_states(batch_of(self.pipeline, self.ids), tap=tap)
        assert tap.output is not None
        return tap.output - self.at(read).float().cpu()


def _bent(network: FeedForwardNetwork, x: Tensor) -> Tensor:
    """What goes into the activation. x (tokens, hidden) -> (tokens, intermediate) float32."""
    if not network.gated:
        return cast(Tensor, network.up(x)).float()
    if network.gate_up is None:
        return cast(Tensor, network.gate(x)).float()
    return cast(Tensor, network.gate_up(x)).chunk(2, dim=-1)[0].float()


def norm_stage(
    config: ModelConfig, place: Place, before: Tensor, after: Tensor, eps: float, *, layer: int | None
) -> Norm:
    """before, after (n, hidden): what the norm read and gave."""
    x = before.double().cpu().numpy()
    centred = x - x.mean(axis=1, keepdims=True) if config.norm == "layernorm" else x
    scaled = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + eps)
    return Norm(
        kind="norm",
        layer=layer,
        input=tuple(before.shape),
        output=tuple(after.shape),
        place=place,
        before=_moments(x),
        scaled=_moments(scaled),
        after=_moments(after.double().cpu().numpy()),
    )


def _moments(x: Doubles) -> Moments:
    return Moments(x.mean(axis=1), x.std(axis=1), np.sqrt((x**2).mean(axis=1)))


def lengths(x: Tensor) -> Doubles:
    """(n, hidden) -> (n)."""
    found: Doubles = np.linalg.norm(x.double().cpu().numpy(), axis=-1)
    return found


def _first(x: Tensor) -> Floats:
    found: Floats = x[:FIRST].float().cpu().numpy()
    return found


def attention_steps(config: ModelConfig, layer: int, n: int) -> list[Shaped]:
    """The attention of a block from the vectors that it reads to those that it gives, with all shapes."""
    h, g, d, size = config.num_heads, config.num_kv_heads, config.head_dim, config.hidden_size
    normed = {"none": "", "head": ", each head normed", "full": ", normed"}[config.qk_norm]
    shared = f": {h // g} heads share them" if g != h else ""
    steps = [
        Shaped("Q", f"x W_Q{normed}: what a token asks", (n, size), (h, n, d)),
        Shaped("K, V", f"x W_K{normed}, x W_V{shared or ': what it offers, gives'}", (n, size), (g, n, d)),
    ]
    if config.rotates(layer):
        steps.append(Shaped("rotation", "RoPE turns Q and K by position", (h, n, d), (h, n, d)))
    cap = ", soft-capped" if config.attention_softcap else ""
    scale = f"x {config.scale(layer):.3g}{cap}"
    steps += [
        Shaped("scores", f"Q K^T {scale}: how well they match", (h, n, d), (h, n, n)),
        Shaped("weights", "mask, softmax: each row sums to 1", (h, n, n), (h, n, n)),
        Shaped("mix", "weights x V: a weighted mean", (h, n, n), (h, n, d)),
        Shaped("output", "heads side by side, x W_O", (n, h * d), (n, size)),
    ]
    return steps
