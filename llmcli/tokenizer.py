"""Text to token ids and back: the first and the last stage, without torch.

`Tokenizer` wraps an engine of the `tokenizers` library so that nothing happens unasked: no special token is added, no
special token is read out of a text, nothing is cut or padded; and so that offsets are exact down to the byte.
"""

from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Encoding
from tokenizers import Tokenizer as Engine

from llmcli.errors import TokenizerError, UsageError
from llmcli.tokenizer_engine import REMEDY, contained, load_engine, read_json, state_of
from llmcli.tokenizer_steps import build_steps, byte_level_bytes, fallback_byte
from llmcli.tokenizer_stream import StreamDecoder

_GPT2_END = "<|endoftext|>"


class Token(NamedTuple):
    """One token of a text: bytes `start` to `end` of its UTF-8 are what it covers, none for one that was added."""

    id: int
    piece: str
    start: int
    end: int
    special: bool


class Tokenizer:
    """Encodes and decodes as one `tokenizer.json` says."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self._engine = engine
        self._folder = folder
        self._raw: dict[int, bytes] = {}  # the bytes of tokens seen so far

    @classmethod
    def from_folder(cls, path: Path | str) -> "Tokenizer":
        """The tokenizer of a model folder. Raises `TokenizerError`."""
        folder = Path(path)
        return cls(load_engine(folder), folder)

    # --- encoding ---

    def encode(self, text: str, *, special: bool = False, parse_special: bool = False) -> list[int]:
        """The ids of a text.

        `special` adds what the post-processor defines, such as a beginning-of-text token. `parse_special` reads the
        text of special tokens as these tokens; without it that is plain text.
        """
        return list(self._encoding(text, special, parse_special).ids)

    def encode_batch(
        self, texts: Sequence[str], *, special: bool = False, parse_special: bool = False
    ) -> list[list[int]]:
        """The ids of each text. All cores work on it, and no offsets are computed: the way for large input."""
        return [list(each.ids) for each in self._encodings(texts, special, parse_special)]

    def count_batch(self, texts: Sequence[str], *, special: bool = False, parse_special: bool = False) -> list[int]:
        """The number of ids of each text."""
        return [len(each) for each in self._encodings(texts, special, parse_special)]

    def tokens(self, text: str, *, special: bool = False, parse_special: bool = False) -> list[Token]:
        """The tokens of a text with the bytes that each covers. A character split over tokens is split here too."""
        encoding = self._encoding(text, special, parse_special)
        spans = self._byte_spans(encoding, text)
        specials = self._special_ids
        return [
            Token(token_id, piece, start, end, token_id in specials)
            for token_id, piece, (start, end) in zip(encoding.ids, encoding.tokens, spans, strict=True)
        ]

    def _encoding(self, text: str, special: bool, parse_special: bool) -> Encoding:
        _refuse_surrogates(text)
        with contained("the tokenizer cannot encode this text"):
            self._engine.encode_special_tokens = not parse_special
            return self._engine.encode(text, add_special_tokens=special)

    def _encodings(self, texts: Sequence[str], special: bool, parse_special: bool) -> list[Encoding]:
        for text in texts:
            _refuse_surrogates(text)
        with contained("the tokenizer cannot encode this text"):
            self._engine.encode_special_tokens = not parse_special
            return list(self._engine.encode_batch_fast(list(texts), add_special_tokens=special))

    def _byte_spans(self, encoding: Encoding, text: str) -> list[tuple[int, int]]:
        """Start and end of each token in the text's bytes. The engine's offsets count whole characters."""
        data = text.encode()
        ids = encoding.ids
        for each in set(ids) - self._raw.keys():
            self._raw[each] = self.token_bytes(each)
        raw = [self._raw[each] for each in ids]
        if b"".join(raw) == data:
            ends = list(accumulate(map(len, raw)))
            return list(zip([0, *ends], ends, strict=False))
        offsets = _byte_offsets(text)
        # Normalizers may leave the engine with offsets past either edge.
        last = len(offsets) - 1
        spans = [(offsets[min(start, last)], offsets[min(end, last)]) for start, end in encoding.offsets]
        return _split_shared_spans(spans, raw, data)

    # --- decoding ---

    def decode(self, ids: Iterable[int], *, skip_special: bool = False) -> str:
        """The text of ids. Bytes that are no UTF-8 become U+FFFD, and unknown ids nothing, as in the library."""
        numbers = list(ids)
        for each in numbers:
            if not 0 <= each < 1 << 32:
                self.piece(each)
        with contained("the tokenizer cannot decode these ids"):
            return str(self._engine.decode(numbers, skip_special_tokens=skip_special))

    def stream(self, prompt_ids: Sequence[int] = (), *, skip_special: bool = False) -> StreamDecoder:
        """A decoder for ids that come one by one after a prompt."""

        def token_of(token_id: int) -> str | None:
            token = self._token(token_id)
            return None if skip_special and token in self._special_texts else token

        def decode(ids: Sequence[int]) -> str:
            return self.decode(ids, skip_special=skip_special)

        return StreamDecoder(token_of, decode, build_steps(state_of(self._engine.decoder)), prompt_ids)

    def piece(self, token_id: int) -> str:
        """The token as the vocabulary spells it. Raises `UsageError` for an id without a token."""
        token = self._token(token_id)
        if token is None:
            raise UsageError(
                f"id {token_id} is outside the vocabulary, which has {self.vocab_size} ids",
                f"give ids from 0 to {self.vocab_size - 1} of this model's own tokenizer",
            )
        return token

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token stands for inside a text, incomplete characters included. Raises `UsageError`."""
        return self._bytes_of(self.piece(token_id))

    def _bytes_of(self, token: str) -> bytes:
        if self._marks["byte_level"]:
            return byte_level_bytes(token)
        if self._marks["byte_fallback"] and (byte := fallback_byte(token)) is not None:
            return bytes([byte])
        for mark in self._marks["spaces"]:
            token = token.replace(mark, " ")
        return token.encode()

    def _token(self, token_id: int) -> str | None:
        return self._engine.id_to_token(token_id) if 0 <= token_id < 1 << 32 else None

    # --- the vocabulary and what else is known of it ---

    @cached_property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        return max(self.vocabulary.values(), default=-1) + 1

    @property
    def vocabulary(self) -> dict[str, int]:
        """Every token as the vocabulary spells it, and its id."""
        return dict(self._engine.get_vocab(with_added_tokens=True))

    def is_special(self, token_id: int) -> bool:
        """Whether an id is a special token: one that no text spells."""
        return token_id in self._special_ids

    def id_of(self, token: str) -> int | None:
        """The id of a token as the vocabulary spells it, None where there is none."""
        found = self._engine.token_to_id(token)
        return None if found is None else int(found)

    @cached_property
    def adds_special(self) -> tuple[int, ...]:
        """The ids that the post-processor adds to a text, in order; empty where it adds none."""
        encoding = self._encoding("", True, False)
        return tuple(i for i, added in zip(encoding.ids, encoding.special_tokens_mask, strict=True) if added)

    @cached_property
    def special_frame(self) -> tuple[list[int], list[int]] | None:
        """The ids that the post-processor puts before and after a text; None where that is not all it does."""
        plain = self.encode("a")
        full = self.encode("a", special=True)
        for start in range(len(full) - len(plain) + 1):
            if full[start : start + len(plain)] == plain:
                before, after = full[:start], full[start + len(plain) :]
                return (before, after) if (*before, *after) == self.adds_special else None
        return None

    @cached_property
    def bos_id(self) -> int | None:
        """The id that a text begins from: what the model's files name, else GPT-2's end-of-text, else None."""
        named = self._settings.get("bos_token")
        if isinstance(named, dict):
            named = named.get("content")
        if isinstance(named, str) and (found := self.id_of(named)) is not None:
            return found
        for file in ("generation_config.json", "config.json"):
            number = read_json(self._folder / file).get("bos_token_id")
            if type(number) is int and self._token(number) is not None:
                return number
        return self.id_of(_GPT2_END)

    @cached_property
    def chat_template(self) -> str | None:
        """The model's own chat template (jinja), None where it has none. Raises `TokenizerError`."""
        path = self._folder / "chat_template.jinja"
        if path.is_file():
            try:
                return path.read_text("utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise TokenizerError(f"{path} cannot be read: {error}", REMEDY) from error
        template = self._settings.get("chat_template")
        if isinstance(template, list):  # several by name: [{"name": ..., "template": ...}]
            named = {each.get("name"): each.get("template") for each in template if isinstance(each, dict)}
            template = named.get("default")
        return template if isinstance(template, str) else None

    def component(self, name: str) -> dict[str, Any]:
        """What `tokenizer.json` says of its `normalizer`, `pre_tokenizer`, `post_processor`, `decoder`; {} for none."""
        return state_of(getattr(self._engine, name))

    @cached_property
    def added_tokens(self) -> list[dict[str, Any]]:
        """The tokens found in a text before anything else: `content`, `special`, `lstrip`, `rstrip`, `single_word`."""
        names = ("content", "special", "lstrip", "rstrip", "single_word")
        added = self._engine.get_added_tokens_decoder().values()
        return [{name: getattr(each, name) for name in names} for each in added]

    @cached_property
    def _settings(self) -> dict[str, Any]:
        return read_json(self._folder / "tokenizer_config.json")

    @cached_property
    def _special_ids(self) -> frozenset[int]:
        return frozenset(key for key, each in self._engine.get_added_tokens_decoder().items() if each.special)

    @cached_property
    def _special_texts(self) -> frozenset[str]:
        return frozenset(each["content"] for each in self.added_tokens if each["special"])

    @cached_property
    def _marks(self) -> dict[str, Any]:
        """How tokens spell bytes and spaces, as the decoder undoes it."""
        state = self.component("decoder")
        parts = state.get("decoders", [state])
        kinds = [each.get("type") for each in parts]
        spaces = [each["replacement"] for each in parts if each.get("type") == "Metaspace"]
        spaces += [
            each["pattern"]["String"]
            for each in parts
            if each.get("type") == "Replace" and each["content"] == " " and each["pattern"].get("String")
        ]
        return {"byte_level": "ByteLevel" in kinds, "byte_fallback": "ByteFallback" in kinds, "spaces": spaces}


def _refuse_surrogates(text: str) -> None:
    """Raise `UsageError` for half a character, which Python text can hold and UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            f"the text is not valid Unicode: character {error.start} is half a surrogate pair", "give text without it"
        ) from error


def _byte_offsets(text: str) -> Sequence[int]:
    """Byte offset of every character of a text, and of its end."""
    if text.isascii():
        return range(len(text) + 1)
    widths = (1 + (c > "\x7f") + (c > "\u07ff") + (c > "\uffff") for c in text)
    return list(accumulate(widths, initial=0))


def _split_shared_spans(spans: list[tuple[int, int]], raw: list[bytes], data: bytes) -> list[tuple[int, int]]:
    """Give tokens that share characters each its own bytes, where their bytes are those of the text.

    A group is a row of tokens whose spans overlap. What a normalizer put before the text's own bytes, such as the space
    that SentencePiece begins with, covers none of them. A token that was added covers nothing, where it stands.
    """
    result: list[tuple[int, int]] = []
    first = 0
    while first < len(spans):
        start, end = spans[first]
        after = first + 1
        while after < len(spans) and start < end and spans[after][0] < end and spans[after][0] < spans[after][1]:
            end = max(end, spans[after][1])
            after += 1
        pieces = raw[first:after]
        joined = b"".join(pieces)
        if start >= end:
            place = result[-1][1] if result else 0
            result.append((place, place))
        elif joined.endswith(data[start:end]):
            marks = list(accumulate(map(len, pieces), initial=end - len(joined)))
            result += [(max(start, low), max(start, high)) for low, high in pairwise(marks)]
        else:
            result += spans[first:after]
        first = after
    return result
