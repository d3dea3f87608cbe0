"""`llmcli models`: what is at hand, where it lies, and how to get others."""

import sys
from pathlib import Path
from shutil import get_terminal_size
from textwrap import fill
from typing import Annotated, Any

import typer

from llmcli.cli.io import is_terminal, write_json, write_out
from llmcli.cli.options import JsonOption
from llmcli.resolve import BUILTIN, builtin_names, cached_folder, cached_names, hub_cache, resolve

app = typer.Typer(add_completion=False, rich_markup_mode=None)

HOW_TO = (
    "Others: -m takes the folder of a Hugging Face model, or a hub id such as HuggingFaceTB/SmolLM2-135M, which is "
    "downloaded once into the cache. HF_HOME moves the cache, HF_TOKEN opens private models, HF_HUB_OFFLINE=1 forbids "
    "downloads."
)


@app.callback(invoke_without_command=True)
def models(
    context: typer.Context,
    json: JsonOption = False,
    names: Annotated[bool, typer.Option("--names", help="Names only, one a line.")] = False,
) -> None:
    """List the built-in and the downloaded models, and say how to get others.

    \b
    Examples:
      $ llmcli models
      $ llmcli models path stories
    """
    if context.invoked_subcommand is not None:
        return
    if names:
        write_out("".join(f"{each}\n" for each in [*builtin_names(), *cached_names()]))
        return
    found = _found()
    if json:
        write_json({"schema_version": 1, "cache": str(hub_cache()), "models": found})
    else:
        write_out(_listing(found))


@app.command("path")
def path(
    name: Annotated[str, typer.Argument(metavar="MODEL", help="A built-in name, a folder or a hub id.")],
) -> None:
    """Print the folder of a model; a hub id that is not in the cache is downloaded first.

    \b
    Example:
      $ ls "$(llmcli models path stories)"
    """
    write_out(f"{_shown(str(resolve(name).absolute()))}\n")


def _found() -> list[dict[str, Any]]:
    """Name, kind, folder and size in bytes of every model at hand."""
    built_in = [(name, "built-in", BUILTIN / name) for name in builtin_names()]
    cached = [(name, "cached", cached_folder(name)) for name in cached_names()]
    return [
        {"name": name, "kind": kind, "folder": str(folder), "bytes": _size(folder)}
        for name, kind, folder in (*built_in, *cached)
        if folder is not None
    ]


def _size(folder: Path) -> int:
    return sum(each.stat().st_size for each in folder.iterdir() if each.is_file())


def _listing(found: list[dict[str, Any]]) -> str:
    width = max((len(each["name"]) for each in found), default=0)
    lines = [
        f"{each['name']:<{width}}  {each['kind']:<8}  {each['bytes'] / 1e6:9.1f} MB  {each['folder']}" for each in found
    ]
    table = "".join(f"{_shown(line)}\n" for line in lines) or "No model is at hand.\n"
    how_to = fill(HOW_TO, min(get_terminal_size().columns, 100), break_long_words=False, break_on_hyphens=False)
    return f"{table}\n{how_to}\n"


def _shown(line: str) -> str:
    if not is_terminal(sys.stdout):
        return line
    from llmcli.render.safe import visible

    return visible(line)
