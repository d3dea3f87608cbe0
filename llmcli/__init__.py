"""llmcli: run any causal language model in the shell, and open every part of it with exact numbers.

>>> import llmcli
>>> llmcli.load("stories").generate("Once").text
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmcli.version import __version__

if TYPE_CHECKING:
    from llmcli.errors import LlmcliError as LlmcliError
    from llmcli.pipeline import Pipeline as Pipeline
    from llmcli.results import Generation as Generation
    from llmcli.results import Step as Step
    from llmcli.sampling_params import SamplingParams as SamplingParams

__all__ = ["Generation", "LlmcliError", "Pipeline", "SamplingParams", "Step", "__version__", "load"]

# Where each name comes from; imported when it is first used, so that `import llmcli` costs next to nothing.
_LAZY = {
    "Generation": "llmcli.results",
    "LlmcliError": "llmcli.errors",
    "Pipeline": "llmcli.pipeline",
    "SamplingParams": "llmcli.sampling_params",
    "Step": "llmcli.results",
}


def load(
    name: str | Path = "stories", *, device: str = "auto", dtype: str = "float32", threads: int | None = None
) -> "Pipeline":
    """A built-in model, a folder, or a hub id, ready for `.generate`, `.stream`, `.encode`, `.decode` and `.logits`.

    device: auto, cpu, cuda or mps. threads: of the whole process; None leaves them as they are. Raises
    `llmcli.LlmcliError`.
    """
    from llmcli.pipeline import Pipeline

    return Pipeline.load(name, device=device, dtype=dtype, threads=threads)


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)
