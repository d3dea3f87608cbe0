"""Values of options without pydantic, which Typer would import for them: it costs more than a line of text to tokenize.

Only values that are plainly right are converted here. All others go Typer's own way, which also words the errors.
"""

import re
from pathlib import Path
from typing import Any, get_args, get_origin

_WHOLE = re.compile(r"-?[0-9]{1,18}")
_DECIMAL = re.compile(r"-?[0-9]{1,15}(\.[0-9]{0,15})?")


class _UnsureError(Exception):
    """The value may be wrong, or of a type that is not known here."""


def lighten(parameter: Any) -> None:
    """Give a parameter of a command a conversion that tries this module first."""
    thorough = parameter.process_value

    def process_value(context: Any, value: Any) -> Any:
        try:
            value = _converted(parameter, value)
        except _UnsureError:
            return thorough(context, value)
        return value if parameter.callback is None else parameter.callback(context, parameter, value)

    parameter.process_value = process_value


def _converted(parameter: Any, value: Any) -> Any:
    descriptor = getattr(parameter, "type_descriptor", None)
    if descriptor is None:
        raise _UnsureError
    several = parameter.multiple or parameter.nargs == -1
    if value is None or (several and value == ()):
        if parameter.required:
            raise _UnsureError
        return () if several else None
    kind, info = descriptor.annotation, descriptor.parameter_info
    if several:
        if get_origin(kind) is not list or not isinstance(value, list | tuple):
            raise _UnsureError
        return tuple(_one(get_args(kind)[0], info, each) for each in value)
    return _one(kind, info, value)


def _one(kind: Any, info: Any, value: Any) -> Any:
    """One value as its type. Raises `_UnsureError` for everything but a plain value within its limits."""
    if info.parser is not None or info.clamp:
        raise _UnsureError
    if kind is bool and isinstance(value, bool):
        return value
    if kind is str and isinstance(value, str):
        return value
    if kind is Path and isinstance(value, str) and not (info.exists or info.resolve_path):
        return Path(value)
    if kind is int or kind is float:
        return _number(kind, info, value)
    if value in (choices := get_args(kind)) and all(isinstance(each, str) for each in choices):
        return value
    raise _UnsureError


def _number(kind: Any, info: Any, value: Any) -> Any:
    if isinstance(value, str) and (_WHOLE if kind is int else _DECIMAL).fullmatch(value):
        value = kind(value)
    if type(value) is not kind or value != value:
        raise _UnsureError
    if (info.min is not None and value < info.min) or (info.max is not None and value > info.max):
        raise _UnsureError
    return value
