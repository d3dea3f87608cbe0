"""Attention as data: the JSON document and the table of every form of the view."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from llmcli.render.export import Table

if TYPE_CHECKING:
    from llmcli.inspect.attention import Attention, AttentionMap, HeadSummary
    from llmcli.inspect.steps import HeadSteps

SCHEMA_VERSION = 1


def attention_document(found: "Attention", model: str, dtype: str) -> dict[str, Any]:
    """What `schemas/inspect-attention.json` describes."""
    return {
        "schema_version": SCHEMA_VERSION,
        "model": model,
        "dtype": dtype,
        "tokens": [{"id": token.id, "piece": token.piece} for token in found.tokens],
        "heads": [_head(each) for each in found.heads],
        "maps": [_map(found, each) for each in found.maps],
    }


def _head(head: "HeadSummary") -> dict[str, Any]:
    return {
        "layer": head.layer,
        "head": head.head,
        "kv_head": head.kv_head,
        "entropy": head.entropy,
        "pattern": head.pattern,
        "strength": head.strength,
    }


def _map(found: "Attention", drawn: "AttentionMap") -> dict[str, Any]:
    entry: dict[str, Any] = {
        "layer": drawn.layer,
        "head": drawn.head,
        "kv_head": drawn.kv_head,
        "weights": drawn.weights,
        "row_sums": drawn.row_sums,
    }
    if drawn.scores is not None:
        entry["scores"] = drawn.scores
    if drawn.sink is not None:
        entry["sink"] = drawn.sink
    if found.generated:
        entry["queries"] = list(range(len(found.fed)))
    return entry


def ranking_data(ranking: "Sequence[tuple[HeadSummary, float]]", by: str) -> dict[str, Any]:
    """The field `ranking`: by what, and the heads in order."""
    heads = [
        {"layer": head.layer, "head": head.head, "kv_head": head.kv_head, "value": value} for head, value in ranking
    ]
    return {"by": by, "heads": heads}


def steps_data(steps: "HeadSteps") -> dict[str, Any]:
    """The field `steps`: every tensor in order; a masked score is null."""
    return {
        "layer": steps.layer,
        "head": steps.head,
        "kv_head": steps.kv_head,
        "head_dim": steps.head_dim,
        "scale": steps.scale,
        "tensors": [
            {
                "name": step.name,
                "operation": step.operation,
                "shape": list(step.values.shape),
                "values": _finite(step.values),
            }
            for step in steps.steps
        ],
        "scaled": {"std": steps.scaled.std, "entropy": steps.scaled.entropy},
        "unscaled": {"std": steps.unscaled.std, "entropy": steps.unscaled.entropy},
    }


def _finite(values: NDArray[np.float32]) -> Any:
    if not np.isnan(values).any():
        return values
    return [[None if np.isnan(each) else each for each in row] for row in values]


def maps_table(found: "Attention") -> Table:
    """One line for each visible pair of each map."""
    some = found.maps[0]
    header = ["layer", "head", "kv_head", "query", "key", "weight"]
    header += ["score"] if some.scores is not None else []
    header += ["sink"] if some.sink is not None else []
    return header, (row for drawn in found.maps for row in _rows(drawn))


def _rows(drawn: "AttentionMap") -> Iterator[list[Any]]:
    name = [drawn.layer, drawn.head, drawn.kv_head]
    # Scores exist for masked pairs too; without them only what a query sees is worth a line.
    pairs = (
        np.ndindex(drawn.weights.shape) if drawn.scores is not None else zip(*np.nonzero(drawn.visible), strict=True)
    )
    for query, key in pairs:
        row = [*name, int(query), int(key), drawn.weights[query, key]]
        row += [drawn.scores[query, key]] if drawn.scores is not None else []
        row += [drawn.sink[query]] if drawn.sink is not None else []
        yield row


def ranking_table(ranking: "Sequence[tuple[HeadSummary, float]]") -> Table:
    return ["layer", "head", "kv_head", "value"], [[h.layer, h.head, h.kv_head, value] for h, value in ranking]


def steps_table(steps: "HeadSteps") -> Table:
    """One line for each number of each tensor."""
    rows = (
        [step.name, row, column, "" if np.isnan(value) else value]
        for step in steps.steps
        for (row, column), value in np.ndenumerate(step.values)
    )
    return ["tensor", "row", "column", "value"], rows


def token_table(drawn: "AttentionMap", query: int) -> Table:
    """One line for each key that a query sees."""
    keys = np.flatnonzero(drawn.visible[query])
    return ["query", "key", "weight"], [[query, int(key), drawn.weights[query, key]] for key in keys]
