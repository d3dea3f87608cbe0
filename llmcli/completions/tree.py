"""The command tree as plain data: what the shell templates need to know of each command."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

# What a value completes to, told by the name that help shows for it.
KINDS = {"MODEL": "model", "FILE": "file", "FOLDER": "folder", "DIR": "folder"}


@dataclass(frozen=True)
class Option:
    """One option: all its spellings, its help, and the kind of its value: flag, model, file, folder, choice or text."""

    names: tuple[str, ...]
    help: str
    kind: str
    choices: tuple[str, ...] = ()
    repeats: bool = False


@dataclass(frozen=True)
class Command:
    """One command: its words after `llmcli` ("" for the program itself), and what may follow them."""

    path: str
    help: str
    options: tuple[Option, ...]
    argument: Option | None
    commands: tuple["Command", ...] = field(default=())

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
    return Command("", program.help, program.options, None, commands)


def _read(path: str, command: Any, line: str) -> Command:
    options, argument = [], None
    for each in command.params:
        if getattr(each, "hidden", False):
            continue
        if each.param_type_name == "argument":
            argument = argument or _option(each)
        else:
            options.append(_option(each))
    below = getattr(command, "commands", {}) if path else {}
    commands = tuple(_read(f"{path} {name}", each, _first_sentence(each.help)) for name, each in below.items())
    return Command(path, line, tuple(options), argument, commands)


def _option(parameter: Any) -> Option:
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
    return Option(names, " ".join((parameter.help or "").split()), kind, choices, repeats)


def _first_sentence(text: str | None) -> str:
    first = " ".join((text or "").split("\n\n")[0].split())
    return first.split(". ")[0].rstrip(".") + "." if first else ""
