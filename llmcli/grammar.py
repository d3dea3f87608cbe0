"""Text that a grammar allows, and nothing else: a JSON schema, a regular expression, a Lark grammar or some choices.

The library `llguidance` tells, from the tokens so far, which ones keep the text possible; the extra `llmcli[grammar]`
installs it. It reads bytes, so it follows a text however that is cut into tokens. Where only one text can come next,
its tokens are those that the tokenizer itself would cut it into.
"""

import json
from collections.abc import Collection, Sequence
from functools import lru_cache
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from llmcli.errors import LlmcliError, UsageError
from llmcli.sampling_params import SamplingParams, flag
from llmcli.token_pieces import piece_table
from llmcli.tokenizer import Tokenizer
from llmcli.tokenizer_steps import flat_decoders

if TYPE_CHECKING:
    from llguidance import LLMatcher

# JSON on one line as Python's json.dumps writes it: where blanks are free, a model may write nothing else for ever.
_JSON_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_REMEDIES = {
    "json_schema": "give a JSON schema of the keywords that llguidance knows",
    "regex": "give a regular expression in the syntax of Rust's regex crate, without look-around",
    "grammar": "give a grammar in Lark's syntax, as llguidance reads it, whose first rule is start",
    "choice": "give other choices",
}


def check_grammar(params: SamplingParams) -> None:
    """Raises `UsageError` for a constraint that is malformed, `LlmcliError` where the library is missing."""
    name = params.constrained_by
    if name is None:
        return
    failed, said = _library().LLMatcher.validate_grammar_with_warnings(_source(params, name))
    if failed:
        raise _malformed(name, said[0])


def constraint(
    params: SamplingParams, tokenizer: Tokenizer | None, vocab_size: int, eos_ids: Collection[int]
) -> "Constraint | None":
    """What the parameters hold the text of a model of `vocab_size` ids to; None where they hold it to nothing.

    Raises `UsageError` for a malformed constraint, and for a model whose text is not its tokens' bytes in a row;
    `LlmcliError` where the library is missing.
    """
    name = params.constrained_by
    if name is None:
        return None
    source = _source(params, name)
    if tokenizer is None:
        raise UsageError(f"{flag(name)} is about texts, and the model has no tokenizer", "leave it out")
    vocabulary = _vocabulary(tokenizer, vocab_size)
    matcher = _library().LLMatcher(vocabulary.engine, source, log_level=0)
    if matcher.is_error():
        raise _malformed(name, matcher.get_error())
    return Constraint(flag(name), matcher, vocabulary, frozenset(each for each in eos_ids if each < vocab_size))


class Constraint:
    """Which tokens may come next, as `llmcli.sampling.Constraint` describes it.

    One may serve several texts in turn: what it holds of the last one asked about is only there to be fast.
    """

    def __init__(self, name: str, matcher: "LLMatcher", vocabulary: "Vocabulary", ends: frozenset[int]) -> None:
        self._name, self._matcher, self._vocabulary, self._ends = name, matcher, vocabulary, ends
        self._taken: list[int] = []
        self._mask: NDArray[np.bool_] | None = None

    def allowed(self, ids: Sequence[int], new: int) -> NDArray[np.bool_]:
        """(vocab) the ids that may follow `ids`, the last `new` of which were generated. An id that ends the text may
        where the text is complete. Raises `LlmcliError` where none may."""
        mask = self._next(ids[len(ids) - new :])
        if new == 0:
            mask = mask & ~self._vocabulary.loses_space(ids)
        mask[list(self._ends)] = self._matcher.is_accepting()
        if not mask.any():
            raise LlmcliError(f"no token of this model can follow within {self._name}", "allow more, or another prompt")
        return mask

    def complete(self, ids: Sequence[int], new: int) -> bool:
        """Whether the generated text may end here."""
        text = ids[len(ids) - new :]
        if text and text[-1] in self._ends:
            return True  # it was allowed at a complete text alone
        self._follow(text)
        return bool(self._matcher.is_accepting())

    def closed(self, ids: Sequence[int], new: int) -> bool:
        """Whether it is complete and nothing can follow."""
        return self.complete(ids, new) and bool(self._matcher.is_stopped())

    def _next(self, text: Sequence[int]) -> NDArray[np.bool_]:
        """A fresh (vocab) array of the ids that can follow a text."""
        self._follow(text)
        if self._mask is None:
            size = self._vocabulary.size
            packed = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
            self._mask = np.unpackbits(packed, count=size, bitorder="little").view(np.bool_)
            self._check()
        return self._mask.copy()

    def _follow(self, text: Sequence[int]) -> None:
        """Brings the matcher to the end of a text. A matcher reads a thousand tokens in half a millisecond."""
        known = len(self._taken)
        if text[:known] != self._taken:
            self._matcher.reset()
            self._taken, self._mask, known = [], None, 0
        if len(text) > known:
            self._matcher.consume_tokens(list(text[known:]))
            self._taken, self._mask = list(text), None
            self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            said = _first_line(self._matcher.get_error())
            self._matcher.reset()
            raise LlmcliError(f"{self._name} cannot be followed any further: {said}", "make it simpler")


