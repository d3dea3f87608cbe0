"""From logits to one token: filters in one documented order, then one draw.

    repetition penalty -> temperature -> top-k -> typical -> top-p -> min-p -> draw

Each filter is a pure function: logits (candidates) float32 in, the same shape out, -inf where a candidate is cut. At
least one candidate always stays. Equal logits rank by position, the first one highest, so a result never depends on
how a sort happened to order them. Temperature 0 takes the most probable token and needs no random number.

Each position of each sequence has a random number of its own (`Uniforms`), and the draw walks the candidates in the
order of their ids: the same logits at the same position give the same token, whatever else is computed beside them.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llmcli.errors import LlmcliError
from llmcli.sampling_params import SamplingParams

NEVER = float("-inf")

# The ids of the text so far, prompt included, are what a penalty looks at; the other filters read the logits alone.
Filter = Callable[[Tensor, Sequence[int]], Tensor]


def repetition_penalty(logits: Tensor, ids: Sequence[int], penalty: float) -> Tensor:
    """Logits of tokens in `ids` divided by `penalty` where positive, multiplied where negative (Keskar et al. 2019,
    CTRL, arXiv:1909.05858, with the sign handled as `transformers` does). logits (vocab), ids are indices into it."""
    seen = torch.tensor(sorted(set(ids)), dtype=torch.int64)
    scores = logits[seen]
    out = logits.clone()
    out[seen] = torch.where(scores > 0, scores / penalty, scores * penalty)
    return out


def temperature(logits: Tensor, value: float) -> Tensor:
    """(logits - max) / value: softmax sharpened below 1, flattened above. The shift keeps small values finite."""
    return (logits - logits.amax()).div_(value)


def top_k(logits: Tensor, k: int) -> Tensor:
    """The k most probable candidates stay, exactly k; of equals at the edge the first ones."""
    if k <= 0 or k >= logits.shape[0]:
        return logits
    values, kept = logits.topk(k + 1)
    edge = values[k - 1]
    kept = kept[:k]
    if edge == values[k]:  # a tie across the edge: topk's own choice among equals is arbitrary
        above = (logits > edge).nonzero()[:, 0]
        kept = torch.cat((above, (logits == edge).nonzero()[: k - above.shape[0], 0]))
    return torch.full_like(logits, NEVER).scatter_(0, kept, logits[kept])


def typical(logits: Tensor, mass: float) -> Tensor:
    """Candidates whose surprise -log p is nearest the entropy stay, the fewest whose mass reaches `mass` (Meister et
    al. 2022, Locally Typical Sampling, arXiv:2202.00666)."""
    if mass >= 1:
        return logits
    logp = logits.double().log_softmax(0)
    p = logp.exp()
    entropy = -(p * logp.clamp(min=torch.finfo(torch.float64).min)).sum()
    order = (logp + entropy).abs().argsort(stable=True)
    count = _reaching(p[order].numpy(), mass)
    return _only(logits, order[:count])


def top_p(logits: Tensor, mass: float) -> Tensor:
    """The fewest most probable candidates whose mass reaches `mass` stay, at least one (Holtzman et al. 2020, The
    Curious Case of Neural Text Degeneration, arXiv:1904.09751).

    Without sorting all: positive floats order like their bits, so the probabilities' upper bits are buckets in order;
    the mass of each tells the one in which `mass` is reached, and only that one is sorted.
    """
    if mass >= 1:
        return logits
    p: NDArray[np.float32] = logits.softmax(0).numpy()
    bucket = p.view(np.int32) >> 18  # 32 buckets an octave
    lowest = int(bucket.min())
    masses = np.bincount(bucket - lowest, weights=p)
    from_top = np.cumsum(masses[::-1])[::-1]  # mass of a bucket and all above it
    target = mass * from_top[0]
    edge = int(np.flatnonzero(from_top >= target)[-1])
    above = from_top[edge + 1] if edge + 1 < len(from_top) else 0.0
    inside = np.flatnonzero(bucket == edge + lowest)
    inside = inside[np.argsort(-p[inside], kind="stable")]
    inside = inside[: _reaching(p[inside].astype(np.float64), target - above)]
    kept = bucket > edge + lowest
    kept[inside] = True
    return torch.where(torch.from_numpy(kept), logits, NEVER)


def min_p(logits: Tensor, fraction: float) -> Tensor:
    """Candidates at least `fraction` times as probable as the most probable one stay (Nguyen et al. 2024,
    arXiv:2407.01082)."""
    if fraction <= 0:
        return logits
    return torch.where(logits >= logits.amax() + math.log(fraction), logits, NEVER)


def _reaching(p: NDArray[np.float64], mass: float) -> int:
    """How many of the first entries it takes for their sum to reach `mass`: at least 1, at most all."""
    return min(int(np.searchsorted(np.cumsum(p), mass)) + 1, len(p))


def _only(logits: Tensor, kept: Tensor) -> Tensor:
    return torch.full_like(logits, NEVER).scatter_(0, kept, logits[kept])


# Filters that move logits and cut none.
MOVING = ("repetition-penalty", "temperature")


def filters(params: SamplingParams) -> list[tuple[str, Filter]]:
    """The filters that `params` asks for, by name, in the documented order; none of them changes nothing."""
    chain: list[tuple[str, Filter]] = []
    if params.repetition_penalty != 1:
        chain.append(("repetition-penalty", lambda x, ids: repetition_penalty(x, ids, params.repetition_penalty)))
    if params.greedy:
        return chain
    if params.temperature != 1:
        chain.append(("temperature", lambda x, _: temperature(x, params.temperature)))
    if params.top_k > 0:
        chain.append(("top-k", lambda x, _: top_k(x, params.top_k)))
    if params.typical_p < 1:
        chain.append(("typical", lambda x, _: typical(x, params.typical_p)))
    if params.top_p < 1:
        chain.append(("top-p", lambda x, _: top_p(x, params.top_p)))
    if params.min_p > 0:
        chain.append(("min-p", lambda x, _: min_p(x, params.min_p)))
    return chain


class Uniforms:
    """One random number in [0, 1) for each position of one sequence, by a seeded `torch.Generator` of its own.

    Number i depends on the seed and i alone, so a position can be drawn again, or out of turn.
    """

    _BLOCK = 64

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._drawn: list[float] = []

    def __getitem__(self, position: int) -> float:
        while position >= len(self._drawn):
            block = torch.rand(self._BLOCK, generator=self._generator, dtype=torch.float64)
            self._drawn.extend(block.tolist())
        return self._drawn[position]


@dataclass(frozen=True, slots=True)
class Choice:
    """A chosen token, and what its probabilities are computed from when asked for."""

    id: int
    _logits: Tensor
    _prob: float | None

    @property
    def logprob(self) -> float:
        """The natural logarithm of its probability in the model's own distribution, before any filter."""
        return float(self._logits.log_softmax(0)[self.id])

    @property
    def prob(self) -> float:
        """Its probability in the distribution that it was drawn from; for greedy, the model's own."""
        return math.exp(self.logprob) if self._prob is None else self._prob


