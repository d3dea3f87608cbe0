"""What every view that runs the model needs: ids that fit it, tokens to show, logits in float32."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llmcli.errors import ContextLengthError, UsageError
from llmcli.generation import check_ids
from llmcli.inspect.document import ShownToken as ShownToken
from llmcli.model.tap import Tap
from llmcli.render.tokens import label

if TYPE_CHECKING:
    from llmcli.pipeline import Pipeline, Prompt

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

_ROWS = 64


def shown_token(pipeline: "Pipeline", token_id: int) -> ShownToken:
    """Models may have more ids than their tokenizer has tokens, or no tokenizer at all: then the id names the token."""
    if pipeline.has_tokenizer:
        try:
            tokenizer = pipeline.tokenizer
            return ShownToken(token_id, tokenizer.piece(token_id), label(tokenizer.token_bytes(token_id)))
        except UsageError:
            pass
    name = f"⟨{token_id}⟩"
    return ShownToken(token_id, name, name)


def shown_tokens(pipeline: "Pipeline", ids: Sequence[int]) -> list[ShownToken]:
    return [shown_token(pipeline, each) for each in ids]


def fitting_ids(pipeline: "Pipeline", text: "Prompt") -> list[int]:
    """The ids of a text, or the ids given, checked against the vocabulary and the context.

    Raises `ContextLengthError`, and `UsageError` for no ids and for ids that the model does not have.
    """
    ids = pipeline.prompt_ids(text)
    if len(ids) > pipeline.context_length:
        raise ContextLengthError(
            f"the text has {len(ids)} tokens, and the context length is {pipeline.context_length}",
            "give a shorter text",
        )
    check_ids(ids, pipeline.model.config.vocab_size)
    return ids


def batch_of(pipeline: "Pipeline", ids: Sequence[int]) -> Tensor:
    """(1, tokens) int64 on the model's device."""
    device = next(pipeline.model.parameters()).device
    return torch.tensor([list(ids)], dtype=torch.int64, device=device)


@torch.inference_mode()
def last_logits(pipeline: "Pipeline", ids: Sequence[int]) -> Tensor:
    """(vocab) float32 on the CPU: what follows the last token."""
    logits: Tensor = pipeline.model(batch_of(pipeline, ids), last_only=True)[0, -1]
    return logits.float().cpu()


def each_logits(pipeline: "Pipeline", ids: Sequence[int], tap: Tap | None = None) -> Iterator[Tensor]:
    """(vocab) float32 on the CPU for each token in turn: what follows it. Few rows are in memory at a time, since a
    long text times a large vocabulary is more than the model."""
    with torch.inference_mode():
        hidden = pipeline.model.hidden_states(batch_of(pipeline, ids), tap=tap)
    for start in range(0, len(ids), _ROWS):
        with torch.inference_mode():
            rows = pipeline.model.logits(hidden[:, start : start + _ROWS])[0].float().cpu()
        yield from rows


def place(index: int, count: int, option: str) -> int:
    """A place counted from 0, or from the end where negative. Raises `UsageError` naming the option."""
    if not -count <= index < count:
        raise UsageError(f"{option} {index}: there are {count} tokens", f"give a number from 0 to {count - 1}")
    return index % count
