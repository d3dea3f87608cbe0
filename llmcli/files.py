"""Files that are written whole or not at all."""

import contextlib
import os
from pathlib import Path

from llmcli.errors import LlmcliError, UsageError


def check_target(path: Path) -> None:
    """Raises `UsageError` where a file plainly cannot be written to, before the work for it is done."""
    if path.is_dir() or not path.parent.is_dir():
        what = "is a folder" if path.is_dir() else "lies in a folder that does not exist"
        raise UsageError(f"{path} {what}", "give the path of a file")


def write_whole(path: Path, data: bytes) -> None:
    """Writes beside `path`, then renames: it is whole or as it was, whatever happens. What is no regular file, such as
    /dev/stdout, is written to as it is. Raises `LlmcliError`."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(data)
            return
        try:
            with part.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path.resolve())
        finally:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
    except OSError as error:
        raise LlmcliError(
            f"{path} cannot be written: {error.strerror}", "check the folder and the space left"
        ) from None
