"""Text encoded in chunks has the ids of the whole, whatever the text and wherever it is cut."""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Engine

from llmcli import chunking
from llmcli.chunking import count_stream, encode_stream, find_cuts, token_chunks
from llmcli.tokenizer import Token, Tokenizer
from llmcli.tokenizer_convert import _QWEN_SPLIT as QWEN

LLAMA3 = QWEN.replace(r"\p{N}|", r"\p{N}{1,3}|")
CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)


def split(regex: str, behavior: str = "isolated", invert: bool = False) -> Any:
    return pre_tokenizers.Split(Regex(regex), behavior, invert)


bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
# What must be cut: name -> (normalizer, pre-tokenizer).
CUT: dict[str, tuple[Any, Any]] = {
    "gpt2": (None, pre_tokenizers.ByteLevel(add_prefix_space=False)),
    "gpt2 with a space put first": (None, pre_tokenizers.ByteLevel(add_prefix_space=True)),
    "pythia": (normalizers.NFC(), pre_tokenizers.ByteLevel(add_prefix_space=False)),
    "llama3": (None, pre_tokenizers.Sequence([split(LLAMA3), bytes_only])),
    "qwen2": (normalizers.NFC(), pre_tokenizers.Sequence([split(QWEN), bytes_only])),
    "olmo2": (normalizers.Sequence([normalizers.NFC()]), pre_tokenizers.Sequence([split(CL100K), bytes_only])),
    "matches kept": (None, pre_tokenizers.Sequence([split(QWEN, "removed", True), bytes_only])),
    "smollm2": (
        None,
        pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)]),
    ),
    "digits and a space put first": (
        None,
        pre_tokenizers.Sequence([pre_tokenizers.Digits(), pre_tokenizers.ByteLevel()]),
    ),
    "metaspace": (None, pre_tokenizers.Metaspace()),
    "metaspace first": (None, pre_tokenizers.Metaspace(prepend_scheme="first")),
    "whitespace": (None, pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])),
    "words": (None, pre_tokenizers.Whitespace()),
    "bert": (None, pre_tokenizers.BertPreTokenizer()),
}
# What must not: nothing proves a cut safe there.
WHOLE: dict[str, tuple[Any, Any]] = {
    "no pre-tokenizer": (None, None),
    "no split": (None, bytes_only),
    "prepends": (normalizers.Prepend("▁"), pre_tokenizers.ByteLevel()),
    "strips": (normalizers.Strip(), pre_tokenizers.ByteLevel()),
    "metaspace unsplit": (None, pre_tokenizers.Metaspace(split=False)),
    "another regex": (None, split(r"\w+\s*|\W")),
    "part of a known regex": (None, split(r"\s+| ?\p{L}+")),
    "merged": (None, split(QWEN, "merged_with_next")),
    "a space as text": (None, pre_tokenizers.Split(" ", "merged_with_previous")),
}
ALPHABET = [
    *"abst'’.,!-_12３ \n\r\t é你，。ñ",
    "\u3000",
    "\xa0",
    "\u0301",
    "\u0308",
    "\u0327",
    "  ",
    "\n\n",
    "'s",
    "'ll",
    "😀",
    "ẛ̣",
    "ﬁ",
    "\u1e9b\u0323",
    "<x>",
    "<y>",
    "K",
    "가",
    "\u11a8",
    "か",
    "\u3099",
]
hostile = st.lists(st.sampled_from(ALPHABET), max_size=40).map("".join) | st.text(
    st.characters(exclude_categories=("Cs",))
)


def tokenizer_of(normalizer: Any, pre_tokenizer: Any) -> Tokenizer:
    engine = Engine(models.WordLevel({"?": 0}, "?"))
    if normalizer is not None:
        engine.normalizer = normalizer
    if pre_tokenizer is not None:
        engine.pre_tokenizer = pre_tokenizer
    return Tokenizer(engine, Path())


def splits(normalizer: Any, pre_tokenizer: Any, text: str) -> list[str]:
    """What the model would be given, one by one: chunks are right where these are."""
    normal = text if normalizer is None else normalizer.normalize_str(text)
    return [part for part, _ in pre_tokenizer.pre_tokenize_str(normal)]


@pytest.mark.parametrize("name", CUT)
@given(text=hostile)
def test_every_cut_gives_the_splits_of_the_whole(name: str, text: str) -> None:
    pattern = find_cuts(tokenizer_of(*CUT[name])).pattern
    assert pattern is not None
    whole = splits(*CUT[name], text)
    for match in pattern.finditer(text):
        cut = match.end() - 1
        assert splits(*CUT[name], text[:cut]) + splits(*CUT[name], text[cut:]) == whole


@pytest.mark.parametrize("name", CUT)
def test_prose_is_cut(name: str) -> None:
    cuts = find_cuts(tokenizer_of(*CUT[name]))
    assert cuts.last("Once upon a time.") == len("Once upon a")
    assert cuts.last("x" * 1000 + " y" + "z" * 5000) == 1000
    assert cuts.last("") == cuts.last("x y"[2:]) == cuts.last("  ") == 0


