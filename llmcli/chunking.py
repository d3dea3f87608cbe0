"""Encoding text of any size in constant memory, with the very ids that encoding the whole would give.

A tokenizer is a chain: added tokens are looked for, the normalizer rewrites the text between them, the pre-tokenizer
splits it, and the model encodes each split by itself. So text = left + right may be encoded in two halves where

1. no added token can reach over the cut, and none looks at or eats the text beside it (`lstrip`, `rstrip`,
   `single_word`): then the same added tokens are found in the halves as in the whole;
2. the normalizer gives N(left + right) = N(left) + N(right);
3. the pre-tokenizer splits at the cut, and the splits of the halves are the splits of the whole.

A cut is judged by the two characters beside it. Three kinds are used:

- SPACE: something visible, then U+0020.
- LINE: an old letter or an ASCII digit, then a newline. "Old" letters are in every version of Unicode that a regular
  expression engine may know, so that all agree on them.
- STOP: an old letter or digit, then one of the full-width stops and commas, for text that has no spaces.

Proof of 2, for no normalizer and for NFC: the three right-hand characters are starters that compose with nothing
before them (NFC_Quick_Check=Yes, combining class 0), hence NFC(left + right) = NFC(left) + NFC(right) (UAX #15,
"stable code points" at a boundary), and they stay themselves; what NFC makes of a visible left-hand character is still
visible, and an old letter in the list above stays itself, since it is no second part of a composition.

Proof of 3, for a splitter that is a regular expression of alternatives A1|A2|..., tried in order from left to right,
none of which looks behind. Suppose that for a cut p each alternative, tried at any place before p, matches the same
in the whole as in the left half. Then matching runs the same up to p, no match reaches over p, and after p it sees the
same text in the whole as in the right half. Every alternative in `_ALTERNATIVES` has this property: (a) none can match
a visible character with U+0020 after it, nor a letter or digit with a newline or a full-width stop after it, so no
match reaches over p; (b) a repetition that ends at p ends there because the next character is not of its class, in the
left half because the text ends; (c) the one look-ahead, `\\s+(?!\\S)`, is tried inside a run of white space, and a
run before p ends at or before the visible character on the left of p. As `\\s+` and the run of punctuation are among
the alternatives, all characters are matched, and p is an edge of two matches.

A chain of splitters is safe where each gives, for the halves, the splits of the whole with the one at p cut in two (or
already separate), and at least one is known to split at p: the conditions above are on two characters, and they hold
in a split as in the whole.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from llmcli.tokenizer import Token, Tokenizer

CHUNK = 16_384  # characters: large enough to cost nothing, small enough for the model's cache of words to pay
BATCH = 32  # chunks that are encoded at once, on all cores

_OLD = "0-9A-Za-zÀ-ÖØ-öø-ÿぁ-ゔァ-ヺ一-龥가-힣"
SPACE, LINE, STOP = r"[!-~\w] ", rf"[{_OLD}]\n", rf"[{_OLD}][、。，！？]"
_ALL = frozenset({SPACE, LINE, STOP})

_PUNCTUATION = (r" ?[^\s\p{L}\p{N}]+", r" ?[^\s\p{L}\p{N}]+[\r\n]*", r" ?[^\s\p{L}\p{N}]++[\r\n]*")
_ALTERNATIVES = {
    *_PUNCTUATION,
    *(rf"'{end}" for end in ("s", "t", "re", "ve", "m", "ll", "d")),
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",
    r"'(?i:[sdmt]|ll|ve|re)",
    r" ?\p{L}+",
    r" ?\p{N}+",
    r"[^\r\n\p{L}\p{N}]?\p{L}+",
    r"[^\r\n\p{L}\p{N}]?+\p{L}+",
    r"\p{N}",
    r"\p{N}+",
    r"\p{N}{1,3}",
    r"\s*[\r\n]+",
    r"\s*[\r\n]",
    r"\s+(?!\S)",
    r"\s+",
}

Notice = Callable[[str], None]


@dataclass(frozen=True)
class Cuts:
    """Where a tokenizer's text may be cut: between the two characters of a match; `pattern` None is nowhere."""

    pattern: re.Pattern[str] | None
    reason: str = ""

    def last(self, text: str) -> int:
        """The last safe cut in a text, 0 for none. Looks at its end first, then further and further back."""
        if self.pattern is None:
            return 0
        width, end = 64, len(text)
        while end > 1:
            start = max(0, end - width)
            found = [match.end() - 1 for match in self.pattern.finditer(text, start, end)]
            if found:
                return found[-1]
            end, width = start + 1, width * 4  # a cut may lie on the edge of what was looked at
        return 0


