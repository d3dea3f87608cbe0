"""The logit lens (nostalgebraist 2020): the hidden states after every block, read as if the model ended there."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from llmcli.inspect.funnel import entropy_bits
from llmcli.inspect.logits import Ranked, divergence, most_probable, ranked
from llmcli.inspect.running import Floats, ShownToken, batch_of, fitting_ids, place, shown_tokens
from llmcli.model.recorder import Recorder

if TYPE_CHECKING:
    from llmcli.pipeline import Pipeline, Prompt


@dataclass(frozen=True)
class LensRow:
    """The distribution that one layer's hidden state gives after the final norm and lm_head.

    layer    -1: the embedding, before any block; else the block that it left
    final    the token that the whole model finds most probable, with its place here
    kl       how far this distribution is from the model's output, bits: KL(output || this)
    """

    layer: int
    top: list[Ranked]
    final: Ranked
    entropy: float
    kl: float


@dataclass(frozen=True)
class Lens:
    """One row for the embedding and one for each block, the last equal to the model's output.

    logits      (rows, vocab) float32, too many for the JSON document
    difference  the largest one between the last row's logits and the model's own
    """

    tokens: list[ShownToken]
    position: int
    rows: list[LensRow]
    difference: float
    logits: Floats = field(metadata={"json": False})


@torch.inference_mode()
def lens(pipeline: "Pipeline", text: "Prompt", *, position: int = -1, limit: int = 5) -> Lens:
    """Decodes the hidden state at one token of the text (the last, unless `position` names another) after every block.

    Raises `UsageError` for a position that the text does not have, `ContextLengthError` for a text that is too long.
    """
    model = pipeline.model
    ids = fitting_ids(pipeline, text)
    at = place(position, len(ids), "--position")
    recorder = Recorder({"embedding", "block"})
    output = model(batch_of(pipeline, ids[: at + 1]), tap=recorder, last_only=True)[0, -1].float().cpu()
    best = int(output.argmax())
    rows, every = [], []
    for layer in range(-1, model.config.num_layers):
        hidden = recorder["embedding" if layer < 0 else "block", layer][:, -1:]
        logits = model.logits(model.norm(hidden))[0, -1].float().cpu()
        every.append(logits)
        rows.append(
            LensRow(
                layer=layer,
                top=most_probable(pipeline, logits, limit),
                final=ranked(pipeline, logits, best),
                entropy=entropy_bits(logits),
                kl=divergence(output, logits),
            )
        )
    difference = float((every[-1] - output).abs().max())
    return Lens(shown_tokens(pipeline, ids), at, rows, difference, torch.stack(every).numpy())