@pytest.mark.parametrize("name", WHOLE)
def test_what_is_not_proven_is_not_cut(name: str) -> None:
    cuts = find_cuts(tokenizer_of(*WHOLE[name]))
    assert cuts.pattern is None
    assert cuts.last("Once upon a time") == 0
    assert cuts.reason


@pytest.mark.parametrize(
    ("token", "cut"),
    [
        (AddedToken("<tool>"), True),
        (AddedToken("   "), True),
        (AddedToken("in the"), False),
        (AddedToken("e\u0301 x"), False),
        (AddedToken("<a>", lstrip=True), False),
        (AddedToken("<a>", rstrip=True), False),
        (AddedToken("word", single_word=True), False),
        (AddedToken("<a>", rstrip=True, special=True), True),
    ],
)
def test_added_tokens_that_reach_over_a_cut_forbid_it(token: AddedToken, cut: bool) -> None:
    tokenizer = tokenizer_of(None, pre_tokenizers.ByteLevel(add_prefix_space=True))
    tokenizer._engine.add_special_tokens([token]) if token.special else tokenizer._engine.add_tokens([token])
    assert (find_cuts(tokenizer).pattern is not None) == cut
    if token.special:
        assert find_cuts(tokenizer, parse_special=True).pattern is None


def pieces_of(text: str, sizes: list[int]) -> Iterator[str]:
    while text and sizes:
        yield text[: sizes[0]]
        text, sizes = text[sizes[0] :], sizes[1:]
    yield text


@pytest.fixture(scope="module")
def gpt2(shared: Path) -> Tokenizer:
    """GPT-2 with added tokens, and a post-processor that puts an id at either end."""
    tokenizer = Tokenizer.from_folder(shared / "tokenizers/gpt2")
    tokenizer._engine.add_tokens(["  ", "<x>", "n't"])
    end = "<|endoftext|>"
    tokenizer._engine.post_processor = processors.TemplateProcessing(
        single=[end, "$A", end], pair=None, special_tokens=[(end, 50256)]
    )
    return tokenizer


@given(
    text=st.lists(hostile | st.just("<|endoftext|>"), max_size=5).map(" ".join),
    sizes=st.lists(st.integers(0, 30)),
    chunk=st.integers(1, 12),
    special=st.booleans(),
    parse=st.booleans(),
)
def test_a_stream_of_any_pieces_gives_the_ids_of_the_whole(
    gpt2: Tokenizer, text: str, sizes: list[int], chunk: int, special: bool, parse: bool
) -> None:
    flags: dict[str, Any] = {"special": special, "parse_special": parse, "notice": lambda _: None}
    expected = gpt2.tokens(text, special=special, parse_special=parse)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunking, "CHUNK", chunk)
        patch.setattr(chunking, "BATCH", 3)
        ids = [each for part in encode_stream(gpt2, pieces_of(text, sizes), **flags) for each in part]
        tokens: list[Token] = []
        data = b""
        for part, found in token_chunks(gpt2, pieces_of(text, sizes), **flags):
            tokens += [each._replace(start=each.start + len(data), end=each.end + len(data)) for each in found]
            data += part
        count = count_stream(gpt2, pieces_of(text, sizes), **flags)
    assert ids == [each.id for each in expected]
    assert tokens == expected
    assert data == text.encode()
    assert count == len(expected)


def test_text_that_cannot_be_cut_is_said_to_be_encoded_whole_once(gpt2: Tokenizer, shared: Path) -> None:
    said: list[str] = []
    text = "x y " * chunking.CHUNK
    stories = Tokenizer.from_folder(shared / "models/stories260K")
    flags: dict[str, Any] = {"notice": said.append}
    assert count_stream(stories, pieces_of(text, [7] * 100), **flags) == len(stories.encode(text))
    assert len(said) == 1
    assert "encoded whole" in said[0]
    assert count_stream(gpt2, [text], **flags) == len(gpt2.encode(text))
    assert len(said) == 1
    blank = " " * (3 * chunking.CHUNK)
    text = f"a{blank}b{blank}c"
    assert list(chain.from_iterable(encode_stream(gpt2, [text], **flags))) == gpt2.encode(text)
    assert len(said) == 2
    assert "without a safe cut" in said[1]


def test_only_what_is_being_encoded_is_held(gpt2: Tokenizer) -> None:
    text = "some words of a line\n" * 4000
    longest = max(map(len, chunking.chunks(pieces_of(text, [9000] * 20), find_cuts(gpt2), pytest.fail)))
    assert longest <= chunking.CHUNK


def test_a_post_processor_that_does_more_than_frame_is_followed(shared: Path) -> None:
    tokenizer = Tokenizer.from_folder(shared / "tokenizers/gpt2")
    end = "<|endoftext|>"
    tokenizer._engine.post_processor = processors.TemplateProcessing(
        single=["$A", end, "$A"], pair=None, special_tokens=[(end, 50256)]
    )
    assert tokenizer.special_frame is None
    expected = tokenizer.encode("one two", special=True)
    parts = encode_stream(tokenizer, ["one ", "two"], special=True, notice=pytest.fail)
    assert list(chain.from_iterable(parts)) == expected
