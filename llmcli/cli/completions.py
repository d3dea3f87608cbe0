"""`llmcli completions`: print the completion script of a shell."""

from pathlib import Path
from typing import Annotated, Literal, get_args

import typer

from llmcli.cli.io import write_out

Shell = Literal["bash", "zsh", "fish"]
FILES: dict[str, str] = {"bash": "llmcli.bash", "zsh": "_llmcli", "fish": "llmcli.fish"}


def completions(
    shell: Annotated[Shell, typer.Argument(metavar="SHELL", help="bash, zsh or fish.", show_default=False)],
) -> None:
    """Print the completion script of a shell: commands, options, models and files.

    \b
    Examples:
      $ llmcli completions bash > ~/.local/share/bash-completion/completions/llmcli
      $ llmcli completions zsh > ~/.zfunc/_llmcli        # a folder of your $fpath
      $ llmcli completions fish > ~/.config/fish/completions/llmcli.fish
    """
    write_out(script(shell))


def script(shell: str) -> str:
    """The text of a shell's completion script, from the commands as they are."""
    from llmcli.completions import bash, fish, zsh
    from llmcli.completions.tree import read_tree
    from llmcli.resolve import builtin_names

    render = {"bash": bash.render, "zsh": zsh.render, "fish": fish.render}[shell]
    return render(read_tree(), builtin_names())


def main(folder: Path, *, write: bool) -> int:
    """Write every script into a folder; without `write` say which are stale, and return 1 if any is."""
    stale = 0
    for shell in get_args(Shell):
        path, text = folder / FILES[shell], script(shell)
        if write:
            path.write_text(text, "utf-8")
        elif not path.is_file() or path.read_text("utf-8") != text:
            print(f"{path} is stale: run python -m llmcli.cli.completions --write {folder}")
            stale = 1
    return stale


if __name__ == "__main__":
    import sys

    sys.exit(main(Path(sys.argv[-1]), write="--write" in sys.argv[1:-1]))
