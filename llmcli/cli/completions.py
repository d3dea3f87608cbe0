"""`llmcli completions`: print the completion script of a shell."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from llmcli.cli.io import write_out

Shell = Literal["bash", "zsh", "fish"]
FILES: dict[str, str] = {"bash": "llmcli.bash", "zsh": "_llmcli", "fish": "llmcli.fish", "man": "llmcli.1"}


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
    """The text of a shell's completion script, or for "man" of the man page, from the commands as they are."""
    from llmcli.completions import bash, fish, man, zsh
    from llmcli.completions.tree import read_tree
    from llmcli.resolve import builtin_names
    from llmcli.version import __version__

    if shell == "man":
        return man.render(read_tree(), __version__)
    render = {"bash": bash.render, "zsh": zsh.render, "fish": fish.render}[shell]
    return render(read_tree(), builtin_names())


def main(folder: Path, *, write: bool) -> int:
    """Write every script and the man page into a folder; without `write` say which are stale, and return 1 if any
    is."""
    stale = 0
    for shell, name in FILES.items():
        path, text = folder / name, script(shell)
        if write:
            path.write_text(text, "utf-8")
        elif not path.is_file() or path.read_text("utf-8") != text:
            print(f"{path} is stale: run python -m llmcli.cli.completions --write {folder}")
            stale = 1
    return stale


if __name__ == "__main__":
    import sys

    sys.exit(main(Path(sys.argv[-1]), write="--write" in sys.argv[1:-1]))
