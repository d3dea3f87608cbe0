"""The command tree as plain data: what the shell templates and the man page need to know of each command."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

# What a value completes to, told by the name that help shows for it.
KINDS = {"MODEL": "model", "FILE": "file", "FOLDER": "folder", "DIR": "folder"}


@dataclass(frozen=True)
class Option:
    """One option: all its spellings, its help, and the kind of its value: flag, model, file, folder, choice or text.
    `entry` is how help shows it: the spellings with their value, and the help with variable and default."""

    names: tuple[str, ...]
    help: str
    kind: str
    choices: tuple[str, ...] = ()
    repeats: bool = False
    entry: tuple[str, str] = ("", "")


@dataclass(frozen=True)
class Command:
    """One command: its words after `llmcli` ("" for the program itself), and what may follow them. `usage` and `about`
    are the first line of its help and the text below it."""

    path: str
    help: str
    options: tuple[Option, ...]
    argument: Option | None
    commands: tuple["Command", ...] = field(default=())
    usage: str = ""
    about: str = ""

    def walk(self) -> Iterator["Command"]:
        """This command and all below it."""
        yield self
        for each in self.commands:
            yield from each.walk()


def read_tree() -> Command:
    """The tree of the real program. Imports every command's module, and through them no torch."""
    from llmcli.cli.app import COMMANDS, load_command, root_command

    commands = tuple(_read(name, load_command(name), line) for name, (_, line) in COMMANDS.items())
    program = _read("", root_command(), "")
    return replace(program, commands=commands)


def _read(path: str, command: Any, line: str) -> Command:
    import typer

    context = typer.Context(command, info_name=" ".join(["llmcli", *path.split()]))
    options, argument = [], None
    for each in command.params:
        if getattr(each, "hidden", False):
            continue
        if each.param_type_name == "argument":
            argument = argument or _option(each, context)
        else:
            options.append(_option(each, context))
    below = getattr(command, "commands", {}) if path else {}
    commands = tuple(_read(f"{path} {name}", each, _first_sentence(each.help)) for name, each in below.items())
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    return Command(path, line, tuple(options), argument, commands, usage, command.help or "")


def _option(parameter: Any, context: Any) -> Option:
    choices = tuple(str(each) for each in parameter.type_descriptor.choices or ())
    if getattr(parameter, "is_flag", False):
        kind = "flag"
    elif choices:
        kind = "choice"
    else:
        words = (parameter.metavar or "").strip("[].").split("|")
        named = [KINDS[each] for each in words if each in KINDS]
        kind = named[0] if named else "file" if parameter.type_descriptor.is_path else "text"
    names = (*parameter.opts, *parameter.secondary_opts)
    repeats = bool(getattr(parameter, "multiple", False)) or parameter.nargs == -1
    entry = parameter.get_help_record(context) or (names[0], "")
    return Option(names, " ".join((parameter.help or "").split()), kind, choices, repeats, entry)


def _first_sentence(text: str | None) -> str:
    first = " ".join((text or "").split("\n\n")[0].split())
    return first.split(". ")[0].rstrip(".") + "." if first else ""
