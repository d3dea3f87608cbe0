"""Files that are written whole or not at all."""

import contextlib
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from llmcli.errors import LlmcliError, UsageError

ROOM = "check the folder and the space left"


def check_target(path: Path) -> None:
    """Raises `UsageError` where a file plainly cannot be written to, before the work for it is done."""
    if path.is_dir() or not path.parent.is_dir():
        what = "is a folder" if path.is_dir() else "lies in a folder that does not exist"
        raise UsageError(f"{path} {what}", "give the path of a file")


def write_whole(path: Path, content: bytes | Callable[[Path], object], *, remedy: str = ROOM) -> None:
    """Writes beside `path`, then renames: it is whole or as it was, whatever happens, and once this returns also on the
    disk. `content` is the bytes, or what writes them to the path that it is given.

    A link stays a link. The permissions stay as they are, or become what a new file has. What is no regular file, such
    as /dev/stdout, is written to as it is. Raises `LlmcliError`, whose second line is `remedy`.
    """
    write = _writer(content) if isinstance(content, bytes) else content
    try:
        if path.exists() and not path.is_file():
            write(path)
        else:
            _replace(path.resolve(), write)
    except OSError as error:
        raise LlmcliError(f"{path} cannot be written: {error.strerror or error}", remedy) from error


def _writer(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data)


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.touch()
        mode = (path if path.exists() else part).stat().st_mode
        write(part)
        part.chmod(mode)  # some libraries make a file that only its owner may read
        _sync(part)
        part.replace(path)
        _sync(path.parent)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Until the file, or a folder's entries, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """The SHA-256 of what is in a file, in hexadecimal. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
