"""The decoders of a `tokenizer.json` as small machines that take one token and give the text that is settled by it.

A decoder maps the list of all tokens to text. Here each of its steps gives, token by token, what no later token can
change any more, and holds back the rest: the first bytes of a character, a run of byte tokens that one more byte can
make invalid, a last token that is written otherwise. Each push costs time in proportion to the token alone.

The steps follow the decoders of the `tokenizers` library, release 0.22 and later (`tokenizers/src/decoders` and
`pre_tokenizers/{byte_level,metaspace}.rs`). A decoder that is not known here is not guessed at.
"""

import codecs
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

REPLACEMENT = "\ufffd"


def byte_alphabet() -> dict[str, int]:
    """The 256 characters that stand for bytes in a byte-level vocabulary (GPT-2, `encoder.py`): character -> byte."""
    kept = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in kept]
    return {chr(byte): byte for byte in kept} | {chr(256 + i): byte for i, byte in enumerate(others)}


_ALPHABET = byte_alphabet()


def byte_level_bytes(token: str) -> bytes:
    """The bytes of a byte-level token. One character outside the alphabet makes the whole token plain text."""
    try:
        return bytes([_ALPHABET[character] for character in token])
    except KeyError:
        return token.encode("utf-8", "surrogatepass")


# The library parses the two characters as Rust does, which takes a plus sign.
_FALLBACK = re.compile(r"<0x([0-9A-Fa-f]{2}|\+[0-9A-Fa-f])>")


def fallback_byte(token: str) -> int | None:
    """The byte of a byte-fallback token, `<0x0A>` -> 10; None for other tokens."""
    match = _FALLBACK.fullmatch(token)
    return int(match[1], 16) if match else None


class Step(ABC):
    """One decoder as a machine on tokens: `push` and `finish` give the tokens of the next step that are settled."""

    joins = False  # the library's decoder gives one token whatever comes in

    @abstractmethod
    def push(self, token: str) -> Iterable[str]: ...

    def finish(self) -> Iterable[str]:
        return ()


class Each(Step):
    """A decoder that looks at one token at a time; `first` replaces it for the first."""

    def __init__(self, each: Callable[[str], str], first: Callable[[str], str] | None = None) -> None:
        self.each = each
        self.now = first or each

    def push(self, token: str) -> Iterable[str]:
        text = self.now(token)
        self.now = self.each
        return (text,)


class Bytes(Step):
    """ByteLevel: the bytes of all tokens in a row, read as UTF-8, each invalid sequence one U+FFFD."""

    joins = True

    def __init__(self) -> None:
        self.pending = b""

    def push(self, token: str) -> Iterable[str]:
        # A decoder object cannot be copied: the incomplete bytes at the end are kept here instead.
        data = self.pending + byte_level_bytes(token)
        text, used = codecs.utf_8_decode(data, "replace", False)
        self.pending = data[used:]
        return (text,)

    def finish(self) -> Iterable[str]:
        return (self.pending.decode("utf-8", "replace"),)


class ByteFallback(Step):
    """A run of byte tokens is text where the whole run is UTF-8, else one U+FFFD for each of its bytes.

    So the run is held until a token of another kind ends it.
    """

    def __init__(self) -> None:
        self.run = bytearray()

    def push(self, token: str) -> Iterable[str]:
        byte = fallback_byte(token)
        if byte is None:
            return (*self.finish(), token)
        self.run.append(byte)
        return ()

    def finish(self) -> Iterable[str]:
        run, self.run = self.run, bytearray()
        if not run:
            return ()
        try:
            return (run.decode("utf-8"),)
        except UnicodeDecodeError:
            return (REPLACEMENT,) * len(run)


class Fuse(Each):
    """All tokens become one."""

    joins = True

    def __init__(self) -> None:
        super().__init__(str)


class StripStart(Step):
    """Strip after Fuse: up to `count` of a character go from the start of the whole text."""

    joins = True

    def __init__(self, content: str, count: int) -> None:
        self.content = content
        self.left = count

    def push(self, token: str) -> Iterable[str]:
        while self.left and token:
            if not token.startswith(self.content):
                self.left = 0
            else:
                token = token[1:]
                self.left -= 1
        return (token,)


class LastDiffers(Step):
    """BPEDecoder: an end-of-word suffix is a space, and nothing in the last token."""

    def __init__(self, suffix: str) -> None:
        self.suffix = suffix
        self.held: str | None = None

    def push(self, token: str) -> Iterable[str]:
        held, self.held = self.held, token
        return () if held is None else (held.replace(self.suffix, " "),)

    def finish(self) -> Iterable[str]:
        return () if self.held is None else (self.held.replace(self.suffix, ""),)


def build_steps(state: dict[str, Any]) -> list[Step] | None:
    """The machines of a decoder as `tokenizer.json` describes it (empty: no decoder), None where one is not known."""
    if not state:
        return [Each(lambda token: " " + token, first=str)]
    steps: list[Step] = []
    joined = False
    for part in flat_decoders(state):
        step = _step(part, joined)
        if step is None:
            return None
        steps.append(step)
        joined = joined or step.joins
    return steps


def flat_decoders(state: dict[str, Any]) -> list[dict[str, Any]]:
    """The decoders that a decoder consists of, in order. An empty state cannot be asked."""
    if state["type"] != "Sequence":
        return [state]
    return [each for part in state["decoders"] for each in flat_decoders(part)]


def _step(state: dict[str, Any], joined: bool) -> Step | None:
    """One machine. After a step that joins, only what works on a stream of one token's parts is known."""
    match state["type"]:
        case "ByteLevel" if not joined:
            return Bytes()
        case "Fuse":
            return Fuse()
        case "ByteFallback" if not joined:
            return ByteFallback()
        case "Replace" if "String" in state["pattern"]:
            pattern, content = state["pattern"]["String"], state["content"]
            # Across the parts of a joined token only single characters are found the same.
            if pattern and (not joined or len(pattern) == 1):
                return Each(lambda token: token.replace(pattern, content))
        case "Strip" if state["stop"] == 0:
            content, count = state["content"], state["start"]
            if joined:
                return StripStart(content, count)
            return Each(lambda token: _strip_start(token, content, count))
        case "Metaspace" if not joined:
            mark = state["replacement"]
            first = (lambda t: t.replace(mark, "")) if state["prepend_scheme"] != "never" else None
            return Each(lambda token: token.replace(mark, " "), first)
        case "WordPiece" if not joined:
            return _word_piece(state["prefix"], state["cleanup"])
        case "BPEDecoder" if not joined:
            return LastDiffers(state["suffix"])
    return None


def _strip_start(token: str, content: str, count: int) -> str:
    while count and token.startswith(content):
        token, count = token[1:], count - 1
    return token


_CLEANUP = {" .": ".", " ?": "?", " !": "!", " ,": ",", " ' ": "'", " n't": "n't", " 'm": "'m", " do not": " don't"}
_CLEANUP |= {" 's": "'s", " 've": "'ve", " 're": "'re"}


def _word_piece(prefix: str, cleanup: bool) -> Step:
    def clean(token: str) -> str:
        for wrong, right in _CLEANUP.items() if cleanup else ():
            token = token.replace(wrong, right)
        return token

    def each(token: str) -> str:
        return clean(token.removeprefix(prefix) if token.startswith(prefix) else " " + token)

    return Each(each, clean)
