"""The composition: filters, then a draw from what they leave."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llmcli.errors import LlmcliError
from llmcli.sampling.chain import Place, filters
from llmcli.sampling.cuts import NEVER, next_mu
from llmcli.sampling.drawing import draw
from llmcli.sampling.rules import NO_RULES, TokenRules
from llmcli.sampling_params import SamplingParams


@dataclass(frozen=True, slots=True)
class Choice:
    """A chosen token, and what its probabilities are computed from when asked for."""

    id: int
    _logits: Tensor
    _prob: float | None
    _filtered: Tensor
    _candidates: NDArray[np.intp] | None

    @property
    def logprob(self) -> float:
        """The natural logarithm of its probability in the model's own distribution, before any filter."""
        return float(self.raw_logprobs()[self.id])

    @property
    def prob(self) -> float:
        """Its probability in the distribution that it was drawn from; for greedy, the model's own."""
        return math.exp(self.logprob) if self._prob is None else self._prob

    def raw_logprobs(self) -> Tensor:
        """Natural logarithms of all probabilities in the model's own distribution, (vocab) float64."""
        return self._logits.double().log_softmax(0)

    def filtered_logprobs(self) -> Tensor:
        """The same of the distribution after all filters, (vocab) float64: -inf where a token was cut. For greedy the
        one that the most probable token was taken from."""
        logprobs = self._filtered.double().log_softmax(0)
        if self._candidates is None:
            return logprobs
        whole = torch.full((self._logits.shape[0],), NEVER, dtype=torch.float64)
        whole[torch.from_numpy(self._candidates)] = logprobs
        return whole


class Sampler:
    """Chooses the tokens of one sequence. Between them it remembers nothing but the bound `mu` of mirostat."""

    def __init__(self, params: SamplingParams, rules: TokenRules = NO_RULES) -> None:
        self.params = params
        self.filters = filters(params, rules)
        self.mu = 2 * params.mirostat_tau
        self._mirostat = bool(params.mirostat) and not params.greedy
        reading = [index for index, each in enumerate(self.filters) if each.reads_text]
        self._blind_from = reading[-1] + 1 if reading else 0

    def choose(
        self, logits: Tensor, ids: Sequence[int], uniform: float, *, new: int = 0, chance: float = 0.0
    ) -> Choice:
        """The token that follows `ids`, the last `new` of which were generated. logits (vocab) float32 of any device.

        `uniform` in [0, 1) is for the draw, unused by greedy, `chance` for the filters that act by chance. Raises
        `LlmcliError` where the logits hold NaN or +inf, or nothing but -inf, or where rules forbid every token.
        """
        logits = _checked(logits)
        filtered, candidates = self._filtered(logits, Place(ids, new, chance, self.mu))
        if self.params.greedy:
            return Choice(int(filtered.numpy().argmax()), logits, None, filtered, None)
        index, prob = draw(filtered, uniform)
        if self._mirostat:
            self.mu = next_mu(self.mu, prob, self.params.mirostat_tau, self.params.mirostat_eta)
        return Choice(index if candidates is None else int(candidates[index]), logits, prob, filtered, candidates)

    def filtered(self, logits: Tensor, ids: Sequence[int], *, new: int) -> Tensor:
        """What all filters leave, each id in its place, -inf where one was cut; arguments and errors as in `choose`."""
        logits, place = _checked(logits), Place(ids, new, mu=self.mu)
        for each in self.filters:
            logits = each(logits, place)
        return logits

    def _filtered(self, logits: Tensor, place: Place) -> tuple[Tensor, NDArray[np.intp] | None]:
        """The logits after all filters, and which ids they belong to, ascending; None: all, in their places.

        Once few candidates are left, and no filter looks for ids any more, the others are dropped, since what follows
        then costs next to nothing.
        """
        candidates: NDArray[np.intp] | None = None
        for index, each in enumerate(self.filters):
            logits = each.apply(logits, place)
            if candidates is None and index >= self._blind_from and not each.moves:
                kept = np.flatnonzero(logits.numpy() > NEVER)
                if len(kept) <= logits.shape[0] // 4:
                    candidates, logits = kept, torch.from_numpy(logits.numpy()[kept])
        return logits, candidates


def _checked(logits: Tensor) -> Tensor:
    """Logits as filters take them. Raises `LlmcliError` for NaN, +inf, and nothing but -inf."""
    logits = logits.detach().float().cpu()
    array = logits.numpy()
    if not math.isfinite(array[array.argmax()]):  # a NaN, where there is one
        raise LlmcliError(
            "the model computed logits that are not finite numbers",
            "its weights are damaged, or do not fit the dtype that it is computed in",
        )
    return logits
