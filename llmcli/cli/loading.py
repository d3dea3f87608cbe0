"""The model of `llmcli generate`, loaded in the order that says soonest what is wrong."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmcli.pipeline import Pipeline


def load(model: str, **how: Any) -> "Pipeline":
    """The model, ready to run; torch is imported here. `how` is for `Pipeline.load`."""
    from llmcli.resolve import resolve

    folder = resolve(model)
    _read_ahead(folder)
    from llmcli.tokenizer import Tokenizer

    # Before torch: what is wrong with it is said at once.
    tokenizer = Tokenizer.from_folder(folder)
    from llmcli.pipeline import Pipeline

    return Pipeline.load(model, tokenizer=tokenizer, **how)


def _read_ahead(folder: Path) -> None:
    """Has the system read the weights while other things load."""
    if not hasattr(os, "posix_fadvise"):
        return
    for path in folder.glob("*.safetensors"):
        try:
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)
        except OSError:
            return  # the loader says what is wrong with it
