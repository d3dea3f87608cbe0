"""From a view's numbers to its JSON document, field by field; what is drawn is drawn from the document. Torch-free."""

from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple

from llmcli.model.config import ModelConfig

SCHEMA_VERSION = 1


class ShownToken(NamedTuple):
    """A token to be named in a view: its id, how the vocabulary spells it, and how it is shown: `␣world`, `↵`."""

    id: int
    piece: str
    label: str


def document(view: str, numbers: Any, *, model: str, dtype: str) -> dict[str, Any]:
    """The JSON document of a view's numbers, a frozen dataclass: its fields, and its properties."""
    head = {"schema_version": SCHEMA_VERSION, "view": view, "model": model, "dtype": dtype}
    fields_of: dict[str, Any] = as_plain(numbers)
    return head | fields_of


def as_plain(value: Any) -> Any:
    """Dataclasses as objects, tokens as {id, piece, label}, tuples as lists; numpy arrays as they are.

    A field with the metadata `{"json": False}` is left out.
    """
    if isinstance(value, ShownToken):
        return {"id": value.id, "piece": value.piece, "label": value.label}
    if isinstance(value, list | tuple):
        return [as_plain(each) for each in value]
    if isinstance(value, dict):
        return {str(key): as_plain(each) for key, each in value.items()}
    if not is_dataclass(value):
        return value
    names = [each.name for each in fields(value) if each.metadata.get("json", True)]
    if not isinstance(value, ModelConfig):
        names += [name for name, each in vars(type(value)).items() if isinstance(each, property)]
    return {name: as_plain(getattr(value, name)) for name in names}
