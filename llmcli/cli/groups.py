"""Options that several commands share, as one dataclass a group: a command asks for the group, users see its options.

    @dataclass(frozen=True)
    class OutputOptions:
        json: JsonOption = False
        quiet: QuietOption = False

    @with_groups
    def command(text: TextArgument, output: OutputOptions) -> None: ...

`command` then has the options `--json` and `--quiet` where `output` stands, and gets them as one checked value: what a
group's `__post_init__` raises is said before the command begins.
"""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, get_type_hints


def with_groups(command: Callable[..., None]) -> Callable[..., None]:
    """The command with every parameter whose annotation is a dataclass spread out into that dataclass's fields."""
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, type[Any]] = {}
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        kind = hints[parameter.name]
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            groups[parameter.name] = kind
            parameters += _options(kind)
        else:
            parameters.append(parameter.replace(annotation=kind, kind=inspect.Parameter.POSITIONAL_OR_KEYWORD))
    # Python wants parameters without a default first; the order that users see is the order of the options alone.
    parameters.sort(key=lambda each: each.default is not inspect.Parameter.empty)

    def spread(**values: Any) -> None:
        made = {
            name: kind(**{each.name: values.pop(each.name) for each in dataclasses.fields(kind)})
            for name, kind in groups.items()
        }
        command(**values, **made)

    spread.__name__, spread.__doc__, spread.__module__ = command.__name__, command.__doc__, command.__module__
    spread.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    spread.__annotations__ = {each.name: each.annotation for each in parameters}
    return spread


def _options(kind: type[Any]) -> list[inspect.Parameter]:
    hints = get_type_hints(kind, include_extras=True)
    return [
        inspect.Parameter(
            each.name,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=inspect.Parameter.empty if each.default is dataclasses.MISSING else each.default,
            annotation=hints[each.name],
        )
        for each in dataclasses.fields(kind)
    ]
