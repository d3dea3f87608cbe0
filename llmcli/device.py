"""Where to compute, and with how many threads."""

import torch

from llmcli.errors import UsageError
from llmcli.settings import MOST_THREADS


def choose_device(name: str) -> str:
    """A device that this machine has: `auto` is cuda where there is one, else mps, else cpu. Raises `UsageError`."""
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return next(each for each in ("cuda", "mps", "cpu") if present[each])
    if name not in present:
        raise UsageError(f"there is no device {name!r}", f"choose one of auto, {', '.join(present)}")
    if not present[name]:
        usable = ", ".join(each for each, there in present.items() if there)
        raise UsageError(
            f"--device {name}: PyTorch finds no such device on this machine", f"usable here: auto, {usable}"
        )
    return name


def set_threads(count: int) -> None:
    """Compute with so many threads from now on, in the whole process. Raises `UsageError`."""
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MOST_THREADS:
        raise UsageError(f"--threads is {count!r}", f"give a whole number from 1 to {MOST_THREADS}")
    torch.set_num_threads(count)
