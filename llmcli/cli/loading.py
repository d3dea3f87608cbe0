"""The model of `llmcli generate`, loaded in the order that says soonest what is wrong."""

import gc
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
    gc.disable()  # what is imported stays: to look through it again and again takes a tenth of the start
    try:
        pipeline = _load(model, folder, how)
        gc.freeze()
    finally:
        gc.enable()
    return pipeline


def _load(model: str, folder: Path, how: dict[str, Any]) -> "Pipeline":
    from concurrent.futures import ThreadPoolExecutor

    from llmcli.tokenizer import Tokenizer
    from llmcli.tokenizer_engine import ASIDE

    # Side by side: the library reads a tokenizer without holding Python's lock, and torch takes a second.
    with ThreadPoolExecutor(1, thread_name_prefix=ASIDE) as aside:
        tokenizer = aside.submit(Tokenizer.from_folder, folder)
        from llmcli.pipeline import Pipeline

    pipeline = Pipeline.load(model, tokenizer=tokenizer.result(), **how)
    from llmcli.model import heap

    heap.keep()
    return pipeline


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
