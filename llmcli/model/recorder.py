"""`Recorder`: the tap that keeps chosen tensors of a forward pass."""

from collections.abc import Collection, Iterable, Mapping

from torch import Tensor

from llmcli.model.tap import POINTS


class Recorder:
    """Keeps the tensors of the chosen points, by (point, layer), one entry for each forward pass.

    `points` are names out of `tap.POINTS`; `heads` the query heads whose `scores` and `weights` are wanted, by layer.
    Only what is asked for is computed and kept; the model runs on as without it. Nothing of a recorder stays in the
    model: it is an argument of one call.

        recorder = Recorder({"block"}, {3: [0, 5]})
        model(ids, tap=recorder)
        recorder["block", 3]      # (batch, queries, hidden)
        recorder["weights", 3]    # (batch, 2, queries, keys): heads 0 and 5, ascending
    """

    def __init__(self, points: Iterable[str], heads: Mapping[int, Collection[int]] | None = None) -> None:
        self.points = frozenset(points)
        unknown = self.points - set(POINTS)
        if unknown:
            raise ValueError(f"no such point: {sorted(unknown)[0]}")
        self._heads = dict(heads or {})
        self.passes: dict[tuple[str, int], list[Tensor]] = {}

    def __call__(self, point: str, layer: int, value: Tensor) -> Tensor:
        if point in self.points:
            self.passes.setdefault((point, layer), []).append(value.detach())
        return value

    def heads(self, layer: int) -> Collection[int] | None:
        return self._heads.get(layer) if self.points & {"scores", "weights"} else None

    def __getitem__(self, key: tuple[str, int]) -> Tensor:
        """The tensor of the last forward pass. KeyError where it was not recorded."""
        return self.passes[key][-1]

    def __contains__(self, key: object) -> bool:
        return key in self.passes
