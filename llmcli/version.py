"""The version, alone in a file that imports nothing: packaging and `--version` read it without importing the rest."""

__version__ = "0.1.0"
