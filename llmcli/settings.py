"""Settings: flag > LLMCLI_* in the environment > the configuration file > default.

The table below names every setting that may stand in the file. Flags, environment and file meet in the command-line
parser, which asks here for what the file says.
"""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from llmcli.errors import UsageError

DEFAULT_MODEL = "stories"


@dataclass(frozen=True)
class Setting:
    """One setting: the types its value may have in the file, its default as text, and what it decides."""

    name: str
    kinds: tuple[type, ...]
    default: str
    choices: tuple[str, ...] = ()

    @property
    def variable(self) -> str:
        return f"LLMCLI_{self.name.upper()}"


MOST_THREADS = 1024
_OF_THE_MODEL = "the model's generation_config.json, else "
SETTINGS = {
    each.name: each
    for each in (
        Setting("model", (str,), DEFAULT_MODEL),
        Setting("device", (str,), "auto", ("auto", "cpu", "cuda", "mps")),
        Setting("threads", (int,), "the cores this process may use"),
        Setting("color", (str,), "auto", ("auto", "always", "never")),
        Setting("max_tokens", (int,), "256"),
        Setting("temperature", (int, float), _OF_THE_MODEL + "0.8"),
        Setting("top_k", (int,), _OF_THE_MODEL + "off"),
        Setting("top_p", (int, float), _OF_THE_MODEL + "0.95"),
        Setting("min_p", (int, float), _OF_THE_MODEL + "off"),
        Setting("typical_p", (int, float), _OF_THE_MODEL + "off"),
        Setting("top_n_sigma", (int, float), "off"),
        Setting("repetition_penalty", (int, float), _OF_THE_MODEL + "off"),
        Setting("presence_penalty", (int, float), "off"),
        Setting("frequency_penalty", (int, float), "off"),
        Setting("seed", (int,), "a new one each time"),
    )
}


@dataclass(frozen=True)
class Source:
    """A setting's value as text, and where it comes from: a variable, the file, or "default"."""

    name: str
    value: str
    source: str


def variable(name: str) -> str:
    """The environment variable of a setting: `max_tokens` -> `LLMCLI_MAX_TOKENS`."""
    return SETTINGS[name].variable


def config_path() -> Path:
    """`$XDG_CONFIG_HOME/llmcli/config.toml`, whether it exists or not."""
    base = os.environ.get("XDG_CONFIG_HOME")
    # The XDG specification has relative values ignored.
    folder = Path(base) if base and Path(base).is_absolute() else Path.home() / ".config"
    return folder / "llmcli" / "config.toml"


def read_config(path: Path | None = None) -> dict[str, Any]:
    """The settings that the configuration file holds; nothing where there is no file. Raises `UsageError`."""
    path = config_path() if path is None else path
    try:
        text = path.read_text("utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}", "mend the configuration file or move it away") from error
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is not TOML: {error}", 'write a line such as: model = "stories"') from error
    for name, value in values.items():
        _check(path, name, value)
    return values


def sources(environment: Mapping[str, str] | None = None, path: Path | None = None) -> list[Source]:
    """Every setting with its value and its source, as a command without flags would find them."""
    environment = os.environ if environment is None else environment
    path = config_path() if path is None else path
    written = read_config(path)
    found = []
    for each in SETTINGS.values():
        if environment.get(each.variable):
            found.append(Source(each.name, environment[each.variable], each.variable))
        elif each.name in written:
            found.append(Source(each.name, str(written[each.name]), str(path)))
        else:
            found.append(Source(each.name, each.default, "default"))
    return found


def usable_cores() -> int:
    """How many cores this process may use: its affinity, and the quota of its control group where there is one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cpu_quota(Path("/sys/fs/cgroup"))
    return max(1, min(cores, int(quota))) if quota is not None else cores


def _cpu_quota(root: Path) -> float | None:
    """Cores allowed by the control group (version 2, then 1), None where unlimited or unknown."""
    try:
        limit, period = (root / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            limit = (root / "cpu/cpu.cfs_quota_us").read_text().strip()
            period = (root / "cpu/cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    try:
        quota = int(limit) / int(period)
    except (ValueError, ZeroDivisionError):  # "max" is no limit
        return None
    return quota if quota > 0 else None


def _check(path: Path, name: str, value: object) -> None:
    setting = SETTINGS.get(name)
    if setting is None:
        near = get_close_matches(name, SETTINGS, n=1)
        remedy = f"did you mean {near[0]}? " if near else ""
        raise UsageError(f"{path}: there is no setting {name!r}", f"{remedy}settings are {', '.join(SETTINGS)}")
    if isinstance(value, bool) or not isinstance(value, setting.kinds):
        kind = "text" if str in setting.kinds else "a number" if float in setting.kinds else "a whole number"
        raise UsageError(f"{path}: {name} = {value!r} is not {kind}", f"write {name} = {_sample(setting)}")
    if setting.choices and value not in setting.choices:
        raise UsageError(f"{path}: {name} = {value!r} is unknown", f"choose one of {', '.join(setting.choices)}")


def _sample(setting: Setting) -> str:
    return f'"{setting.default}"' if str in setting.kinds else "0.8" if float in setting.kinds else "4"
