"""Families: config.json of any supported model -> `ModelConfig`, and its weight-name table. Torch-free.

A family is one module here with `translate(keys) -> ModelConfig` and `WEIGHTS`, imported when it is first needed.
"""

from importlib import import_module
from pathlib import Path
from types import ModuleType

from llmcli.errors import ConfigError, ModelNotFoundError
from llmcli.model.config import ModelConfig
from llmcli.model.families.keys import Keys
from llmcli.model.families.table import WeightTable

# model_type in config.json -> module of this package
FAMILIES = {
    "gpt2": "gpt2",
    "gpt_neox": "gpt_neox",
    "llama": "llama",
    "mistral": "mistral",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "phi3": "phi3",
    "gemma2": "gemma2",
    "gemma3": "gemma3",
    "gemma3_text": "gemma3",
    "olmo2": "olmo2",
    "smollm3": "smollm3",
}


def read_config(folder: str | Path) -> ModelConfig:
    """Reads `folder`/config.json.

    Raises ModelNotFoundError where there is no folder or file, ConfigError naming the key that is absurd, or that
    changes numbers in a way that llmcli does not know.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ModelNotFoundError(f"{folder} is not a folder", "name a folder in Hugging Face layout")
    return translate(Keys.from_file(folder / "config.json"))


def translate(keys: Keys) -> ModelConfig:
    """config.json's keys -> the description, or ConfigError as in `read_config`."""
    family = keys.text("model_type", "")
    if family not in FAMILIES:
        raise ConfigError(
            f"config.json: model_type {family!r} is not a family that llmcli runs",
            "known families: " + ", ".join(sorted(FAMILIES)),
        )
    config: ModelConfig = _module(family).translate(keys)
    keys.check_unread(family)
    return config


def weight_table(config: ModelConfig) -> WeightTable:
    """The weight names of the model's family."""
    table: WeightTable = _module(config.family).WEIGHTS
    return table


def _module(family: str) -> ModuleType:
    return import_module(f"{__name__}.{FAMILIES[family]}")
