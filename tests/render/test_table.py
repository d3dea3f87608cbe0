"""Tables on a screen that is too narrow: parted, and no number is cut."""

from rich.text import Text

from llmcli.render.screen import Screen, draw
from llmcli.render.table import Lines, table

HEADERS = ("#", "token", "before\nmean", "\nspread", "after\nmean", "\nspread", "")
ROWS = [[str(i), name, f"{i + 0.125:.3f}", "1.000", f"{-i - 0.5:.3f}", "20.000", "███"] for i, name in enumerate("ab")]


def drawn(width: int, rows: list[list[str]] = ROWS) -> list[str]:
    return draw(table(HEADERS, rows, left=(1,)), Screen(width)).splitlines()


def test_what_fits_is_one_table() -> None:
    lines = drawn(80)
    assert len(lines) == 4
    assert lines[2].split() == ["0", "a", "0.125", "1.000", "-0.500", "20.000", "███"]


def test_bars_go_first_and_then_whole_groups_move_below_with_the_names_of_their_rows() -> None:
    whole = max(map(len, drawn(80)))
    without = [line.rstrip() for line in drawn(whole - 1)]
    assert len(without) == 4
    assert "███" not in "".join(without)
    lines = drawn(30)
    assert [line.split() for line in lines] == [
        ["before"],
        ["#", "token", "mean", "spread"],
        ["0", "a", "0.125", "1.000"],
        ["1", "b", "1.125", "1.000"],
        [],
        ["after"],
        ["#", "token", "mean", "spread"],
        ["0", "a", "-0.500", "20.000"],
        ["1", "b", "-1.500", "20.000"],
    ]
    assert all(len(line) <= 30 for line in lines)


def test_a_last_column_of_words_is_kept() -> None:
    rows = [[*row[:-1], "no bar"] for row in ROWS]
    assert "\n".join(drawn(30, rows)).count("no bar") == 2


def test_names_that_would_take_half_the_screen_are_cut_to_the_first_column() -> None:
    lines = draw(table(("", "what it does", "left"), [["x", "y" * 25, "12"]], left=(0, 1)), Screen(30)).splitlines()
    assert [line.split() for line in lines] == [["what", "it", "does"], ["x", "y" * 25], [], ["left"], ["x", "12"]]


def test_what_is_wider_than_the_screen_alone_is_wrapped() -> None:
    lines = draw(table(("name", "value"), [["x", Text("9" * 50)]], left=(0,)), Screen(40)).splitlines()
    assert "".join(lines).count("9") == 50
    assert all(len(line) <= 40 for line in lines)


def test_lines_stand_closer_and_then_hang() -> None:
    rows = [["Q", "what a token asks", "(12, 64)"], ["output", "side by side", "(64)"]]
    assert draw(Lines(rows), Screen(80)) == ("Q       what a token asks  (12, 64)\noutput  side by side       (64)\n")
    assert draw(Lines(rows), Screen(34)).splitlines()[0] == "Q      what a token asks (12, 64)"
    hanging = draw(Lines(rows), Screen(24)).splitlines()
    assert hanging == ["Q       what a token", "        asks  (12, 64)", "output  side by side", "        (64)"]
