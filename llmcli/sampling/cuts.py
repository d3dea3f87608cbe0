"""Filters that read the logits alone: the temperature, and what cuts the improbable or the too probable."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

NEVER = float("-inf")


def temperature(logits: Tensor, value: float) -> Tensor:
    """(logits - max) / value: softmax sharpened below 1, flattened above. The shift keeps small values finite."""
    array = logits.numpy()
    shifted = array - array.max()
    with np.errstate(over="ignore"):  # infinitely improbable
        shifted /= value
    return torch.from_numpy(shifted)


def top_n_sigma(logits: Tensor, n: float) -> Tensor:
    """Candidates whose logit is within `n` standard deviations of the largest one stay (Tang et al. 2024, Top-nσ,
    arXiv:2411.07641; the deviation is that of the whole population, over the candidates left, as in llama.cpp).

    The temperature makes no difference to which these are.
    """
    if n <= 0:
        return logits
    values = logits.double()
    sigma = values[torch.isfinite(values)].std(correction=0)
    return torch.where(values >= values.amax() - n * sigma, logits, NEVER)


def top_k(logits: Tensor, k: int) -> Tensor:
    """The k most probable candidates stay, exactly k; of equals at the edge the first ones."""
    if k <= 0 or k >= logits.shape[0]:
        return logits
    array = logits.numpy()
    near = _nearest_top(array, k)
    values = array[near]
    edge = np.partition(values, -k)[-k]
    equal = near[values == edge]
    above = near[values > edge]
    kept = np.concatenate((above, equal[: k - len(above)]))
    cut = np.full_like(array, NEVER)
    cut[kept] = array[kept]
    return torch.from_numpy(cut)


def _nearest_top(values: NDArray[np.float32], k: int) -> NDArray[np.intp]:
    """Indices, ascending, of at least the k largest values and all equals of the last of them. Among the largest values
    of some blocks the k-th is no larger than the k-th of all: whatever is smaller cannot be wanted, and what is left is
    little more than k, for a quarter of the time of a partial sort."""
    width = len(values) // (4 * k)
    if width < 8:
        return np.arange(len(values))
    blocks = values[: len(values) // width * width].reshape(-1, width).max(axis=1)
    return np.flatnonzero(values >= np.sort(blocks)[-k])


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


def xtc(logits: Tensor, probability: float, threshold: float, chance: float) -> Tensor:
    """With the given probability, of the candidates at least as probable as `threshold` only the least probable stays,
    and all below them (p-e-w 2024, "Exclude Top Choices", github.com/oobabooga/text-generation-webui/pull/6335, as
    llama.cpp has it). `chance` is this position's own random number in [0, 1): it happens where it is smaller."""
    if chance >= probability:
        return logits
    p = logits.double().softmax(0)
    above = (p >= threshold).nonzero()[:, 0]
    if above.shape[0] < 2:
        return logits
    order = p[above].argsort(descending=True, stable=True)
    out = logits.clone()
    out[above[order[:-1]]] = NEVER
    return out


def mirostat(logits: Tensor, mu: float) -> Tensor:
    """Candidates whose surprise -log2 p is at most `mu` bits stay, at least the most probable one (Basu et al. 2021,
    Mirostat, arXiv:2007.14966, algorithm 2, which llama.cpp calls mirostat 2). What `mu` becomes afterwards is
    `next_mu`."""
    surprise = -logits.double().log_softmax(0) / math.log(2)
    kept = surprise <= mu
    kept[int(logits.argmax())] = True
    return torch.where(kept, logits, NEVER)


def next_mu(mu: float, prob: float, tau: float, eta: float) -> float:
    """The bound for the next token after one of probability `prob` was drawn: a step of `eta` against the error of
    its surprise. The probability is that in the distribution drawn from, as in llama.cpp. The first bound is 2 tau."""
    return mu - eta * (-math.log2(prob) - tau)


def _reaching(p: NDArray[np.float64], mass: float) -> int:
    """How many of the first entries it takes for their sum to reach `mass`: at least 1, at most all."""
    return min(int(np.searchsorted(np.cumsum(p), mass)) + 1, len(p))


def _only(logits: Tensor, kept: Tensor) -> Tensor:
    return torch.full_like(logits, NEVER).scatter_(0, kept, logits[kept])
