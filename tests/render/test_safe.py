"""No text steers a terminal once it was made visible."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcli.render.safe import SafeText, visible


def test_no_character_steers_or_hides() -> None:
    shown = visible("a".join(map(chr, range(0x110000))))
    assert not {"Cc", "Cf", "Cs", "Zl", "Zp"} & set(map(unicodedata.category, set(shown)))


@given(st.text(st.characters(categories=("L", "N", "P", "S", "Zs"), exclude_characters="\u115f\u1160\u3164\uffa0")))
def test_ordinary_text_is_unchanged(text: str) -> None:
    assert visible(text) == text


@given(st.lists(st.text(st.characters(exclude_categories=()))))
def test_pieces_are_shown_as_the_whole_is(pieces: list[str]) -> None:
    stream = SafeText(keep="\n")
    assert "".join(map(stream.push, pieces)) == visible("".join(pieces), keep="\n")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]52;c;aGk=\x07", "␛]52;c;aGk=␇"),
        ("\x9b31m", "⟨U+009B⟩31m"),
        ("a\r\nb\tc\x7f", "a␍␊b␉c␡"),
        ("\u202egnp.exe", "⟨U+202E⟩gnp.exe"),
        ("in\u200bvisible\ufeff", "in⟨U+200B⟩visible⟨U+FEFF⟩"),
        ("\U000e0041", "⟨U+E0041⟩"),
        ("[bold red]not markup[/]", "[bold red]not markup[/]"),
        ("naïve 你好 😀 ❤️", "naïve 你好 😀 ❤️"),
    ],
)
def test_cases(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_kept_characters_pass() -> None:
    assert visible("a\n\tb\x1b", keep="\n\t") == "a\n\tb␛"


def test_a_flood_of_marks_is_cut_short() -> None:
    shown = visible("a" + "\u0301" * 50)
    assert shown.startswith("a" + "\u0301" * 4 + "⟨U+0301⟩")
    assert sum(unicodedata.combining(each) > 0 for each in shown) == 4
