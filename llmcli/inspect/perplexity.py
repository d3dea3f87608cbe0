"""How well a model predicts text: the mean surprise of its tokens, over windows that slide along each document.

A text longer than the context is read in windows of `context` tokens that start `stride` tokens apart. Each token is
predicted once: in the first window that holds it. So a token sees all that came before it up to `context - stride`
tokens at least, or its whole document (https://huggingface.co/docs/transformers/perplexity).
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from llmcli.chunking import encode_stream
from llmcli.errors import UsageError
from llmcli.model.transformer import CausalLM

if TYPE_CHECKING:
    from llmcli.pipeline import Pipeline
    from llmcli.tokenizer import Tokenizer

_BATCH_TOKENS = 8192
"""Tokens that run through the model at once."""
_WAITING = 64
"""Windows that are sorted by length before they are batched, so that little is computed on padding."""
_LOGITS = 1 << 24
"""Logits that are held at once, in numbers."""


@dataclass(frozen=True)
class Window:
    """`ids` (tokens): the model reads all but the last and predicts all but the first; those from `scored` on count."""

    ids: list[int]
    scored: int


@dataclass
class Perplexity:
    """Sums over the predicted tokens; the figures follow from them."""

    nats: float = 0.0
    tokens: int = 0
    bytes: int = 0
    """UTF-8 bytes of all documents."""
    documents: int = 0

    @property
    def nats_per_token(self) -> float:
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        """exp of the nats per token; infinite past what a float holds."""
        return math.exp(self.nats_per_token) if self.nats_per_token < 700 else math.inf

    @property
    def bits_per_byte(self) -> float:
        return self.nats / math.log(2) / self.bytes


def measure(
    pipeline: "Pipeline",
    documents: Iterable[Iterator[str]],
    *,
    context: int,
    stride: int,
    progress: Callable[[Perplexity], None] = lambda _: None,
    notice: Callable[[str], None] = lambda _: None,
) -> Perplexity:
    """Predicts every token of the documents, each of which is read from the model's beginning-of-text id where it has
    one; without one the first token of each document is not predicted.

    Documents come as pieces of text and are never held whole; `progress` hears of the sums after each batch. Raises
    UsageError for a context or stride out of range, and where there is nothing to predict.
    """
    _check(pipeline.model, context, stride)
    total = Perplexity()
    waiting: list[Window] = []
    for document in documents:
        total.documents += 1
        for window in _windows(_ids(pipeline.tokenizer, _counted(document, total), notice), context, stride):
            waiting.append(window)
            if len(waiting) >= _WAITING:
                _run(pipeline.model, waiting, context, total, progress)
                waiting = []
    _run(pipeline.model, waiting, context, total, progress)
    if total.tokens == 0:
        raise UsageError("the text has no token that could be predicted", "give more text")
    return total


def _check(model: CausalLM, context: int, stride: int) -> None:
    declared = model.config.context_length
    if context > declared and model.config.learned_positions:
        raise UsageError(f"--context {context}: this model has {declared} learned positions", f"at most {declared}")
    if context < 1:
        raise UsageError(f"--context is {context}", "give a whole number of 1 or more")
    if not 1 <= stride <= context:
        raise UsageError(f"--stride is {stride}", f"give a whole number from 1 to the context, {context}")


def _counted(pieces: Iterable[str], total: Perplexity) -> Iterator[str]:
    for piece in pieces:
        total.bytes += len(piece.encode())
        yield piece


def _ids(tokenizer: "Tokenizer", pieces: Iterator[str], notice: Callable[[str], None]) -> Iterator[list[int]]:
    if tokenizer.bos_id is not None:
        yield [tokenizer.bos_id]
    yield from encode_stream(tokenizer, pieces, notice=notice)


def _windows(parts: Iterable[list[int]], context: int, stride: int) -> Iterator[Window]:
    """Windows over ids that come in parts."""
    held: list[int] = []
    scored = 1  # the first token of all has nothing before it
    for part in parts:
        held += part
        start = 0
        while len(held) - start > context:
            yield Window(held[start : start + context + 1], scored)
            # The next window starts `stride` on; what was predicted before counts no more.
            start, scored = start + stride, context + 1 - stride
        held = held[start:]
    if len(held) > scored:
        yield Window(held, scored)


def _run(
    model: CausalLM,
    windows: list[Window],
    context: int,
    total: Perplexity,
    progress: Callable[[Perplexity], None],
) -> None:
    # Where angles depend on the length of the text, a window must not be made longer than it is.
    exact = any(rope.kind in ("dynamic", "longrope") for rope in model.config.rope.values())
    windows = sorted(windows, key=lambda window: -len(window.ids))
    start = 0
    while start < len(windows):
        rows = 1 if exact else max(1, _BATCH_TOKENS // min(context, len(windows[start].ids)))
        batch = windows[start : start + rows]
        total.nats += _nats(model, batch)
        total.tokens += sum(len(window.ids) - window.scored for window in batch)
        start += rows
        progress(total)


@torch.inference_mode()
def _nats(model: CausalLM, windows: list[Window]) -> float:
    """Nats summed over the scored tokens of all windows. Padding on the right is seen by no token before it."""
    device = next(model.parameters()).device
    longest = max(len(window.ids) for window in windows)
    rows = torch.tensor([window.ids + [0] * (longest - len(window.ids)) for window in windows], device=device)
    place = torch.arange(1, longest, device=device)
    first = torch.tensor([window.scored for window in windows], device=device)[:, None]
    end = torch.tensor([len(window.ids) for window in windows], device=device)[:, None]
    counts = (place >= first) & (place < end)  # (windows, longest - 1)
    hidden = model.hidden_states(rows[:, :-1])[counts]  # (scored tokens, hidden)
    targets = rows[:, 1:][counts]
    size = max(1, _LOGITS // model.config.vocab_size)
    parts = zip(torch.split(hidden, size), torch.split(targets, size), strict=True)
    return math.fsum(float(_surprise(model, h, t)) for h, t in parts)


def _surprise(model: CausalLM, hidden: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(model.logits(hidden), targets, reduction="none").double().sum()
