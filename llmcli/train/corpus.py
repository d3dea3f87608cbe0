"""Documents out of text files, JSON lines and folders, plain or compressed, read as a stream."""

import gzip
import io
import json
import lzma
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import IO, cast

from llmcli.errors import UsageError

SUFFIXES = (".txt", ".md", ".jsonl", ".json")
COMPRESSED = (".xz", ".gz", ".zst")
PIECE = 1 << 20
"""Characters of a plain file that are read at once."""


class Corpus:
    """The documents of some files: in JSON lines each object's `text` is one, else each file is one.

    limit_bytes: only so many bytes of text from the start, the last document cut; 0: all. Raises UsageError.
    """

    def __init__(self, paths: Sequence[Path], limit_bytes: int = 0) -> None:
        self.files = corpus_files(paths)
        self.limit_bytes = limit_bytes
        self._sizes = [file.stat().st_size for file in self.files]
        self._read = 0

    @property
    def fraction(self) -> float:
        """How much of the files has been read, 0 to 1."""
        return min(1.0, self._read / max(1, sum(self._sizes)))

    def documents(self) -> Iterator[Iterator[str]]:
        """Each document that holds text as an iterator of its pieces, to be read before the next is asked for."""
        return first_bytes(self._all(), self.limit_bytes)

    def _all(self) -> Iterator[Iterator[str]]:
        done = 0
        for path, size in zip(self.files, self._sizes, strict=True):
            with _said(path), path.open("rb") as raw, _open(path, raw) as file:
                for document in _documents(path, file):
                    self._read = done + raw.tell()
                    first, document = peek(document)
                    if first:
                        yield document
            done += size
            self._read = done


def peek(document: Iterator[str]) -> tuple[str, Iterator[str]]:
    """The first piece of a document, "" where there is none, and the document as it was."""
    first = next(document, "")
    return first, chain([first], document)


def first_bytes(documents: Iterable[Iterator[str]], limit: int) -> Iterator[Iterator[str]]:
    """The documents up to `limit` UTF-8 bytes in all, the last one cut; 0: all of them."""
    left = limit
    for document in documents:
        if not limit:
            yield document
            continue
        head = _Head(document, left)
        yield iter(head)
        for _ in head:  # what the caller left
            pass
        left = head.left
        if left == 0:
            return


class _Head:
    """The first bytes of a document."""

    def __init__(self, pieces: Iterator[str], left: int) -> None:
        self._pieces, self.left = pieces, left

    def __iter__(self) -> Iterator[str]:
        while self.left:
            piece = next(self._pieces, None)
            if piece is None:
                return
            data = piece.encode()
            if len(data) >= self.left:
                piece = data[: self.left].decode("utf-8", "ignore")
            self.left = max(0, self.left - len(data))
            yield piece


def corpus_files(paths: Sequence[Path]) -> list[Path]:
    """The files that the paths name; a folder stands for every text file in it, in name order."""
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            files += sorted(p for p in path.rglob("*") if p.is_file() and _kind(p) in SUFFIXES)
        elif path.is_file():
            files.append(path)
        else:
            raise UsageError(f"no such file or folder: {path}", "give text files, JSON lines or folders of them")
    if not files:
        raise UsageError("the corpus holds no text files", f"known endings: {', '.join(SUFFIXES)}, also compressed")
    return files


def _kind(path: Path) -> str:
    """The ending that says what is inside, less that of the compression."""
    return Path(path.stem).suffix if path.suffix in COMPRESSED else path.suffix


def _open(path: Path, raw: IO[bytes]) -> IO[str]:
    stream = raw
    if path.suffix == ".xz":
        stream = cast(IO[bytes], lzma.open(raw))  # noqa: SIM115
    elif path.suffix == ".gz":
        stream = cast(IO[bytes], gzip.open(raw))  # noqa: SIM115
    elif path.suffix == ".zst":
        try:
            import zstandard
        except ImportError:
            raise UsageError(f"{path} needs the package zstandard", "pip install zstandard") from None
        stream = cast(IO[bytes], zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True))
    return io.TextIOWrapper(stream, encoding="utf-8", newline="")


def _documents(path: Path, file: IO[str]) -> Iterator[Iterator[str]]:
    if _kind(path) not in (".jsonl", ".json"):
        yield _pieces(path, file)
        return
    for number, line in enumerate(file, 1):
        if line.strip():
            yield iter([_text(path, number, line)])


def _pieces(path: Path, file: IO[str]) -> Iterator[str]:
    # What goes wrong here is raised at the reader's, who stands outside of `_all`.
    with _said(path):
        while piece := file.read(PIECE):
            yield piece


@contextmanager
def _said(path: Path) -> Iterator[None]:
    """A file that cannot be read, decompressed or decoded is a UsageError."""
    try:
        yield
    except (OSError, EOFError, lzma.LZMAError, zlib.error, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {error}", "is it damaged, or not UTF-8?") from error
    except Exception as error:
        if type(error).__name__ != "ZstdError":  # of a package that may be missing
            raise
        raise UsageError(f"cannot read {path}: {error}", "is it damaged?") from error


def _text(path: Path, number: int, line: str) -> str:
    where = f"{path}, line {number}"
    try:
        text = json.loads(line)["text"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(f"{where}: no JSON object with `text`", "one object a line") from error
    if not isinstance(text, str):
        raise UsageError(f"{where}: `text` is not a string", "one object a line")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{where}: `text` holds half a character (a lone surrogate)", "mend or drop it") from error
    return text
