"""Tokens with their probabilities, at the edges."""

import pytest
from tiny import EOS, USER, scripted

from llmcli.cli.present import tokens_text
from llmcli.render.stream import TextView, TokensView, band, token_text
from llmcli.results import Step


def steps(ids, texts, reason="length"):
    last = len(ids) - 1
    return [
        Step(i, id, text, 1.0, 0.0, reason if i == last else None)
        for i, (id, text) in enumerate(zip(ids, texts, strict=True))
    ]


@pytest.fixture
def show(tmp_path):
    tokenizer = scripted(tmp_path, b"").tokenizer
    return lambda *arguments: tokens_text(tokenizer, TokensView(color=False), steps(*arguments))


def test_special_tokens_and_ids_without_a_token_are_shown(show):
    assert show([97, EOS], ["a", ""], "eos") == "a▇<|eos|>▇"
    assert show([97, 5000], ["a", ""]) == "a▇⟨5000⟩▇"


def test_before_a_stop_a_token_may_be_cut(show):
    assert show([97, USER, 98, 99], ["", "", "", "ab"], "stop") == "a▇<|user|>▇b▇"
    assert show([97, 98, 99], ["", "", "ab"], "stop") == "a▇b▇"
    assert show([97], [""], "stop") == ""


def test_halves_of_characters_and_line_ends(show):
    assert show([0xC3, 0xA9, 10, 27], ["", "é", "\n", "\x1b"]) == "⟨C3⟩▇⟨A9⟩▇␊\n▇␛▇"
    assert token_text("é".encode()) == "é"
    assert TokensView(color=True).token("a\n", 0.0) == "\x1b[97;48;5;53ma␊\x1b[0m\n"


@pytest.mark.parametrize(("prob", "bar"), [(0.0, "▁"), (0.05, "▂"), (0.2, "▃"), (0.5, "▅"), (0.8, "▇"), (1.0, "▇")])
def test_bands_begin_at_their_lower_edge(prob, bar):
    assert band(prob)[1] == bar


def test_a_flood_of_marks_over_several_pieces_is_one():
    view = TextView(safe=True, color=False)
    shown = "".join(view.text("\u0301") for _ in range(20))
    assert shown.count("\u0301") < 10
    assert TextView(safe=False, color=False).text("\x1b\u0301") == "\x1b\u0301"
    assert TextView(safe=True, color=True).prompt("") == ""
