"""What is told of single tokens: a bias, texts that may not be completed, what breaks a repetition, what ends a text.

Nothing here knows a tokenizer: whoever makes the rules says what every id stands for.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llmcli.errors import LlmcliError
from llmcli.sampling.cuts import NEVER


class Ban:
    """A text, as bytes, that no token may complete, however the text so far and the token cut it between them.

    `pieces` holds the bytes that each id stands for. That is stricter than bad_words_ids of transformers, which cuts
    the last id of one row of ids: here every row of ids that spells the text is kept from its end.
    """

    def __init__(self, text: bytes, pieces: Sequence[bytes]) -> None:
        self._text, self._pieces = text, pieces
        # ends[k]: the ids that complete the text where its first k bytes are there already.
        self._ends = [[i for i, piece in enumerate(pieces) if text in piece]]
        begins: dict[int, list[int]] = {}
        for i, piece in enumerate(pieces):
            if piece:
                begins.setdefault(piece[0], []).append(i)
        for k in range(1, len(text)):
            rest = text[k:]
            self._ends.append([i for i in begins.get(rest[0], ()) if pieces[i].startswith(rest)])

    def completing(self, ids: Sequence[int]) -> set[int]:
        """The ids that would complete the text after `ids`."""
        tail = b""
        for each in reversed(ids):
            if len(tail) >= len(self._text) - 1:
                break
            tail = self._pieces[each] + tail
        found = set(self._ends[0])
        for k in range(1, len(self._text)):
            if self._ends[k] and tail.endswith(self._text[:k]):
                found.update(self._ends[k])
        return found


@dataclass(frozen=True)
class Breakers:
    """Rows of tokens that a repetition does not reach over: the first token -> what may follow it, () alone."""

    rows: Mapping[int, tuple[tuple[int, ...], ...]] = field(default_factory=dict)

    def breaks(self, token: int) -> bool:
        """Whether a token breaks by itself."""
        return () in self.rows.get(token, ())

    def since_last(self, ids: Sequence[int]) -> int:
        """How many tokens stand behind the last row in `ids`; all where there is none. Of rows that begin with one
        token the longest counts."""
        size = len(ids)
        if not self.rows:
            return size
        for back in range(size):
            rows = self.rows.get(ids[size - 1 - back])
            if rows is None:
                continue
            fitting = [each for each in rows if tuple(ids[size - back : size - back + len(each)]) == each]
            if fitting:
                return back - max(map(len, fitting))
        return size


class Constraint(Protocol):
    """What a whole text has to be. `ids` are the text so far, prompt included, the last `new` of them generated; the
    answers depend on nothing else."""

    def allowed(self, ids: Sequence[int], new: int) -> NDArray[np.bool_]:
        """(vocab) which ids may follow. Raises `LlmcliError` where none may."""
        ...

    def complete(self, ids: Sequence[int], new: int) -> bool:
        """Whether the generated text may end here."""
        ...

    def closed(self, ids: Sequence[int], new: int) -> bool:
        """Whether it is complete, and nothing can follow."""
        ...


@dataclass(frozen=True)
class TokenRules:
    """Rules of one run. `bias` is added to the logits of ids, `ends` may not be drawn before `min_tokens`,
    `constraint` holds the whole text to something."""

    bias: Mapping[int, float] = field(default_factory=dict)
    bans: tuple[Ban, ...] = ()
    breakers: Breakers = field(default_factory=Breakers)
    ends: frozenset[int] = frozenset()
    constraint: Constraint | None = None


NO_RULES = TokenRules()


def keep(logits: Tensor, mask: NDArray[np.bool_]) -> Tensor:
    """Logits with every token cut that a mask does not name. Both (vocab)."""
    return torch.where(torch.from_numpy(mask), logits, NEVER)


def logit_bias(logits: Tensor, bias: Mapping[int, float]) -> Tensor:
    """Logits plus each token's bias (the OpenAI API's logit_bias). logits (vocab)."""
    out = logits.clone()
    out[torch.tensor(list(bias), dtype=torch.int64)] += torch.tensor(list(bias.values()), dtype=out.dtype)
    return out


def forbid(logits: Tensor, ids: Collection[int]) -> Tensor:
    """Logits with those tokens cut. logits (vocab). Raises `LlmcliError` where that would leave none."""
    if not ids:
        return logits
    out = logits.clone()
    out[torch.tensor(list(ids), dtype=torch.int64)] = NEVER
    if out.amax() == NEVER:
        raise LlmcliError(
            "no token is left: --ban, --no-repeat-ngram, --min-tokens or a constraint forbids every one",
            "forbid less, or generate fewer tokens",
        )
    return out


def repeated_ngram_ends(ids: Sequence[int], size: int) -> set[int]:
    """The tokens that would make the last `size` tokens a row that `ids` holds already (no_repeat_ngram_size of
    transformers; Paulus et al. 2017, arXiv:1705.04304)."""
    head = tuple(ids[len(ids) - size + 1 :])
    if len(ids) < size:
        return set()
    return {ids[i + size - 1] for i in range(len(ids) - size + 1) if tuple(ids[i : i + size - 1]) == head}
