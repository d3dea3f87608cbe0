"""Several sequences decoded together: ids from ids, like `generation`, with one forward pass a step for all of them.

Reading the weights is what a decode step costs, so many rows cost little more than one. The batch is continuous: a
sequence leaves as soon as it ends, and the next one that waits enters in its row. Each sequence draws by itself, from
its own logits and random numbers, and so gets the ids that it gets alone.
"""

from collections.abc import Callable, Iterable, Iterator
from collections.abc import Sequence as PythonSequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llmcli.generation import Drawn, Sequence, check_ids
from llmcli.model.batch_cache import BatchCache, RowCopy
from llmcli.model.transformer import CausalLM

BATCH_SIZE = 32

# Texts are read side by side as long as these hold: a pass takes so many tokens at most (one text may be longer), and
# the longest text in it is not much longer than the shortest, since the columns behind a text are computed for nothing.
_PASS_TOKENS = 2048
_UNEVEN, _UNEVEN_TOKENS = 1.25, 8

Ids = tuple[int, ...]


def generate_batch(
    model: CausalLM,
    prompts: PythonSequence[list[int]],
    begin: Callable[[int], Sequence],
    *,
    size: int = BATCH_SIZE,
) -> Iterator[tuple[int, Drawn]]:
    """The new tokens of sequences that continue `prompts`, at most `size` of them under way at once, as they are drawn:
    each with the number of its prompt.

    `begin` makes sequence i from prompt i when its turn comes. A sequence that was ended from outside (`Sequence.end`)
    is not continued. Equal prompts that follow each other are read once. Raises `UsageError` for ids that the model
    does not have.
    """
    for prompt in prompts:
        check_ids(prompt, model.config.vocab_size)
    yield from _Batch(model, prompts, begin, min(size, len(prompts))).run()


@dataclass(frozen=True)
class _Read:
    """A text that was read: what its row held then, and the logits (vocab) at its end."""

    ids: Ids
    row: RowCopy
    logits: Tensor


class _Batch:
    """The rows under way. Row i of the cache belongs to `_rows[i]`; finished ones stay until the next `_fill`."""

    def __init__(
        self,
        model: CausalLM,
        prompts: PythonSequence[list[int]],
        begin: Callable[[int], Sequence],
        size: int,
    ) -> None:
        self._model = model
        self._prompts = prompts
        self._begin = begin
        self._size = size
        self._next = 0
        self._rows: list[tuple[int, Sequence]] = []
        self._cache = model.new_rows(size)
        self._kept: _Read | None = None

    def run(self) -> Iterator[tuple[int, Drawn]]:
        while True:
            yield from self._fill()
            if not self._rows:
                return
            if outgrown := self._outgrown():
                yield from self._draw(outgrown, self._read(outgrown))
            else:
                yield from self._draw(range(len(self._rows)), decode_rows(self._model, self._cache, self._last_ids()))

    def _draw(self, rows: Iterable[int], logits: Iterable[Tensor]) -> Iterator[tuple[int, Drawn]]:
        for row, each in zip(rows, logits, strict=True):
            number, sequence = self._rows[row]
            yield number, sequence.advance(each)

    def _last_ids(self) -> list[int]:
        return [sequence.ids[-1] for _, sequence in self._rows]

    def _outgrown(self) -> list[int]:
        """Rows whose next token changes the angles of all earlier keys, so that they are to be read again."""
        lengths = ((row, self._cache.lengths[row], len(each.ids)) for row, (_, each) in enumerate(self._rows))
        return [row for row, old, new in lengths if self._model.must_recompute(old, new)]

    def _fill(self) -> Iterator[tuple[int, Drawn]]:
        """Lets waiting sequences in until all rows are taken by unfinished ones, or none waits; draws their first
        tokens."""
        while True:
            free = [row for row, (_, sequence) in enumerate(self._rows) if sequence.finish_reason is not None]
            free += range(len(self._rows), self._size)
            entering = self._take(len(free))
            if not entering:
                break
            rows = free[: len(entering)]
            for row, each in zip(rows, entering, strict=True):
                self._rows[row : row + 1] = [each]
            yield from self._draw(rows, self._read(rows))
        self._close_up()

    def _take(self, count: int) -> list[tuple[int, Sequence]]:
        """The next sequences that have something to generate."""
        taken: list[tuple[int, Sequence]] = []
        while len(taken) < count and self._next < len(self._prompts):
            number, self._next = self._next, self._next + 1
            sequence = self._begin(number)
            if sequence.finish_reason is None:
                taken.append((number, sequence))
        return taken

    def _close_up(self) -> None:
        """Moves the last rows to where finished ones lie."""
        for row in reversed(range(len(self._rows))):
            if self._rows[row][1].finish_reason is not None:
                last = self._rows.pop()
                if row < len(self._rows):
                    self._rows[row] = last
                    self._cache.put(row, self._cache.copy(len(self._rows)))

    def _read(self, rows: PythonSequence[int]) -> list[Tensor]:
        """Reads the texts of rows from the beginning, equal ones once; the logits (vocab) at the end of each."""
        places: dict[Ids, list[int]] = {}
        for row in rows:
            places.setdefault(tuple(self._rows[row][1].ids), []).append(row)
        kept = self._kept
        new = [ids for ids in places if kept is None or ids != kept.ids]
        logits = read_rows(self._model, self._cache, [(places[ids][0], ids) for ids in new])
        ends = dict(zip(new, logits, strict=True))
        for ids, taken in places.items():
            if kept is not None and ids == kept.ids:
                ends[ids] = kept.logits
                self._put(kept, taken)
            elif len(taken) > 1 or self._comes_again(ids):
                self._kept = _Read(ids, self._cache.copy(taken[0]), ends[ids])
                self._put(self._kept, taken[1:])
        if self._kept is not None and not self._comes_again(self._kept.ids):
            self._kept = None
        return [ends[tuple(self._rows[row][1].ids)] for row in rows]

    def _put(self, read: _Read, rows: Iterable[int]) -> None:
        for row in rows:
            self._cache.put(row, read.row)

    def _comes_again(self, ids: Ids) -> bool:
        return self._next < len(self._prompts) and tuple(self._prompts[self._next]) == ids


