"""Token ids on disk: written once, then mapped into memory, so that a corpus may be larger than memory."""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from llmcli.errors import UsageError
from llmcli.files import write_whole

if TYPE_CHECKING:
    from llmcli.tokenizer import Tokenizer

_BATCH = 64
"""Chunks of a document that are encoded at once, on all cores; about a million characters."""


@dataclass(frozen=True)
class TokenFile:
    """A corpus as one run of ids. Each document begins with the end-of-text id, which also ends the one before."""

    ids: npt.NDArray[np.uint16 | np.uint32]
    """(tokens), memory-mapped."""
    bytes: int
    """UTF-8 bytes of the documents."""
    start_id: int


def corpus_key(files: Sequence[Path], folder: Path, extra: str = "") -> str:
    """A name for a corpus under a tokenizer: its files' paths, sizes and times, and the tokenizer's bytes."""
    digest = hashlib.sha256((folder / "tokenizer.json").read_bytes())
    for file in files:
        stat = file.stat()
        digest.update(f"{file.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode())
    digest.update(extra.encode())
    return digest.hexdigest()[:16]


class TokenWriter:
    """Encodes documents to `path` (.bin, with a .json beside it): complete when it is left, or not there at all.

    A document is cut into chunks where that changes no id, so memory stays constant and all cores work.
    """

    def __init__(self, tokenizer: "Tokenizer", path: Path) -> None:
        from llmcli.chunking import find_cuts

        start = tokenizer.bos_id
        if start is None:
            raise UsageError("the tokenizer has no beginning-of-text token", "use one that names a bos_token")
        self._tokenizer, self._start, self._path = tokenizer, start, path
        self._cuts = find_cuts(tokenizer)
        self._kind = np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32
        self._waiting: list[tuple[bool, str]] = []
        self._count = self._size = 0

    def __enter__(self) -> "TokenWriter":
        self._file = self._path.with_suffix(".part").open("wb")
        return self

    def add(self, pieces: Iterable[str]) -> None:
        """One document."""
        from llmcli.chunking import chunks

        first = True
        for text in chunks(pieces, self._cuts, lambda _: None):
            self._waiting.append((first, text))
            first = False
            if len(self._waiting) >= _BATCH:
                self._flush()

    def _flush(self) -> None:
        encoded = self._tokenizer.encode_batch([text for _, text in self._waiting])
        for (first, text), ids in zip(self._waiting, encoded, strict=True):
            array = np.array([self._start, *ids] if first else ids, dtype=self._kind)
            self._file.write(array.tobytes())
            self._count += len(array)
            self._size += len(text.encode())
        self._waiting = []

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        temporary = self._path.with_suffix(".part")
        try:
            if kind is None:
                self._flush()
                self._file.flush()
                os.fsync(self._file.fileno())
        finally:
            self._file.close()
            if kind is not None:
                temporary.unlink(missing_ok=True)
        if kind is not None:
            return
        temporary.replace(self._path)
        meta = {
            "dtype": np.dtype(self._kind).name,
            "tokens": self._count,
            "bytes": self._size,
            "start_id": self._start,
        }
        write_whole(self._path.with_suffix(".json"), json.dumps(meta).encode() + b"\n")


def open_tokens(path: Path) -> TokenFile | None:
    """The file that a `TokenWriter` finished, or None."""
    try:
        meta = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        shape = (int(meta["tokens"]),)
        ids = np.memmap(path, dtype=meta["dtype"], mode="r", shape=shape) if shape[0] else np.empty(0, np.uint16)
        return TokenFile(ids, int(meta["bytes"]), int(meta["start_id"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
