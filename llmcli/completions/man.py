"""The man page llmcli(1), in the macros of man(7): what `--help` says of every command, on one page."""

import re
from collections.abc import Iterable, Iterator

from llmcli import errors
from llmcli.completions.tree import Command
from llmcli.settings import SETTINGS

# Said once, in the section on the program, and not again with every command.
_COMMON = ("--help", "--debug")
_FILES = {
    "$XDG_CONFIG_HOME/llmcli/config.toml": (
        "Settings, named as the variables are, without LLMCLI_ and in small letters. A flag goes before a variable, "
        "and a variable before this file."
    ),
    "$HF_HOME/hub": "Models that were downloaded.",
}
# What roff would read as its own, or typeset as something that cannot be typed again.
_SPELLED = str.maketrans({"\\": "\\e", "-": "\\-", "'": "\\(aq", "`": "\\(ga", "^": "\\(ha", "~": "\\(ti"})


def render(program: Command, version: str) -> str:
    """The page of the program in a version. No date stands in it: the same program gives the same page."""
    return "\n".join(_page(program, version)) + "\n"


def _page(program: Command, version: str) -> Iterator[str]:
    commands = [each for each in program.walk() if each.path]
    yield '.\\" Written by: python -m llmcli.cli.completions --write completions'
    yield f'.TH LLMCLI 1 "" "llmcli {version}" "User Commands"'
    yield ".ad l\n.nh"  # a command that is broken in two, or spread out, is no longer what to type
    yield ".SH NAME"
    yield "llmcli \\- " + _plain(program.about[:1].lower() + program.about[1:].rstrip("."))
    yield ".SH SYNOPSIS"
    yield ".B llmcli"
    yield _plain("COMMAND [OPTIONS] [ARGUMENT]")
    yield ".SH DESCRIPTION"
    yield from _prose(program.about)
    yield ".PP\nThe commands are:"
    yield from _entries((each.path, each.help) for each in commands)
    yield "Options of all commands:"
    yield from _entries(each.entry for each in program.options)
    yield ".SH COMMANDS"
    for each in commands:
        yield from _command(each)
    yield ".SH ENVIRONMENT"
    yield from _entries((each.variable, f"Default: {each.default}.") for each in SETTINGS.values())
    yield ".SH FILES"
    yield from _entries(_FILES.items())
    yield ".SH EXIT STATUS"
    tree = errors.__doc__ or ""
    yield from _entries(re.findall(r"(\d)   (\S.*)", tree))
    yield from _prose(tree.rpartition("\n\n")[2])


def _command(command: Command) -> Iterator[str]:
    yield f".SS {_plain(command.usage)}"
    yield from _prose(command.about)
    if command.argument is not None:
        yield from _entries([(command.argument.entry[0].partition(" ")[0], command.argument.entry[1])])
    yield from _entries(each.entry for each in command.options if not set(_COMMON) & set(each.names))


def _entries(pairs: Iterable[tuple[str, str]]) -> Iterator[str]:
    """A list of terms with what they mean, and a new paragraph."""
    for term, meaning in pairs:
        yield ".TP"
        yield f".B {_plain(term)}"
        # Long lists without blanks may break after a comma.
        yield _plain(" ".join(meaning.split())).replace(",", ",\\:")
    yield ".PP"


def _prose(text: str) -> Iterator[str]:
    """Paragraphs. One whose lines help leaves as they are, marked by a backspace or indented, is left here too."""
    for paragraph in text.strip("\n").split("\n\n"):
        lines = [line.rstrip() for line in paragraph.strip("\n").removeprefix("\b\n").split("\n")]
        yield ".PP"
        if paragraph.startswith(("\b", "    ")):
            yield from (".nf", *map(_plain, lines), ".fi")
        else:
            yield _plain(" ".join(line.strip() for line in lines))


def _plain(text: str) -> str:
    """One line of text that roff sets as it is."""
    spelled = "".join(each if each.isascii() else f"\\[u{ord(each):04X}]" for each in text.translate(_SPELLED))
    return "\\&" + spelled if spelled.startswith((".", " ")) else spelled
