"""A model's name to the folder that holds it: a built-in name, a folder, or a hub id. Only a hub id can use the net."""

import json
import os
import re
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from llmcli.errors import ConfigError, ModelError, ModelNotFoundError

Need = Literal["model", "tokenizer"]

BUILTIN = Path(__file__).parent / "builtin"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
# An organisation or a person, a slash, a name: the form the hub itself allows.
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def resolve(name: str, *, need: Need = "model") -> Path:
    """The folder of a model; a hub id that is not in the cache is downloaded first.

    With `need="tokenizer"` the weights are neither looked for nor downloaded.

    Raises `ModelNotFoundError` for a name that means nothing, `ConfigError` for a folder that holds no model,
    `ModelError` for a file of a format that is not read, `HubError` where the hub does not give the files.
    """
    if name in builtin_names():
        return BUILTIN / name
    path = Path(name).expanduser()
    if path.is_dir():
        return _checked(path, need)
    if path.suffix == ".gguf" or path.suffix in _PICKLES:
        raise _foreign_format(path)
    if path.is_file():
        raise ModelNotFoundError(f"{name} is a file, not the folder of a model", f"give the folder: {path.parent}")
    if is_hub_id(name):
        from llmcli.hub import fetch

        return cached_folder(name, need=need) or fetch(name, need=need)
    raise _unknown(name)


def builtin_names() -> list[str]:
    """The names of the models that come with the package."""
    return sorted(each.parent.name for each in BUILTIN.glob("*/config.json"))


def cached_names() -> list[str]:
    """The hub ids whose files are all in the local cache."""
    found = []
    for each in hub_cache().glob("models--*--*"):
        name = each.name.removeprefix("models--").replace("--", "/")
        with suppress(ModelError):  # a broken index is reported when that model is asked for
            if cached_folder(name) is not None:
                found.append(name)
    return sorted(found)


def is_hub_id(name: str) -> bool:
    """Whether a name has the form `organisation/name` and none that could only be a path."""
    return _HUB_ID.fullmatch(name) is not None and ".." not in name and "--" not in name


def hub_cache() -> Path:
    """Where `huggingface_hub` keeps what it downloaded: the same variables, without importing it."""
    if explicit := os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE"):
        return Path(explicit).expanduser()
    home = os.environ.get("HF_HOME") or (os.environ.get("XDG_CACHE_HOME") or "~/.cache") + "/huggingface"
    return Path(os.path.expandvars(home)).expanduser() / "hub"


def cached_folder(name: str, *, need: Need = "model") -> Path | None:
    """The newest snapshot of a hub id in the cache, if it is whole; None otherwise.

    `llmcli.hub.fetch` stores config.json after the other small files, and weights last, so what is present vouches
    for what came before it.
    """
    repository = hub_cache() / f"models--{name.replace('/', '--')}"
    try:
        commit = (repository / "refs" / "main").read_text().strip()
    except OSError:
        return None
    folder = repository / "snapshots" / commit
    return folder if is_whole(folder, need) else None


def is_whole(folder: Path, need: Need) -> bool:
    """Whether a snapshot holds config.json, some form of tokenizer and, for a model, every weight file."""
    if not (folder / "config.json").is_file() or not any((folder / each).is_file() for each in TOKENIZER_FILES):
        return False
    return need == "tokenizer" or all((folder / each).is_file() for each in weight_files(folder) or ["?"])


def weight_files(folder: Path) -> list[str]:
    """The weight files of a snapshot: those its index names, else the single one. Empty for an index of nothing.

    Raises `ModelError` where the index names a file outside the folder or is not what it should be.
    """
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return ["model.safetensors"]
    try:
        names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{index} is not an index of weights", "get the model's files again") from error
    for each in names:
        if not isinstance(each, str) or Path(each).name != each or not each.endswith(".safetensors"):
            raise ModelError(f"{index} names {each!r}, which is no weight file of its folder", "do not use this model")
    return names


def _checked(folder: Path, need: Need) -> Path:
    if (folder / "config.json").is_file():
        return folder
    if need == "tokenizer" and any((folder / each).is_file() for each in TOKENIZER_FILES):
        return folder
    for each in sorted(folder.iterdir()):
        if each.suffix == ".gguf":
            raise _foreign_format(each)
    raise ConfigError(f"{folder} holds no config.json", "give the folder of a Hugging Face model")


def _foreign_format(path: Path) -> ModelError:
    kind = "GGUF" if path.suffix == ".gguf" else "pickled"
    return ModelError(f"{path}: {kind} weights are not read", "use the model's safetensors folder or its hub id")


def _unknown(name: str) -> ModelNotFoundError:
    names = builtin_names()
    if "/" in name or name.startswith(("~", ".")):
        return ModelNotFoundError(f"there is no folder {name}", "check the path, or give a hub id: organisation/name")
    near = get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}? " if near else ""
    known = ", ".join(names) or "none"
    return ModelNotFoundError(
        f"there is no model {name!r}", f"{hint}built-in: {known}; or give a folder, or a hub id such as org/name"
    )