@torch.inference_mode()
def decode_rows(model: CausalLM, cache: BatchCache, ids: list[int]) -> Tensor:
    """Feeds each row of the cache its next id; logits (rows, vocab) float32."""
    device = _device(model)
    step = cache.decoding(len(ids), device)
    new = torch.tensor(ids, dtype=torch.int64, device=device)[:, None]
    logits: Tensor = model(new, step, positions=step.positions, visible=step.visible)[:, 0]
    return logits.cpu()


@torch.inference_mode()
def read_rows(model: CausalLM, cache: BatchCache, texts: list[tuple[int, Ids]]) -> list[Tensor]:
    """Reads texts into rows of the cache, whatever these held; texts (row, ids). Logits (vocab) float32 at the end of
    each."""
    device = _device(model)
    ends: dict[int, Tensor] = {}
    for group in _side_by_side(texts):
        lengths = [len(ids) for _, ids in group]
        step = cache.entering([row for row, _ in group], lengths, device)
        padded = torch.zeros(len(group), max(lengths), dtype=torch.int64)
        for text, (_, ids) in enumerate(group):
            padded[text, : len(ids)] = torch.tensor(ids)
        hidden = model.hidden_states(padded.to(device), step, positions=step.positions)
        last = hidden[torch.arange(len(group)), torch.tensor(lengths) - 1]
        ends.update(zip((row for row, _ in group), model.logits(last).cpu(), strict=True))
    return [ends[row] for row, _ in texts]


def _side_by_side(texts: list[tuple[int, Ids]]) -> Iterator[list[tuple[int, Ids]]]:
    """Texts of much the same length together, as many as one pass takes."""
    group: list[tuple[int, Ids]] = []
    for row, ids in sorted(texts, key=lambda each: len(each[1])):
        even = group and len(ids) <= _UNEVEN * len(group[0][1]) + _UNEVEN_TOKENS
        if group and not (even and len(ids) * (len(group) + 1) <= _PASS_TOKENS):
            yield group
            group = []
        group.append((row, ids))
    if group:
        yield group


def _device(model: CausalLM) -> torch.device:
    return next(model.parameters()).device
