"""The C library keeps freed memory for what comes next. After the temporaries of a load that is a second copy of much
of a model, so it is handed back."""

import ctypes
import sys

EVERY = 64 * 2**20
"""Bytes worked on between two trims: memory that comes back from the system is zeroed first, so each has a price."""


class Heap:
    """Counts what is worked on, and trims the allocator's free memory each time that `EVERY` bytes are reached."""

    def __init__(self) -> None:
        self._worked = 0

    def worked(self, size: int) -> None:
        """`size` bytes more were read, and their temporaries are free by now."""
        self._worked += size
        if self._worked >= EVERY:
            self._worked = 0
            trim()


def trim() -> None:
    """Gives free memory back to the system, where the C library can do that at all (glibc)."""
    if sys.platform == "linux":
        call = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if call is not None:
            call(0)


def keep() -> None:
    """From now on freed memory stays with the process, where glibc is the C library: a prompt of 512 tokens is read in
    nine tenths of the time when its hidden states, some megabytes each, need not be fetched from the system again and
    again. And small pieces are joined as soon as they are free, instead of all of them whenever a tensor is freed: 1 to
    3 % of a decode step in int8 or int4. For a program that runs one model; the library leaves its caller's memory
    alone."""
    if sys.platform == "linux":
        call = getattr(ctypes.CDLL(None), "mallopt", None)
        if call is not None:
            call(_M_MMAP_THRESHOLD, 32 * 2**20)  # the most that it takes
            call(_M_TRIM_THRESHOLD, 2**31 - 1)
            call(_M_MXFAST, 0)


_M_MXFAST, _M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = 1, -1, -3
"""Parameters of glibc's `mallopt`."""
