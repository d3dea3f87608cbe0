"""The signals that ask the program to end, for whoever computes or waits for long."""

import io
import os
import select
import signal
from typing import IO, Any

# Their numbers, the first one first. `llmcli.__main__` fills it; nothing empties it.
received: list[int] = []

_wakers: list[int] = []
"""Where a byte can be read for each signal that came, once `listen` was called."""


class Stopped(KeyboardInterrupt):
    """SIGINT, SIGTERM or SIGHUP. A command may catch `KeyboardInterrupt` to finish a line, and must raise it again."""


def check() -> None:
    """Raises `Stopped` where the program was asked to end. The signal has raised it already, wherever that found the
    program, and a library may have swallowed it there."""
    if received:
        raise Stopped


def listen() -> None:
    """From now on `patient` sees signals. For the main thread of a program."""
    waker, written = os.pipe()
    os.set_blocking(waker, False)
    os.set_blocking(written, False)
    signal.set_wakeup_fd(written, warn_on_full_buffer=False)
    _wakers.append(waker)


def patient(stream: IO[bytes]) -> IO[bytes]:
    """The stream, read so that no signal is missed while it has nothing to give.

    Python runs a signal's handler between two instructions, and a read that is interrupted is left. A signal that comes
    between the last instruction and the read does neither, and waits for input as the read does. It has written its
    byte by then, for which is waited as well.
    """
    if not _wakers:
        return stream
    return io.BufferedReader(_Patient(stream.fileno(), _wakers[-1]), 1 << 16)


class _Patient(io.RawIOBase):
    def __init__(self, descriptor: int, waker: int) -> None:
        self._descriptor, self._waker = descriptor, waker

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            check()
            ready, _, _ = select.select([self._descriptor, self._waker], [], [])
            if self._waker in ready:
                os.read(self._waker, 64)  # of a signal that does not end the program
            if self._descriptor in ready:
                return os.readv(self._descriptor, [buffer])
