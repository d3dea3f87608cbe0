"""The `tokenizers` library behind a wall: files in, a checked engine out, every failure a `TokenizerError`.

The library is written in Rust. A malformed `tokenizer.json` can make it panic, which reaches Python as a
`BaseException` and prints a Rust stack trace on descriptor 2; both stop here.
"""

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Engine

from llmcli.errors import TokenizerError

REMEDY = "get the tokenizer's files again, or choose another model"
# Every kind of character a text is likely to hold, so that a tokenizer that cannot encode fails when it is loaded.
_PROBE = "A b\n  1,é你😀\t"


def load_engine(folder: Path) -> Engine:
    """The engine of a model folder: its `tokenizer.json`, or the older files that stand for one, converted.

    Raises `TokenizerError` where there is none, or it is not what it should be.
    """
    path = folder / "tokenizer.json"
    if path.is_file():
        engine = _parse(path)
    else:
        from llmcli.tokenizer_convert import convert

        engine = convert(folder)
    _prepare(engine, folder)
    return engine


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object beside the tokenizer; empty where there is no such file. Raises `TokenizerError`."""
    try:
        value = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise TokenizerError(f"{path}: {error.strerror}", REMEDY) from error
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"{path} is not JSON: {first_line(error)}", REMEDY) from error
    if not isinstance(value, dict):
        raise TokenizerError(f"{path} is not a JSON object", REMEDY)
    return value


def state_of(component: Any) -> dict[str, Any]:
    """What `tokenizer.json` says of one component of an engine (normalizer, decoder, ...); empty for none."""
    return {} if component is None else dict(json.loads(component.__getstate__()))


@contextmanager
def contained(what: str) -> Iterator[None]:
    """Run a call into the library: whatever it raises, panics included, becomes a `TokenizerError` about `what`."""
    try:
        with _silent_panics():
            yield
    except UnicodeEncodeError as error:
        raise TokenizerError(f"{what}: {error.reason}", "give text that is valid Unicode") from error
    except Exception as error:
        raise TokenizerError(f"{what}: {first_line(error)}", REMEDY) from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise TokenizerError(f"{what}: {first_line(error)}", REMEDY) from None


def first_line(error: BaseException) -> str:
    """The first line of an exception's text, or its type's name."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


@contextmanager
def _silent_panics() -> Iterator[None]:
    """Keep a panic's text off stderr: descriptor 2 points at nothing for as long as the library runs.

    Only where no other Python thread could be writing there at the same time; the exception arrives either way.
    """
    if _others_may_write():
        yield
        return
    try:
        kept = os.dup(2)
    except OSError:  # stderr is closed: there is nothing to keep clean
        yield
        return
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 2)
        os.close(null)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


ASIDE = "aside"
"""How the name of a thread begins beside which no other writes to stderr, as long as it runs."""


def _others_may_write() -> bool:
    """Whether another Python thread runs that may write. The monitor that a download's progress bar leaves behind does
    not count: it only wakes bars that stand still, and by now there is none."""
    if threading.current_thread().name.startswith(ASIDE):
        return False
    names = [each.name for each in threading.enumerate() if each is not threading.current_thread()]
    return any(name != "tqdm_monitor" for name in names)


def _parse(path: Path) -> Engine:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise TokenizerError(f"{path}: {error.strerror}", REMEDY) from error
    with contained(f"{path} is not a tokenizer"):
        return Engine.from_buffer(data)


def _prepare(engine: Engine, folder: Path) -> None:
    """Switch off what would change a text's tokens behind its reader's back, and see that the engine works at all."""
    with contained(f"{folder}: its tokenizer fails"):
        engine.no_truncation()
        engine.no_padding()
        if getattr(engine.model, "dropout", None):
            engine.model.dropout = None  # merges left out at random are for training
        for special in (False, True):
            try:
                ids = engine.encode(_PROBE, add_special_tokens=special).ids
                engine.decode(ids, skip_special_tokens=False)
            except Exception:  # a small vocabulary may lack these characters; a panic is no Exception
                continue
