"""The options of `llmcli inspect-attention`, and which of them go together."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from llmcli.cli.options import SeedOption
from llmcli.cli.view import spelled, typed_options
from llmcli.errors import UsageError
from llmcli.ranges import parse_ranges

if TYPE_CHECKING:
    from llmcli.pipeline import Pipeline

LayerOption = Annotated[
    str | None,
    typer.Option("--layer", metavar="L", help="Layers from 0 on: 3, -1, 0-3,5 or all.", show_default=False),
]
HeadOption = Annotated[
    str | None, typer.Option("--head", metavar="H", help="Heads from 0 on: 5, -1, 0-3,5 or all.", show_default=False)
]
MeanOption = Annotated[
    Literal["heads", "layers"] | None,
    typer.Option("--mean", help="One map for all heads of a layer, or for a head in all layers.", show_default=False),
]
ValuesOption = Annotated[bool, typer.Option("--values", help="Print the numbers.")]
ScoresOption = Annotated[
    bool, typer.Option("--scores", help="Also the scaled scores of all pairs, before mask and softmax.")
]
StepsOption = Annotated[
    bool, typer.Option("--steps", help="One head computed step by step; takes one --layer and one --head.")
]
DropSinkOption = Annotated[
    bool, typer.Option("--drop-sink", help="Take the first token's weights out and divide the rest by its sum.")
]
TopHeadsOption = Annotated[
    Literal["prev", "induction", "sink", "entropy"] | None,
    typer.Option("--top-heads", help="Rank all heads by a pattern, or by their entropy.", show_default=False),
]
LimitOption = Annotated[int, typer.Option("--limit", metavar="N", min=1, help="Heads that --top-heads lists.")]
TokenOption = Annotated[
    str | None,
    typer.Option("--token", metavar="I", help="Where token I looks, as bars; -1 is the last.", show_default=False),
]
GenerateOption = Annotated[
    int | None,
    typer.Option(
        "--generate", metavar="N", min=1, help="Generate N tokens with the KV cache, a row a step.", show_default=False
    ),
]
VerifyOption = Annotated[
    bool, typer.Option("--verify", help="Check the maps of --generate by one uncached pass; exit 5 above 1e-4.")
]
TemperatureOption = Annotated[
    float, typer.Option("--temperature", "-t", metavar="T", help="Of --generate; 0 is greedy.")
]
RowsOption = Annotated[
    str | None, typer.Option("--rows", metavar="R", help="Draw these queries: 0-9,20.", show_default=False)
]
ColsOption = Annotated[
    str | None, typer.Option("--cols", metavar="C", help="Draw these keys: 0-9,20.", show_default=False)
]
PoolOption = Annotated[int, typer.Option("--pool", metavar="K", min=1, help="Draw blocks of K x K tokens.")]


@dataclass(frozen=True)
class AttentionOptions:
    """What is asked for, as typed, and how it is drawn. Raises `UsageError`."""

    layer: LayerOption = None
    head: HeadOption = None
    mean: MeanOption = None
    values: ValuesOption = False
    scores: ScoresOption = False
    steps: StepsOption = False
    drop_sink: DropSinkOption = False
    top_heads: TopHeadsOption = None
    limit: LimitOption = 10
    token: TokenOption = None
    generate: GenerateOption = None
    verify: VerifyOption = False
    temperature: TemperatureOption = 0.0
    seed: SeedOption = None
    rows: RowsOption = None
    cols: ColsOption = None
    pool: PoolOption = 1

    def __post_init__(self) -> None:
        if self.steps and (self.layer is None or self.head is None):
            raise UsageError("--steps shows one head", "give one --layer and one --head")

    @property
    def overview(self) -> bool:
        return self.layer is None and self.head is None and self.mean is None

    def maps(self, pipeline: "Pipeline") -> dict[str, Any]:
        """The choice of maps, for `attention`. Raises `UsageError` for ranges outside the model."""
        config = pipeline.model.config
        layers = None if self.layer is None else parse_ranges(self.layer, config.num_layers, "layer")
        heads = None if self.head is None else parse_ranges(self.head, config.num_heads, "head")
        return {"layers": layers, "heads": heads, "mean": self.mean, "drop_sink": self.drop_sink}

    def generation(self) -> dict[str, Any]:
        """The generation, for `attention`; nothing where none is asked for."""
        if self.generate is None:
            return {}
        return {"max_tokens": self.generate, "temperature": self.temperature, "seed": self.seed}


# An option, and those that would change nothing beside it.
_ALONE = {
    "steps": ("top_heads", "token", "mean", "generate", "drop_sink", "scores", "rows", "cols", "pool"),
    "top_heads": ("token", "layer", "head", "mean", "scores", "drop_sink", "values", "rows", "cols", "pool", "verify"),
    "token": ("scores", "values", "rows", "pool", "verify"),
}
# An option, and the one without which it would change nothing.
_NEEDS = {"verify": "generate", "temperature": "generate", "seed": "temperature", "limit": "top_heads"}


def check_together(context: typer.Context) -> None:
    """Raises `UsageError` where an option was typed that would be ignored."""
    typed = typed_options(context)
    for name, others in _ALONE.items():
        for other in others:
            if name in typed and other in typed:
                raise UsageError(
                    f"{spelled(context, other)} does not go with {spelled(context, name)}", "leave one of the two out"
                )
    for name, needed in _NEEDS.items():
        if name in typed and needed not in typed:
            wanted = spelled(context, needed)
            raise UsageError(f"{spelled(context, name)} belongs to {wanted}", f"give {wanted} too")
