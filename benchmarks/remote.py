"""A contender in a process of its own, so that no other one's memory, threads or settings touch its times."""

import multiprocessing
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import cast

THREADS = 2


class Remote:
    """Made with the name of a class in `contenders`, and what its instance is made with; that is there on return."""

    def __init__(self, kind: str, folder: Path, dtype: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, kind, folder, dtype), daemon=True)
        self._process.start()
        theirs.close()
        self._pipe.recv()

    def ask(self, method: str, *given: int) -> Sequence[float]:
        """What a method answers, one number as a list of one. Raises EOFError where the process has died."""
        self._pipe.send((method, given))
        answer = self._pipe.recv()
        return [answer] if isinstance(answer, float) else cast(list[float], answer)

    def end(self) -> float:
        """Ends the process; the MB that it took at most beyond `import torch`."""
        self._pipe.send(None)
        most = cast(float, self._pipe.recv())
        self._process.join()
        return most


def _serve(pipe: Connection, kind: str, folder: Path, dtype: str) -> None:
    import contenders
    import torch

    torch.set_num_threads(THREADS)
    before = _peak()
    each = getattr(contenders, kind)(folder, dtype)
    pipe.send("ready")
    while (asked := pipe.recv()) is not None:
        method, given = asked
        pipe.send(getattr(each, method)(*given))
    pipe.send(_peak() - before)


def _peak() -> float:
    """The most memory that this process has held, MB; what getrusage tells may be that of the one that started it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))
