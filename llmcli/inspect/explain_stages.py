"""What each stage of the guided walk holds. Lengths of vectors are Euclidean; n is the number of tokens."""

from dataclasses import dataclass
from typing import Any, Literal

from llmcli.inspect.funnel import Stage as FilterStage
from llmcli.inspect.logits import FunnelToken, Ranked
from llmcli.inspect.running import Doubles, Floats, ShownToken
from llmcli.model.config import ModelConfig

Shape = tuple[int, ...]
Kind = Literal[
    "encoding", "embedding", "norm", "attention", "residual", "ffn", "blocks", "lm_head", "softmax", "sampling",
    "decoding",
]  # fmt: skip
Place = Literal["before attention", "after attention", "before ffn", "after ffn", "before lm_head"]
Part = Literal["attention", "ffn", "both"]

IN_BLOCK: tuple[Kind, ...] = ("norm", "attention", "residual", "ffn")
"""The kinds of stages that a block is made of."""

FIRST = 8
"""Channels of a vector that are told: its first ones."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage: its number in the whole walk, from 0; the block that it is in; the shapes of what it reads and of what
    it gives."""

    kind: Kind
    number: int = -1
    layer: int | None = None
    input: Shape
    output: Shape


@dataclass(frozen=True, kw_only=True)
class Encoding(Stage):
    """Text to ids. `added` tokens are of the tokenizer, not of the text. text: None where ids were given to a model
    without a tokenizer."""

    text: str | None
    characters: int
    bytes: int
    added: int


@dataclass(frozen=True, kw_only=True)
class Embedding(Stage):
    """Ids to vectors.

    table      (vocab, hidden)
    scale      what each row is multiplied by
    positions  shape of the learned table of positions; None where there is none
    rows, position_rows, vectors  (n, FIRST): of the table, of the table of positions, and what enters block 0
    lengths    (n) of the vectors
    """

    table: Shape
    scale: float
    positions: Shape | None
    rows: Floats
    position_rows: Floats | None
    vectors: Floats
    lengths: Doubles


@dataclass(frozen=True)
class Moments:
    """Of the channels of each token: mean, spread (standard deviation) and root mean square; each (n)."""

    mean: Doubles
    spread: Doubles
    rms: Doubles


@dataclass(frozen=True, kw_only=True)
class Norm(Stage):
    """Each token's channels before, after the division, and after the learned weights (and bias)."""

    place: Place
    before: Moments
    scaled: Moments
    after: Moments


@dataclass(frozen=True)
class Shaped:
    """An inner step: its name, what it does, and the shapes before and after."""

    name: str
    operation: str
    input: Shape
    output: Shape


@dataclass(frozen=True, kw_only=True)
class Attention(Stage):
    """weights (n, n): mean over the heads; what a query may not see is exactly 0. window: keys in sight; None: all."""

    steps: list[Shaped]
    weights: Floats
    window: int | None


@dataclass(frozen=True, kw_only=True)
class Residual(Stage):
    """Lengths of each token's vector before, of what is added, and after; each (n). None: not added here."""

    part: Part
    before: Doubles
    attention_adds: Doubles | None
    ffn_adds: Doubles | None
    after: Doubles


@dataclass(frozen=True)
class Alone:
    """The sign of token `changed`'s input flipped; the largest changes that this makes in outputs.

    here         in the feed-forward output of `token`
    itself       in the feed-forward output of `changed`
    by_attention in the attention output of `token`, with the attention's input flipped likewise
    """

    changed: int
    token: int
    here: float
    itself: float
    by_attention: float


@dataclass(frozen=True, kw_only=True)
class FeedForward(Stage):
    """The last token's first numbers on their way, and the activation's curve.

    read          (FIRST) of what the network reads
    before        (FIRST) hidden numbers before the activation
    activated     (FIRST) after it
    hidden        (FIRST) multiplied with the gated half, where there is one; else `activated`
    added         (FIRST) of the output
    positive      of the last token's hidden numbers before the activation, how many are above 0
    curve_x, curve_y  points of the activation function
    alone         None for a text of one token
    """

    steps: list[Shaped]
    gated: bool
    activation: str
    read: Floats
    before: Floats
    activated: Floats
    hidden: Floats
    added: Floats
    positive: int
    curve_x: Floats
    curve_y: Floats
    alone: Alone | None


@dataclass(frozen=True)
class BlockRow:
    """One block at the last token: lengths of what it adds and of what leaves it, and the token that would be most
    probable if the model ended there."""

    layer: int
    attention_adds: float
    ffn_adds: float
    length: float
    says: Ranked


@dataclass(frozen=True, kw_only=True)
class Blocks(Stage):
    """All blocks at the last token. `length` of the vector that enters the first one, `says` likewise."""

    length: float
    says: Ranked
    rows: list[BlockRow]


@dataclass(frozen=True, kw_only=True)
class LmHead(Stage):
    """Hidden states to logits. `matrix` (vocab, hidden); `logits` (vocab) of what follows the last token."""

    matrix: Shape
    tied: bool
    softcap: float
    logits: Floats
    lowest: float
    highest: float
    top: list[Ranked]


@dataclass(frozen=True)
class Exponential:
    """A token's way through the softmax: `exponential` is e^(logit - the highest logit)."""

    token: ShownToken
    logit: float
    exponential: float
    prob: float


@dataclass(frozen=True, kw_only=True)
class Softmax(Stage):
    """Logits to probabilities. `total` of all exponentials, `sum` of all probabilities, `entropy` in bits."""

    total: float
    sum: float
    entropy: float
    top: list[Exponential]

    @property
    def choices(self) -> float:
        """Equally probable tokens that would have this entropy."""
        return float(2.0**self.entropy)


@dataclass(frozen=True, kw_only=True)
class Sampling(Stage):
    """Filters, then the draw: `low` <= uniform < `high` is the drawn token's share where the candidates' probabilities
    are laid end to end in the order of their ids. `seed` and `uniform` are None for greedy."""

    params: dict[str, Any]
    filters: list[FilterStage]
    candidates: list[FunnelToken]
    drawn: FunnelToken
    seed: int | None
    uniform: float | None
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Decoding(Stage):
    """The drawn id back to text. `text` may be empty where the bytes are part of a character only, and for a token that
    ends the text (`ends`); None without a tokenizer. `context`: tokens that the model can read."""

    token: ShownToken
    bytes: list[int] | None
    text: str | None
    ends: bool
    context: int


@dataclass(frozen=True)
class Walk:
    """The guided walk. `layer` is the block that is opened, `order` its steps by name, in the family's own order, and
    `count` how many stages the whole walk has, whichever of them are told."""

    config: ModelConfig
    tokens: list[ShownToken]
    layer: int
    order: list[str]
    count: int
    stages: list[Stage]
