"""First and last tokens, lines, round trips and comparisons of text that comes in pieces."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Engine
from tokenizers import decoders, models, normalizers

from llmcli import chunking
from llmcli.tokenizer import Tokenizer
from llmcli.tokenizer_tools import Difference, Reader, Tally, first_tokens, last_tokens, round_trip, side_by_side

text_of = st.text(st.characters(exclude_categories=("Cs",)), max_size=60) | st.text("ab \n", max_size=60)


@pytest.fixture(scope="module")
def gpt2(shared: Path) -> Reader:
    return Reader(Tokenizer.from_folder(shared / "tokenizers/gpt2"), notice=lambda _: None)


@pytest.fixture(scope="module")
def stories(shared: Path) -> Reader:
    return Reader(Tokenizer.from_folder(shared / "models/stories260K"), notice=lambda _: None)


@pytest.fixture(autouse=True, scope="module")
def _small_chunks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunking, "CHUNK", 5)
        patch.setattr(chunking, "BATCH", 2)
        yield


@given(text=text_of, wanted=st.integers(0, 40))
def test_first_and_last_tokens_make_up_the_text(gpt2: Reader, text: str, wanted: int) -> None:
    tokens = gpt2.tokenizer.tokens(text)
    wanted = min(wanted, len(tokens))
    head = b"".join(first_tokens(gpt2, [text], wanted))
    assert head == text.encode()[: tokens[wanted - 1].end if wanted else 0]
    assert head + b"".join(last_tokens(gpt2, [text], len(tokens) - wanted)) == text.encode()


def test_the_first_tokens_read_no_more_than_they_need(gpt2: Reader) -> None:
    def texts() -> Iterator[str]:
        yield "one two three four five six"
        pytest.fail("read on")

    assert b"".join(first_tokens(gpt2, texts(), 2)) == b"one two"
    assert b"".join(first_tokens(gpt2, texts(), 0)) == b""


@given(text=text_of)
def test_every_line_is_counted_by_itself(gpt2: Reader, text: str) -> None:
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    assert list(gpt2.lines([text[:7], text[7:]])) == [(line, len(gpt2.tokenizer.encode(line))) for line in lines]


@given(text=text_of)
def test_counts(gpt2: Reader, text: str) -> None:
    expected = Tally(len(text), len(text.encode()), len(gpt2.tokenizer.encode(text)))
    assert gpt2.count([text[:5], text[5:]]) == expected
    assert round_trip(gpt2, [text[:5], text[5:]]) == (None, expected)


@given(text=st.text("abAé \u0301", max_size=20))
def test_the_first_lost_byte_is_found(text: str) -> None:
    engine = Engine(models.BPE({each: i for i, each in enumerate(("a", "b", " ", "?"))}, [], unk_token="?"))
    engine.normalizer = normalizers.Lowercase()
    engine.decoder = decoders.Fuse()
    reader = Reader(Tokenizer(engine, Path()))
    decoded = reader.tokenizer.decode(reader.tokenizer.encode(text)).encode()
    given, difference = text.encode(), round_trip(reader, [text])[0]
    if decoded == given:
        assert difference is None
    else:
        at = next((i for i, pair in enumerate(zip(given, decoded, strict=False)) if len(set(pair)) > 1), None)
        at = min(len(given), len(decoded)) if at is None else at
        ends = [data[at] if at < len(data) else None for data in (given, decoded)]
        assert difference == Difference(at, *ends)


@given(text=text_of)
def test_side_by_side_loses_no_token_and_meets_as_often_as_it_can(gpt2: Reader, stories: Reader, text: str) -> None:
    spans = list(side_by_side(gpt2, stories, [text[:5], text[5:]]))
    assert b"".join(span.data for span in spans) == text.encode()
    assert [each for span in spans for each in span.ours] == gpt2.tokenizer.tokens(text)
    assert [each for span in spans for each in span.theirs] == stories.tokenizer.tokens(text)
    for span in spans:
        span.data.decode()
        inner = {each.end for each in span.ours[:-1]} & {each.end for each in span.theirs[:-1]}
        edges = {each.start for each in span.ours} | {each.end for each in span.ours}
        assert all(not _ends_character(text, place) for place in inner - {min(edges), max(edges)})


def _ends_character(text: str, place: int) -> bool:
    try:
        text.encode()[:place].decode()
    except UnicodeDecodeError:
        return False
    return True