def find_cuts(tokenizer: Tokenizer, *, parse_special: bool = False) -> Cuts:
    """The cuts that a tokenizer's own description proves safe (see above), or why there are none."""
    normalizer = _flat(tokenizer.component("normalizer"), "normalizers")
    if any(each["type"] != "NFC" for each in normalizer):
        return Cuts(None, "its normalizer works across any cut")
    kinds, splits = _ALL, False
    for stage in _flat(tokenizer.component("pre_tokenizer"), "pretokenizers"):
        known = _stage(stage, first=not splits)
        if known is None:
            return Cuts(None, f"its pre-tokenizer ({stage['type']}) has no cut known to be safe")
        kinds, splits = kinds & known[0], splits or known[1]
    if not splits:
        return Cuts(None, "its pre-tokenizer does not split text")
    for each in tokenizer.added_tokens:
        sought = parse_special or not each["special"]
        if sought and (each["lstrip"] or each["rstrip"] or each["single_word"]):
            return Cuts(None, f"its added token {each['content']!r} looks at the text around it")
        # A special token's text is found and set aside even where it is not read as the token.
        contents = (each["content"], unicodedata.normalize("NFC", each["content"]))
        kinds = frozenset(kind for kind in kinds if not any(re.search(kind, content) for content in contents))
    if not kinds:
        return Cuts(None, "its added tokens can reach over any cut")
    return Cuts(re.compile("|".join(sorted(kinds))))


def _flat(state: dict[str, Any], parts: str) -> list[dict[str, Any]]:
    if not state:
        return []
    return [each for part in state[parts] for each in _flat(part, parts)] if state["type"] == "Sequence" else [state]


def _stage(state: dict[str, Any], first: bool) -> tuple[frozenset[str], bool] | None:
    """The kinds of cuts that one splitter allows, and whether it splits at them; None where nothing is known of it."""
    match state["type"]:
        case "ByteLevel":
            # With `add_prefix_space` a text that does not begin with a space is given one.
            safe = frozenset({SPACE}) if state["add_prefix_space"] and first else _ALL
            return safe, bool(state["use_regex"])
        case "Split" if "Regex" in state["pattern"] and _covers(state["pattern"]["Regex"]):
            if (state["behavior"], state["invert"]) in (("Isolated", False), ("Removed", True)):
                return _ALL, True
        case "Digits":  # splits at every edge between digits and others, or around each digit
            return _ALL, False
        case "Punctuation" if state["behavior"] == "Isolated":  # splits around each
            return frozenset({SPACE, LINE}), False
        case "Whitespace" | "WhitespaceSplit" | "BertPreTokenizer":  # white space is dropped, and splits
            return frozenset({SPACE, LINE}), True
        case "Metaspace" if state["split"] and first:
            # Each space becomes the replacement, and begins a split; a text that begins with one is given no other.
            return frozenset({SPACE}), True
    return None


def _covers(regex: str) -> bool:
    """Whether a regular expression is made of known alternatives, and leaves no character unmatched."""
    parts = set(_alternatives(regex))
    return parts <= _ALTERNATIVES and r"\s+" in parts and bool(parts & set(_PUNCTUATION))


