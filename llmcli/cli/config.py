"""`llmcli config`: the settings in force and where each comes from."""

import typer

from llmcli.cli.io import write_json, write_out
from llmcli.cli.options import JsonOption
from llmcli.settings import config_path, sources

app = typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=False)


@app.callback()
def config() -> None:
    """Settings come from flags, then LLMCLI_* variables, then the configuration file, then defaults.

    \b
    Example:
      $ llmcli config show
    """


@app.command("show")
def show(json: JsonOption = False) -> None:
    """Print every setting with its value and its source.

    \b
    Example:
      $ llmcli config show --json
    """
    found = sources()
    if json:
        settings = {each.name: {"value": each.value, "source": each.source} for each in found}
        write_json({"schema_version": 1, "file": str(config_path()), "settings": settings})
        return
    name_width = max(len(each.name) for each in found)
    value_width = max(len(each.value) for each in found)
    rows = "".join(f"{each.name:<{name_width}}  {each.value:<{value_width}}  {each.source}\n" for each in found)
    write_out(f"{rows}\nfile: {config_path()}{'' if config_path().is_file() else ' (absent)'}\n")
