"""What a head does, by name: where the mass of its attention weights lies, and how spread it is.

Each pattern is a set of keys for every query, and its strength the mean share of a query's weights that lies there; of
`uniform`, how near the weights are to equal ones. The sets do not overlap, so that strengths can be compared: what the
first token, the token before or the query itself explains is counted for nothing else. The first two queries have no
choice to speak of and are left out.
"""

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Pattern = Literal["previous token", "first-token sink", "induction", "same token", "uniform", "diagonal"]
PATTERNS: tuple[Pattern, ...] = get_args(Pattern)

MEANINGS: dict[Pattern, str] = {
    "previous token": "the token just before the query",
    "first-token sink": "the first token of the text",
    "induction": "the token that followed an earlier occurrence of the query's token",
    "same token": "an earlier occurrence of the query's token",
    "uniform": "all visible tokens alike",
    "diagonal": "the query's own token",
}

_FIRST_QUERY = 2
_FEWEST_ROWS = 2  # of a pattern that depends on which tokens there are: one row says nothing of a head

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]


class PatternSums:
    """Entropies and strengths of all heads of a model, added up over rows of attention weights as they come."""

    def __init__(self, ids: list[int], layers: int, heads: int) -> None:
        """`ids` may grow while rows come: those of a generation do."""
        self._ids = ids
        self._entropy = np.zeros((layers, heads))
        self._mass = np.zeros((len(PATTERNS), layers, heads))
        self._rows = np.zeros((len(PATTERNS), layers, 1))
        self._queries = np.zeros((layers, 1))

    def clear(self) -> None:
        """Forget all rows."""
        for each in (self._entropy, self._mass, self._rows, self._queries):
            each[:] = 0

    def add(self, layer: int, heads: slice, weights: Floats, first_query: int, reach: int | None) -> None:
        """Rows of some heads: weights (heads, queries, keys), keys from token 0 on, queries from `first_query` on.

        `reach` is how many tokens a query of this layer sees, None for all. A layer's heads may come one by one, the
        rows of each in the same parts: rows are counted with head 0.
        """
        count = heads.start == 0
        self._entropy[layer, heads] += entropies(weights).sum(axis=-1)
        self._queries[layer] += weights.shape[1] if count else 0
        skip = max(0, _FIRST_QUERY - first_query)
        weights, first_query = weights[:, skip:], first_query + skip
        if weights.shape[1] == 0:
            return
        targets = target_keys(self._ids, first_query, weights.shape[1], weights.shape[2])
        for i, pattern in enumerate(PATTERNS):
            if pattern == "uniform":
                mass = _evenness(weights, first_query, reach).sum(axis=-1)
                rows = weights.shape[1]
            else:
                mass = np.einsum("hqk,qk->h", weights, targets[pattern].astype(np.float32))
                rows = int(targets[pattern].any(axis=-1).sum())
            self._mass[i, layer, heads] += mass
            self._rows[i, layer] += rows if count else 0

    @property
    def entropy(self) -> NDArray[np.float64]:
        """(layers, heads): mean over all queries of the entropy of their weights, bits."""
        return self._entropy / np.maximum(self._queries, 1)

    @property
    def strengths(self) -> dict[Pattern, NDArray[np.float64]]:
        """Pattern -> (layers, heads), 0 to 1; 0 where the text has too few rows for it."""
        enough = self._rows >= np.where(np.isin(PATTERNS, ("induction", "same token")), _FEWEST_ROWS, 1)[:, None, None]
        means = np.where(enough, self._mass / np.maximum(self._rows, 1), 0.0)
        return dict(zip(PATTERNS, np.clip(means, 0, 1), strict=True))

    def best(self) -> list[list[tuple[Pattern | None, float]]]:
        """For every layer and head the strongest pattern and its strength; None for a text of fewer than 3 tokens."""
        strengths = np.stack(list(self.strengths.values()))
        which = strengths.argmax(axis=0)
        known = self._rows.any()
        return [
            [(PATTERNS[i] if known else None, float(strengths[i, layer, head])) for head, i in enumerate(row)]
            for layer, row in enumerate(which)
        ]


def entropies(weights: NDArray[np.floating]) -> NDArray[np.float64]:
    """-sum w log2 w over the last axis, bits; 0 for weight 0."""
    logs = np.log2(weights, out=np.zeros_like(weights), where=weights > 0)
    result: NDArray[np.float64] = 0.0 - np.einsum("...k,...k->...", weights, logs).astype(np.float64)
    return np.maximum(result, 0.0)


def target_keys(ids: list[int], first_query: int, queries: int, keys: int) -> dict[Pattern, Bools]:
    """For every pattern but `uniform` the keys that it puts each query on: (queries, keys)."""
    tokens = np.asarray(ids[:keys])
    query = np.arange(first_query, first_query + queries)[:, None]
    key = np.arange(keys)[None]
    earlier = (key > 0) & (key < query - 1)
    before = np.concatenate([[-1], tokens[:-1]])
    own = np.asarray(ids[first_query : first_query + queries])[:, None]
    return {
        "previous token": key == query - 1,
        "first-token sink": np.broadcast_to(key == 0, (queries, keys)),
        "induction": earlier & (before[None] == own),
        "same token": earlier & (tokens[None] == own) & (before[None] != own),
        "diagonal": key == query,
    }


def _evenness(weights: Floats, first_query: int, reach: int | None) -> NDArray[np.float64]:
    """How much of each row equal weights on all visible tokens would hold too: (heads, queries).

    sum_j min(w_j, 1/k) over the k visible keys, stretched so that all weight on one token is 0 and equal weights are 1.
    """
    seen = np.arange(first_query, first_query + weights.shape[1]) + 1
    even = (1.0 / (seen if reach is None else np.minimum(seen, reach))).astype(np.float32)
    shared = np.minimum(weights, even[:, None]).sum(axis=-1, dtype=np.float64)
    result: NDArray[np.float64] = (shared - even) / np.maximum(1 - even, 1e-9)
    return result
