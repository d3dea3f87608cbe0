"""Chat: messages -> one prompt, by the model's own template, run in jinja2's immutable sandbox.

The template comes with the model and is untrusted: it can read the messages, and neither files nor attributes that
lead out. What it may use is what `transformers` offers to templates (`utils/chat_template_utils.py`): loop controls,
`tojson`, `raise_exception`, `strftime_now`, blocks trimmed.

Special-token text inside a message is plain text: a message cannot end its own turn or begin another's.
"""

import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from llmcli.errors import TokenizerError, UsageError
from llmcli.tokenizer import Tokenizer
from llmcli.tokenizer_engine import read_json

_TOKEN_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")

Message = dict[str, str]


def chat_ids(
    tokenizer: Tokenizer, folder: Path, messages: Sequence[Message], *, parse_special: bool = False
) -> list[int]:
    """The ids of a conversation that the assistant is to continue, exactly as the template spells it: nothing is added.

    messages: `{"role": ..., "content": ...}` each. `parse_special` reads special tokens out of the messages too.
    Raises `UsageError` where the model has no template or the template refuses these messages, `TokenizerError` where
    the template itself fails.
    """
    if tokenizer.chat_template is None:
        raise UsageError("this model has no chat template", "leave out --chat, or choose a model made for chat")
    hidden: dict[str, str] = {}
    if not parse_special:
        messages = [{**each, "content": _hide(each["content"], tokenizer, hidden)} for each in messages]
    text = render(tokenizer.chat_template, messages, special_texts(tokenizer, folder))
    for each in messages:
        if each["role"] == "system" and each["content"].strip() not in text:
            raise UsageError("the model's chat template has no place for a system message", "leave out --system")
    ids: list[int] = []
    for part, plain in _parts(text, hidden):
        ids += tokenizer.encode(part, parse_special=not plain)
    return ids


def render(template: str, messages: Sequence[Message], variables: dict[str, Any]) -> str:
    """The template's text for these messages, ready for the assistant's answer. Raises as `chat_ids` does."""
    from jinja2 import TemplateError, TemplateSyntaxError
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    try:
        compiled = environment.from_string(template)
        return compiled.render(messages=list(messages), add_generation_prompt=True, **variables)
    except UsageError:
        raise
    except TemplateSyntaxError as error:
        raise TokenizerError(f"the model's chat template is malformed: {error}", "leave out --chat") from error
    except (
        TemplateError,
        ArithmeticError,
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        RecursionError,
    ) as error:
        raise TokenizerError(f"the model's chat template failed: {error}", "leave out --chat") from error


def special_texts(tokenizer: Tokenizer, folder: Path) -> dict[str, str]:
    """The special tokens that a template may name, such as `bos_token`, as the model's files spell them."""
    settings = {**read_json(folder / "special_tokens_map.json"), **read_json(folder / "tokenizer_config.json")}
    found: dict[str, str] = {}
    for name in _TOKEN_NAMES:
        value = settings.get(name)
        value = value.get("content") if isinstance(value, dict) else value
        if isinstance(value, str):
            found[name] = value
    if "bos_token" not in found and settings.get("bos_token", "") is not None and tokenizer.bos_id is not None:
        found["bos_token"] = tokenizer.piece(tokenizer.bos_id)
    return found


def _tojson(value: Any, indent: int | None = None, ensure_ascii: bool = False, **options: Any) -> str:
    """jinja2's own filter escapes HTML; templates mean plain JSON."""
    return json.dumps(value, indent=indent, ensure_ascii=ensure_ascii, **options)


def _refuse(message: str) -> NoReturn:
    raise UsageError(f"the model's chat template refuses this: {message}", "leave out --system, or --chat")


def _hide(content: str, tokenizer: Tokenizer, hidden: dict[str, str]) -> str:
    """A message with each special token's text replaced by a stand-in, noted in `hidden`."""
    for token in sorted((each["content"] for each in tokenizer.added_tokens), key=len, reverse=True):
        if token and token in content:
            stand_in = f"\ue000{len(hidden)}\ue001"  # private-use characters, which no model's text assigns
            hidden[stand_in] = token
            content = content.replace(token, stand_in)
    return content


def _parts(text: str, hidden: dict[str, str]) -> Iterator[tuple[str, bool]]:
    """The rendered text cut at the stand-ins: (text, whether it is plain whatever it spells)."""
    while text:
        at, stand_in = min(((text.find(each), each) for each in hidden if each in text), default=(len(text), ""))
        if at:
            yield text[:at], False
        if stand_in:
            yield hidden[stand_in], True
        text = text[at + len(stand_in) :]