def _alternatives(regex: str) -> list[str]:
    """The alternatives of a regular expression, cut at every `|` outside of parentheses."""
    parts, depth = [""], 0
    for character in regex:
        depth += (character == "(") - (character == ")")
        if character == "|" and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def chunks(texts: Iterable[str], cuts: Cuts, notice: Notice) -> Iterator[str]:
    """Text that comes in any pieces, in pieces of about `CHUNK` characters that end at safe cuts.

    Where there is no cut the piece grows until there is one, and `notice` is told once.
    """
    told = False
    parts: list[str] = []
    length, wanted = 0, CHUNK
    for text in texts:
        parts.append(text)
        length += len(text)
        if length <= wanted:
            continue
        rest, begin = "".join(parts), 0
        while length - begin > wanted:
            cut = cuts.last(rest[begin : begin + wanted])
            if cut:
                yield rest[begin : begin + cut]
                begin, wanted = begin + cut, CHUNK
                continue
            if not told:
                told = True
                notice(_whole_notice(cuts))
            wanted *= 2  # twice as far each time: looking costs no more than the text's length in all
        parts = [rest[begin:]]
        length = len(parts[0])
    if length:
        yield "".join(parts)


def _whole_notice(cuts: Cuts) -> str:
    if cuts.pattern is None:
        return f"the text is encoded whole, in memory: the tokenizer allows no safe cut, {cuts.reason}"
    return f"text of over {CHUNK:,} characters without a safe cut is encoded whole, in memory"


def encode_stream(
    tokenizer: Tokenizer, texts: Iterable[str], *, special: bool = False, parse_special: bool = False, notice: Notice
) -> Iterator[list[int]]:
    """The ids of a text that comes in pieces, in lists: joined they are `tokenizer.encode` of the whole text."""
    if special and tokenizer.special_frame is None:
        yield tokenizer.encode("".join(texts), special=True, parse_special=parse_special)
        return
    before, after = (tokenizer.special_frame or ([], [])) if special else ([], [])
    yield before
    for batch in _batches(texts, find_cuts(tokenizer, parse_special=parse_special), notice):
        yield from tokenizer.encode_batch(batch, parse_special=parse_special)
    yield after


def count_stream(
    tokenizer: Tokenizer, texts: Iterable[str], *, special: bool = False, parse_special: bool = False, notice: Notice
) -> int:
    """How many ids `encode_stream` gives, without making lists of them."""
    added = len(tokenizer.encode("", special=True)) - len(tokenizer.encode("")) if special else 0
    cuts = find_cuts(tokenizer, parse_special=parse_special)
    counts = (tokenizer.count_batch(batch, parse_special=parse_special) for batch in _batches(texts, cuts, notice))
    return added + sum(map(sum, counts))


def token_chunks(
    tokenizer: Tokenizer, texts: Iterable[str], *, special: bool = False, parse_special: bool = False, notice: Notice
) -> Iterator[tuple[bytes, list[Token]]]:
    """The bytes of each chunk of a text that comes in pieces, and its tokens with offsets into them.

    Special tokens that are added stand with no bytes before the first and after the last.
    """
    if special and tokenizer.special_frame is None:
        text = "".join(texts)
        yield text.encode(), tokenizer.tokens(text, special=True, parse_special=parse_special)
        return
    before, after = (tokenizer.special_frame or ([], [])) if special else ([], [])
    yield b"", [Token(each, tokenizer.piece(each), 0, 0, True) for each in before]
    for text in chunks(texts, find_cuts(tokenizer, parse_special=parse_special), notice):
        yield text.encode(), tokenizer.tokens(text, parse_special=parse_special)
    yield b"", [Token(each, tokenizer.piece(each), 0, 0, True) for each in after]


def _batches(texts: Iterable[str], cuts: Cuts, notice: Notice) -> Iterator[list[str]]:
    """Chunks in lists of about `BATCH * CHUNK` characters."""
    batch: list[str] = []
    size = 0
    for chunk in chunks(texts, cuts, notice):
        batch.append(chunk)
        size += len(chunk)
        if size >= BATCH * CHUNK:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
