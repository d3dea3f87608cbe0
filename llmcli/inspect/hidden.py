"""Hidden states: what the tokens are between the blocks."""

from typing import TYPE_CHECKING

import numpy as np
import torch

from llmcli.inspect.running import Floats, batch_of, fitting_ids
from llmcli.model.recorder import Recorder

if TYPE_CHECKING:
    from llmcli.pipeline import Pipeline, Prompt


@torch.inference_mode()
def hidden_states(pipeline: "Pipeline", text: "Prompt") -> Floats:
    """(layers + 1, tokens, hidden) float32: entry 0 enters block 0, entry i + 1 leaves block i, before the final norm.

    Raises `UsageError`, and `ContextLengthError` for a text that is too long.
    """
    ids = fitting_ids(pipeline, text)
    recorder = Recorder({"embedding", "block"})
    pipeline.model.hidden_states(batch_of(pipeline, ids), tap=recorder)
    layers = range(pipeline.model.config.num_layers)
    states = [recorder["embedding", -1], *(recorder["block", layer] for layer in layers)]
    stacked: Floats = np.stack([state[0].float().cpu().numpy() for state in states])
    return stacked