class Sampler:
    """The composition: filters, then a draw from what they leave."""

    def __init__(self, params: SamplingParams) -> None:
        self.params = params
        chain = filters(params)
        self._filters = [each for _, each in chain]
        self._cutting = {each for name, each in chain if name not in MOVING}

    def choose(self, logits: Tensor, ids: Sequence[int], uniform: float) -> Choice:
        """The token that follows `ids`. logits (vocab) float32 of any device; `uniform` in [0, 1), unused by greedy.

        Raises `LlmcliError` where the logits hold NaN or +inf, or nothing but -inf.
        """
        logits = logits.detach().float().cpu()
        best = int(logits.numpy().argmax())  # a NaN, where there is one
        if not math.isfinite(float(logits[best])):
            raise LlmcliError(
                "the model computed logits that are not finite numbers",
                "its weights are damaged, or do not fit the dtype that it is computed in",
            )
        filtered, candidates = self._filtered(logits, ids)
        if self.params.greedy:
            return Choice(int(filtered.numpy().argmax()), logits, None)
        index, prob = draw(filtered, uniform)
        return Choice(index if candidates is None else int(candidates[index]), logits, prob)

    def _filtered(self, logits: Tensor, ids: Sequence[int]) -> tuple[Tensor, NDArray[np.intp] | None]:
        """The logits after all filters, and which ids they belong to, ascending; None: all, in their places.

        Once few candidates are left the others are dropped, since what follows then costs next to nothing.
        """
        candidates: NDArray[np.intp] | None = None
        for each in self._filters:
            logits = each(logits, ids)
            if candidates is None and each in self._cutting:
                kept = np.flatnonzero(logits.numpy() > NEVER)
                if len(kept) <= logits.shape[0] // 4:
                    candidates, logits = kept, logits[torch.from_numpy(kept)]
        return logits, candidates


_ROW = 256


def draw(logits: Tensor, uniform: float) -> tuple[int, float]:
    """The candidate in whose share of softmax(logits) `uniform` falls, laid end to end, and that share.

    logits (candidates), some finite; uniform in [0, 1). Never a candidate of probability 0. The sums are taken row by
    row in double precision, so that only one row has to be walked.
    """
    n = logits.shape[0]
    shares = np.zeros(-(-n // _ROW) * _ROW, dtype=np.float32)
    np.exp((logits - logits.amax()).numpy(), out=shares[:n])
    rows = shares.reshape(-1, _ROW)
    ends = np.cumsum(rows.sum(axis=1, dtype=np.float64))
    total = float(ends[-1])
    row, target = _walk(ends, uniform * total)
    inside = np.cumsum(rows[row], dtype=np.float64)
    index, _ = _walk(inside, target)
    return row * _ROW + index, float(rows[row, index]) / total


def _walk(ends: NDArray[np.float64], target: float) -> tuple[int, float]:
    """Which of the stretches that end at `ends` holds `target`, and how far into it. Never an empty stretch, also
    where rounding has brought the target to the very end."""
    target = min(target, math.nextafter(float(ends[-1]), 0.0))
    index = int(np.searchsorted(ends, target, side="right"))
    return index, target - (float(ends[index - 1]) if index else 0.0)
