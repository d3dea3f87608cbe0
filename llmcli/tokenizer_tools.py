"""What can be asked of a text's tokens beyond the ids: its first or last tokens, its lines, a comparison, a check.

Each works on text that comes in pieces, and holds no more of it than the answer needs.
"""

import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from llmcli import chunking
from llmcli.chunking import Notice
from llmcli.tokenizer import Token, Tokenizer


@dataclass
class Tally:
    """Characters, bytes and tokens of a text; the first two are counted while it passes through."""

    characters: int = 0
    bytes: int = 0
    tokens: int = 0

    def through(self, texts: Iterable[str]) -> Iterator[str]:
        """The same pieces of text, counted."""
        for text in texts:
            self.characters += len(text)
            self.bytes += len(text) if text.isascii() else len(text.encode())
            yield text


@dataclass(frozen=True)
class Reader:
    """A tokenizer with the way it is to read a text: which special tokens, and who is told of what cannot be cut."""

    tokenizer: Tokenizer
    special: bool = False
    parse_special: bool = False
    notice: Notice = field(default=print)

    def ids(self, texts: Iterable[str]) -> Iterator[list[int]]:
        """The ids of a text, in lists."""
        return chunking.encode_stream(self.tokenizer, texts, **self._options)

    def chunks(self, texts: Iterable[str]) -> Iterator[tuple[bytes, list[Token]]]:
        """The chunks of a text as bytes, each with its tokens, whose offsets are into the chunk."""
        return chunking.token_chunks(self.tokenizer, texts, **self._options)

    def tokens(self, texts: Iterable[str]) -> Iterator[Token]:
        """The tokens of a text, their offsets into the whole of it."""
        return (token for token, _ in self.tokens_with_bytes(texts))

    def tokens_with_bytes(self, texts: Iterable[str]) -> Iterator[tuple[Token, bytes]]:
        """The same tokens, each with the bytes of the text that it covers."""
        base = 0
        for data, tokens in self.chunks(texts):
            for each in tokens:
                start, end = each.start, each.end
                yield Token(each.id, each.piece, base + start, base + end, each.special), data[start:end]
            base += len(data)

    def count(self, texts: Iterable[str]) -> Tally:
        """How much of each there is."""
        tally = Tally()
        tally.tokens = chunking.count_stream(self.tokenizer, tally.through(texts), **self._options)
        return tally

    def lines(self, texts: Iterable[str]) -> Iterator[tuple[str, int]]:
        """Each line of a text without its newline, and how many tokens it has by itself."""
        batch: list[str] = []
        size = 0
        for line in _lines(texts):
            batch.append(line)
            size += len(line)
            if size >= chunking.BATCH * chunking.CHUNK:
                yield from self._count_lines(batch)
                batch, size = [], 0
        yield from self._count_lines(batch)

    def _count_lines(self, lines: list[str]) -> Iterator[tuple[str, int]]:
        if sum(map(len, lines)) > 2 * chunking.BATCH * chunking.CHUNK:  # one of them is long: each in chunks
            counts = [self.count([line]).tokens for line in lines]
        else:
            counts = self.tokenizer.count_batch(lines, special=self.special, parse_special=self.parse_special)
        return zip(lines, counts, strict=True)

    @property
    def _options(self) -> dict[str, Any]:
        return {"special": self.special, "parse_special": self.parse_special, "notice": self.notice}


def _lines(texts: Iterable[str]) -> Iterator[str]:
    """Text in lines that end at newlines alone; a last one without its newline counts too."""
    parts: list[str] = []
    for text in texts:
        first, *others = text.split("\n")
        parts.append(first)
        for line in others:
            yield "".join(parts)
            parts = [line]
    last = "".join(parts)
    if last:
        yield last


def first_tokens(reader: Reader, texts: Iterable[str], wanted: int) -> Iterator[bytes]:
    """The text of the first tokens, byte for byte. No more of the text is read than that takes."""
    for data, tokens in reader.chunks(texts) if wanted else ():
        if wanted < len(tokens):
            yield data[: tokens[wanted - 1].end]
            return
        yield data
        wanted -= len(tokens)
        if wanted == 0:
            return


def last_tokens(reader: Reader, texts: Iterable[str], wanted: int) -> Iterator[bytes]:
    """The text of the last tokens, byte for byte. Only the chunks that may hold them are kept."""
    kept: deque[tuple[bytes, list[Token]]] = deque()
    held = 0
    for data, tokens in reader.chunks(texts):
        kept.append((data, tokens))
        held += len(tokens)
        while held - len(kept[0][1]) >= wanted and len(kept) > 1:
            held -= len(kept.popleft()[1])
    surplus = max(0, held - wanted)
    for data, tokens in kept:
        if surplus >= len(tokens):
            surplus -= len(tokens)
        else:
            yield data[tokens[surplus].start if surplus else 0 :]
            surplus = 0


class Difference(NamedTuple):
    """The first byte where decode(encode(text)) is not the text; None is the end of either."""

    offset: int
    text: int | None
    decoded: int | None


def round_trip(reader: Reader, texts: Iterable[str]) -> tuple[Difference | None, Tally]:
    """Compare decode(encode(text)) with the text while both pass by; also how much was compared."""
    tally, stream = Tally(), reader.tokenizer.stream()
    given, decoded, offset = bytearray(), bytearray(), 0
    for data, tokens in reader.chunks(tally.through(texts)):
        tally.tokens += len(tokens)
        given += data
        decoded += "".join([stream.push(each.id) for each in tokens]).encode()
        same = _common(given, decoded)
        offset += same
        del given[:same], decoded[:same]
        if given and decoded:
            break
    decoded += stream.finish().encode()
    same = _common(given, decoded)
    del given[:same], decoded[:same]
    if not given and not decoded:
        return None, tally
    return Difference(offset + same, given[0] if given else None, decoded[0] if decoded else None), tally


def _common(one: bytearray, other: bytearray) -> int:
    """How many bytes two buffers begin with in common."""
    length = min(len(one), len(other))
    if one[:length] == other[:length]:
        return length
    return next(i for i in range(length) if one[i] != other[i])


class Span(NamedTuple):
    """A stretch of text between two places where both of two tokenizers have a token end."""

    data: bytes
    ours: list[Token]
    theirs: list[Token]


def side_by_side(ours: Reader, theirs: Reader, texts: Iterable[str]) -> Iterator[Span]:
    """One text as two tokenizers split it, in the smallest spans of whole characters that begin and end together."""
    left, right = itertools.tee(texts)
    one, other = ours.tokens_with_bytes(left), theirs.tokens_with_bytes(right)
    a, b = next(one, None), next(other, None)
    span = Span(b"", [], [])
    reached = [0, 0]
    while a is not None or b is not None:
        if b is None or (a is not None and reached[0] <= reached[1]):
            assert a is not None
            token, data = a
            span = Span(span.data + data, [*span.ours, token], span.theirs)
            reached[0], a = token.end, next(one, None)
        else:
            token, _ = b
            span = Span(span.data, span.ours, [*span.theirs, token])
            reached[1], b = token.end, next(other, None)
        if span.ours and span.theirs and reached[0] == reached[1] and _whole(span.data):
            yield span
            span = Span(b"", [], [])
    if span.ours or span.theirs:
        yield span


def _whole(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
