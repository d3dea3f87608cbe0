"""Views of tokens: every byte is seen, columns keep their place, and nothing in them is obeyed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from llmcli.render.tokens import Row, comparison_table, drawn, label, token_strip, token_table

ROWS = [
    Row(15496, b"Hello", 0, 5),
    Row(11, b", [bold]", 5, 13),
    Row(30325, b" \xf0\x9f\x98", 13, 17),
    Row(222, b"\x80", 17, 18),
    Row(19526, "你好".encode(), 18, 24),
    Row(198, b"\n", 24, 25),
    Row(6, b"\x1b]0;x\x07", 25, 31),
    Row(50256, b"<|endoftext|>", 31, 31, True),
]


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b" world", "␣world"),
        (b"a\n\tb", "a↵⇥b"),
        (b"\xf0\x9f\x98", "⟨F0·9F·98⟩"),
        (b"a\xff\xfe b\x80", "a⟨FF·FE⟩␣b⟨80⟩"),
        ("é你😀".encode(), "é你😀"),
        ("\u0301x".encode(), "◌\u0301x"),
        ("\u202e\x1b".encode(), "⟨U+202E⟩␛"),
        (b"", ""),
    ],
)
def test_labels(raw: bytes, shown: str) -> None:
    assert label(raw) == shown


@given(st.binary(max_size=30))
def test_a_label_is_one_line_of_printable_text(raw: bytes) -> None:
    shown = label(raw)
    assert bool(shown) == bool(raw)
    assert not set("\n\r\t\x1b \x9b\u2028") & set(shown)


@pytest.mark.parametrize("width", [8, 20, 40, 200])
def test_the_strip_keeps_ids_beneath_their_tokens_at_any_width(width: int) -> None:
    lines = drawn(token_strip(ROWS, width), color=False, width=width).split("\n")
    lines = [line for line in lines if line]
    assert len(lines) % 2 == 0
    for shown, numbers in zip(lines[::2], lines[1::2], strict=True):
        assert cell_len(shown) == cell_len(numbers) <= width
        assert _bars(shown) == _bars(numbers)
    assert sum(line.count("│") for line in lines[::2]) == len(ROWS)


def _bars(line: str) -> list[int]:
    """The cells at which the bars of a line stand."""
    return [cell_len(line[:at]) for at, character in enumerate(line) if character == "│"]


def test_the_table_aligns_wide_characters_and_names_what_colour_shows() -> None:
    text = drawn(token_table(ROWS), color=False, width=100)
    assert "\x1b" not in text
    assert "part of a character" in text
    assert "special" in text
    assert "[bold]" in text
    header, *lines = text.splitlines()
    at = cell_len(header[: header.index("bytes")])
    for row, line in zip(ROWS, lines, strict=True):
        number = row.raw.hex(" ").split()[0]
        assert any(cell_len(line[:i]) == at and line[i:].startswith(number) for i in range(len(line)))


@pytest.mark.parametrize("width", [16, 20, 30, 32, 40, 59])
def test_a_narrow_terminal_loses_no_token(width: int) -> None:
    text = drawn(token_table(ROWS, width), color=False, width=width)
    lines = text.splitlines()
    assert all(cell_len(line) <= width for line in lines)
    assert len([line for line in lines if line.split()[:1] and line.split()[0].isdecimal()]) == len(ROWS)
    begun = [line.split()[2] for line in lines[1:] if line[:2].strip()]
    assert all(label(row.raw).startswith(part) for row, part in zip(ROWS, begun, strict=True))  # folded, never gone
    assert "special" in "".join(text.split())


def test_colour_only_where_asked() -> None:
    spans = [(b"ab", [b"ab"], [b"a", b"b"]), (b" c", [b" c"], [b" c"])]
    for view in (token_table(ROWS), token_strip(ROWS, 40), comparison_table(("one", "[red]two"), spans)):
        assert "\x1b" not in drawn(view, color=False, width=60)
        assert "\x1b[" in drawn(view, color=True, width=60)


def test_the_comparison_marks_what_differs_without_colour() -> None:
    spans = [(b"ab", [b"ab"], [b"a", b"b"]), (b" c", [b" c"], [b" c"])]
    _, first, second = drawn(comparison_table(("one", "[red]two"), spans), color=False, width=60).splitlines()
    assert first.split() == ["≠", "ab", "ab", "a│b"]
    assert second.split() == ["␣c"] * 3
