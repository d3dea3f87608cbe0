"""Signals that wait for the end of a step, so that a run which is asked to end can save first."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def deferred(request: Callable[[], None]) -> Iterator[None]:
    """Inside, the first signal calls `request` only, and is raised again at the end; a second one ends at once."""
    received: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        if received:
            os._exit(128 + number)
        received.append(number)
        request()

    before = {number: signal.getsignal(number) for number in ENDING}
    # Who ignores a signal, as nohup does, goes on ignoring it.
    taken = [number for number, handler in before.items() if handler not in (signal.SIG_IGN, None)]
    for number in taken:
        signal.signal(number, note)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, before[number])
    if received:
        signal.raise_signal(received[0])
