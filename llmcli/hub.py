"""Download of a model from the hub into `huggingface_hub`'s own cache: only the files that are needed, weights last."""

import errno
import hashlib
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from llmcli.errors import HubError, LlmcliError
from llmcli.resolve import TOKENIZER_FILES, Need, hub_cache, weight_files

SMALL_FILES = (
    *TOKENIZER_FILES,
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
    "model.safetensors.index.json",
    "config.json",  # last: where it is present, the others are
)
_TOKEN_HINT = "log in with `hf auth login` or set HF_TOKEN"


def fetch(name: str, *, need: Need = "model") -> Path:
    """Download a hub id and return its folder. Raises `HubError`, with a message of its own for each kind of no."""
    if is_offline():
        raise HubError(
            f"{name} is not in the cache, and HF_HUB_OFFLINE forbids to download it",
            f"unset HF_HUB_OFFLINE once to download it; `llmcli models` lists what is at hand (cache: {hub_cache()})",
        )
    try:
        return _download(name, need)
    except LlmcliError:
        raise
    except Exception as error:
        raise explain(name, error) from error


def is_offline() -> bool:
    """Whether the environment forbids the network, by the variables that `huggingface_hub` reads."""
    value = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return value.upper() in {"1", "ON", "YES", "TRUE"}


def _download(name: str, need: Need) -> Path:
    # Imported here: it takes 0.4 s, and reads the environment while being imported.
    from huggingface_hub import HfApi, constants, hf_hub_download
    from huggingface_hub.utils.tqdm import disable_progress_bars

    from llmcli.model.families import read_config

    logging.getLogger("huggingface_hub").setLevel(
        logging.CRITICAL
    )  # its retries and hints are not ours; errors come back as exceptions
    if not sys.stderr.isatty():
        disable_progress_bars()
    info = HfApi().model_info(name, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    offered = {each.rfilename for each in info.siblings or ()}
    if "config.json" not in offered:
        raise HubError(f"{name} on the hub holds no config.json", "choose a repository of a transformers model")

    folder = Path()
    for file in SMALL_FILES:
        if file in offered:
            folder = _get(hf_hub_download, name, file, info.sha).parent
    _remember(folder)
    if need == "model":
        read_config(folder)  # a model that cannot be run is refused before its weights are fetched
        wanted = weight_files(folder)
        if missing := [each for each in wanted if each not in offered]:
            raise _no_safetensors(name, missing[0], offered)
        for file in wanted:
            _get(hf_hub_download, name, file, info.sha)
    return folder


def _get(download: Any, name: str, file: str, commit: str | None) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a full disk, for example, which comes back as an exception too
        path = Path(download(name, file, revision=commit))
    _verify(path, name, file)
    return path


def _verify(path: Path, name: str, file: str) -> None:
    """Compare a file with the sha256 that names its blob, where the hub gave one, and delete it if it differs."""
    blob = path.resolve()
    if not re.fullmatch(r"[0-9a-f]{64}", blob.name):
        return
    with blob.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != blob.name:
        path.unlink()
        blob.unlink(missing_ok=True)
        raise HubError(f"{name}: {file} arrived damaged (its sha256 differs); it was deleted", "run the command again")


def _remember(folder: Path) -> None:
    """Note the commit as the newest one, which says that its small files are complete."""
    reference = folder.parent.parent / "refs" / "main"
    reference.parent.mkdir(parents=True, exist_ok=True)
    written = reference.with_name(f"main.{os.getpid()}")
    written.write_text(folder.name)
    written.replace(reference)


def _no_safetensors(name: str, missing: str, offered: Iterable[str]) -> HubError:
    others = sorted({Path(each).suffix for each in offered} & {".bin", ".gguf", ".pt", ".pth", ".h5", ".msgpack"})
    only = f", only {', '.join(others)}" if others else ""
    return HubError(
        f"{name} on the hub has no {missing}{only}", "choose a repository with safetensors weights; others are not read"
    )


def explain(name: str, error: BaseException) -> HubError:
    """What a failed download means, and what to do. Nothing of the library's own text is passed on: it may hold URLs
    with credentials."""
    for each in _chain(error):
        if (found := _explain_one(name, each)) is not None:
            return found
    return HubError(f"{name} could not be downloaded ({type(error).__name__})", "try again, or give a local folder")


def _explain_one(name: str, error: BaseException) -> HubError | None:
    kinds = {each.__name__ for each in type(error).__mro__}
    status = getattr(getattr(error, "response", None), "status_code", None)
    if "GatedRepoError" in kinds:
        return HubError(f"{name} is gated: its owner must let you in", f"ask on its page, then {_TOKEN_HINT}")
    if "RepositoryNotFoundError" in kinds or status == 404:
        return HubError(f"{name} is missing on the hub, or private", f"check the spelling; if private, {_TOKEN_HINT}")
    if status is not None:
        return _explain_status(name, int(status))
    if "TimeoutException" in kinds or isinstance(error, TimeoutError):
        return HubError(f"{_endpoint()} did not answer in time", "try again later, or give a local folder")
    if "ProxyError" in kinds:
        return HubError("the proxy does not let the hub through", "check HTTPS_PROXY and NO_PROXY")
    if "ConnectError" in kinds or isinstance(error, ConnectionError):
        return HubError(f"no connection to {_endpoint()}", "check the network and HF_ENDPOINT, or give a local folder")
    if "TransportError" in kinds:
        return HubError(f"the connection to {_endpoint()} broke off", "run the command again")
    if isinstance(error, OSError) and "Consistency check failed" in str(error):
        return HubError(f"a file of {name} arrived with the wrong size; it was deleted", "run the command again")
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return HubError(f"no space for {name} in {hub_cache()}", "free some space, or set HF_HOME to a larger disk")
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return HubError(f"{name} cannot be stored: {hub_cache()} is read-only", "set HF_HOME to a folder of yours")
    return None


def _explain_status(name: str, status: int) -> HubError:
    if status == 401:
        return HubError("the hub refuses the token (401)", f"{_TOKEN_HINT} to a valid one, or unset it")
    if status == 403:
        return HubError(f"the hub forbids {name} (403)", f"the token lacks the right to read it: {_TOKEN_HINT}")
    if status == 429:
        return HubError("the hub has had too many requests (429)", f"wait a while; a token allows more: {_TOKEN_HINT}")
    if status >= 500:
        return HubError(f"{_endpoint()} has a failure of its own ({status})", "try again later")
    return HubError(f"{_endpoint()} answered {status} for {name}", "check HF_ENDPOINT")


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An exception and what led to it, outermost first: the library's own kinds say more than a bare status."""
    seen: set[int] = set()
    at: BaseException | None = error
    while at is not None and id(at) not in seen:
        seen.add(id(at))
        yield at
        at = at.__cause__ or at.__context__


def _endpoint() -> str:
    parts = urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    return parts.netloc.rpartition("@")[2] or "the hub"  # without user and password