class Vocabulary:
    """A tokenizer as the library sees it: the bytes of every id, and how bytes are cut into ids. `engine` is the
    library's own form of it, a third of a second of work for 50,000 ids."""

    # The library wants an id that ends texts. It gets one more than there are: `Constraint` says when a text may end.
    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, size: int) -> None:
        if not _joins_bytes(tokenizer):
            raise UsageError(
                "this model's tokenizer joins its tokens by rules that no constraint can follow",
                "use a model with a byte-level or a SentencePiece tokenizer",
            )
        self.size = self.eos_token_id = size
        self._tokenizer = tokenizer
        self.tokens = [*piece_table(tokenizer, size), b""]
        # Of ids with the same bytes the last one: SentencePiece's ids of single bytes, which it falls back on for what
        # has no piece, stand before its pieces.
        self._ids = {piece: each for each, piece in enumerate(self.tokens) if piece}
        self._longest = max(map(len, self.tokens))
        self._spaced = np.array([piece.startswith(b" ") for piece in self.tokens[:size]])
        library = _library()
        self.engine = library.LLTokenizer(library.TokenizerWrapper(self), n_vocab=size + 1)

    def __call__(self, text: bytes) -> list[int]:
        """The ids that spell these bytes exactly: the tokenizer's own where they do, else the longest that fit."""
        ids = [each for each in self._tokenizer.encode(text.decode("utf-8", "replace")) if each < self.size]
        if b"".join(self.tokens[each] for each in ids) == text:
            return ids
        ids, start = [], 0
        while start < len(text):
            pieces = (text[start:end] for end in range(min(len(text), start + self._longest), start, -1))
            found = next((piece for piece in pieces if piece in self._ids), None)
            if found is None:
                break
            ids.append(self._ids[found])
            start += len(found)
        return ids

    def loses_space(self, prompt_ids: Sequence[int]) -> NDArray[np.bool_]:
        """(size) the ids whose space the decoder drops where they follow these: it does at the start of a text."""
        if not self._spaced.any():
            return self._spaced
        sample = int(self._spaced.argmax())
        decode = self._tokenizer.decode
        kept = decode(prompt_ids, skip_special=True) + self.tokens[sample].decode("utf-8", "replace")
        dropped = decode([*prompt_ids, sample], skip_special=True) != kept
        return self._spaced if dropped else np.zeros_like(self._spaced)


# Two: a model, and the one that drafts for it.
_vocabulary = lru_cache(maxsize=2)(Vocabulary)


def _joins_bytes(tokenizer: Tokenizer) -> bool:
    """Whether a text is the bytes of its tokens in a row, but for a space that it begins with."""
    state = tokenizer.component("decoder")
    kinds = {"ByteLevel", "ByteFallback", "Fuse", "Metaspace", "Strip", "Replace"}
    parts = flat_decoders(state) if state else []
    return bool(parts) and all(
        each["type"] in kinds and each.get("content", " ") == " " and each.get("stop", 0) == 0 for each in parts
    )


def _source(params: SamplingParams, name: str) -> str:
    """The constraint as the library reads it. Raises `UsageError` for a schema that is no JSON."""
    matcher = _library().LLMatcher
    if name == "json_schema":
        try:
            # What the schema's own key x-guidance says goes before the style.
            return str(matcher.grammar_from_json_schema(params.json_schema, _JSON_STYLE))
        except ValueError as error:
            raise _malformed(name, str(error)) from None
    if name == "choice":
        # In Lark's syntax, whose strings are those of JSON.
        return str(matcher.grammar_from_lark("start: " + " | ".join(json.dumps(each) for each in params.choice)))
    read = matcher.grammar_from_regex if name == "regex" else matcher.grammar_from_lark
    return str(read(getattr(params, name)))


def _malformed(name: str, said: str) -> UsageError:
    return UsageError(f"{flag(name)}: {_first_line(said)}", _REMEDIES[name])


def _first_line(said: str) -> str:
    """What is wrong, out of a message of many lines: the line that says `error:`, else the first."""
    lines = [each.strip() for each in said.splitlines() if each.strip()] or ["it is not accepted"]
    return next((each.removeprefix("error: ") for each in lines if each.startswith("error: ")), lines[0])[:200]


def _library() -> ModuleType:
    try:
        import llguidance
    except ImportError:
        raise LlmcliError(
            "constrained output needs the library llguidance, which is not installed",
            "install it: pip install 'llmcli[grammar]'",
        ) from None
    library: ModuleType = llguidance
    return library
