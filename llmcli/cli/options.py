"""Options that several commands share: one name, one help text, one environment variable each."""

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from llmcli.settings import DEFAULT_MODEL, variable

__all__ = [
    "DEFAULT_MODEL",
    "ColorChoice",
    "ColorOption",
    "DeviceOption",
    "FileOption",
    "JsonOption",
    "ModelOption",
    "QuietOption",
    "SeedOption",
    "TextArgument",
    "ThreadsOption",
]

ColorChoice = Literal["auto", "always", "never"]
DeviceChoice = Literal["auto", "cpu", "cuda", "mps"]

TextArgument = Annotated[
    str | None, typer.Argument(metavar="TEXT", help="The text itself; - reads stdin.", show_default=False)
]
FileOption = Annotated[
    Path | None, typer.Option("--file", "-f", metavar="FILE", help="Read the text from this file.", show_default=False)
]
ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL",
        envvar=variable("model"),
        show_envvar=True,
        help="A built-in model, a folder, or a hub id such as HuggingFaceTB/SmolLM2-135M.",
    ),
]
DeviceOption = Annotated[
    DeviceChoice,
    typer.Option("--device", envvar=variable("device"), show_envvar=True, help="Where to compute."),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option(
        "--threads",
        metavar="N",
        min=1,
        envvar=variable("threads"),
        show_envvar=True,
        show_default="the cores this process may use",
        help="Threads to compute with.",
    ),
]
ColorOption = Annotated[
    ColorChoice,
    typer.Option(
        "--color",
        envvar=variable("color"),
        show_envvar=True,
        help="Colour on stdout; auto is: on a terminal, without NO_COLOR.",
    ),
]
SeedOption = Annotated[
    int | None,
    typer.Option(
        "--seed",
        metavar="N",
        min=0,
        envvar=variable("seed"),
        show_envvar=True,
        show_default="a new one each time",
        help="Start of the random numbers.",
    ),
]
KeepNewlineOption = Annotated[
    bool, typer.Option("--keep-newline", help="Keep the final newline of a file or of stdin.")
]
DtypeChoice = Literal["auto", "float32", "bfloat16", "float16", "float16-packed", "int8", "int4"]
"""The forms of weights that `model.loading` knows by name."""
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]


def _no_progress_bars(quiet: bool) -> bool:
    # In the environment: huggingface_hub, which draws the bars of a download, reads it there.
    if quiet:
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    return quiet


QuietOption = Annotated[
    bool, typer.Option("--quiet", "-q", help="Nothing on stderr but errors.", callback=_no_progress_bars)
]
