"""Token ids as they are typed, or as `llmcli tokenize` writes them."""

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from llmcli.errors import UsageError

_FORMS = "give numbers parted by spaces, commas or newlines, or the JSON of `llmcli tokenize --json`"
_BETWEEN = re.compile(r"[\s,]+")
_LONGEST = 40  # characters: what is longer without a space is no id


def parse_ids(texts: Iterable[str]) -> Iterator[list[int]]:
    """Ids in lists as their text comes in; JSON is read whole, since only its end says that it is JSON.

    A list is given when the next one is there, so that an error in short input comes before any text is written.
    """
    blocks = iter(texts)
    held: list[int] = []
    begun, rest = False, ""
    for block in blocks:
        rest += block
        if not begun and rest.lstrip()[:1] in ("{", "["):
            yield _from_json(rest + "".join(blocks))
            return
        *words, rest = _BETWEEN.split(rest)
        if len(rest) > _LONGEST:
            _number(rest)
        numbers = [_number(word) for word in words if word]
        if numbers:
            if begun:
                yield held
            begun, held = True, numbers
    yield [*held, *([_number(rest)] if rest else [])]


def _number(word: str) -> int:
    if len(word) <= _LONGEST and re.fullmatch(r"-?[0-9]+", word, re.ASCII):
        return int(word)
    shown = word if len(word) <= 40 else word[:40] + "..."
    raise UsageError(f"{shown!r} is not a token id", _FORMS)


def _from_json(text: str) -> list[int]:
    """The ids in a list of numbers, or of tokens with an `id`, or in an object's `tokens` or `ids`."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the ids begin as JSON but are not: {error}", _FORMS) from error
    if isinstance(value, dict):
        value = value.get("tokens", value.get("ids"))
    if not isinstance(value, list):
        raise UsageError("the JSON holds no list of ids", _FORMS)
    return [_id_in(each) for each in value]


def _id_in(value: Any) -> int:
    number = value.get("id") if isinstance(value, dict) else value
    if type(number) is not int:
        raise UsageError(f"{str(value)[:40]!r} in the JSON is not a token id", _FORMS)
    return number
