"""The text of `llmcli --version`: read from the packages' metadata, importing none of them."""

import platform
from importlib.metadata import PackageNotFoundError, version

from llmcli.version import __version__

PACKAGES = ("torch", "tokenizers", "safetensors")


def version_text() -> str:
    """A line each for llmcli, Python and the packages that decide what is computed."""
    versions = {"llmcli": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return "\n".join(f"{name} {number}" for name, number in versions.items())
