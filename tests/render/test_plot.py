"""Curves in characters."""

import math
import subprocess
import sys

import pytest

from llmcli.render.plot import Chart, Series, _figure, draw, draw_plane, tick_labels, ticks

QUARTERS = "▘▝▀▖▌▞▛▗▚▐▜▄▙▟█"
WAVE = [(i / 4, math.cos(i / 4)) for i in range(129)]


def canvas(text: str) -> list[str]:
    """The lines of the curves, without the axis at their left."""
    return [line.replace("┤", "│").partition("│")[2] for line in text.splitlines() if "┤" in line or "│" in line]


def test_a_curve_falls_where_its_numbers_do() -> None:
    chart = Chart("title", "step", "bits", [Series("loss", [(x, 10.0 - x) for x in range(10)])])
    text = draw(chart, width=60, height=10)
    lines = text.splitlines()
    assert lines[0] == "title"
    assert lines[1].startswith("10┤")
    assert lines[10].strip().startswith("1┤")
    places = [(row, at) for row, line in enumerate(canvas(text)) for at, c in enumerate(line) if c in QUARTERS]
    assert {row for row, _ in places} == set(range(10))
    firsts = [min(at for r, at in places if r == row) for row in range(10)]
    assert firsts == sorted(firsts)
    assert (firsts[0], firsts[-1] > 45) == (0, True)
    assert lines[-1].split() == ["bits", "step"]


def test_series_are_told_apart_without_colour() -> None:
    series = [Series("first", [(0, 0.0), (9, 9.0)]), Series("flat", [(0, 5.0), (9, 5.0)]), Series("third", [(4, 1.0)])]
    text = draw(Chart("t", "x", "y", [*series, Series("fit", [(0, 9.0), (9, 0.0)], dots=True)]), 60, 9)
    legend = text.splitlines()[-4:]
    assert [line.split() for line in legend] == [["▄▀", "first"], ["•", "flat"], ["×", "third"], ["·", "fit"]]
    assert canvas(text)[4].count("•") > 40
    assert "".join(canvas(text)).count("×") == 1
    assert "".join(canvas(text)).count("·") > 20


@pytest.mark.parametrize("width", [1, 10, 34, 40, 80, 120])
def test_any_width(width: int) -> None:
    text = draw(Chart("t", "position", "value", [Series("a", WAVE), Series("b", WAVE[:9])]), width, 9)
    assert len(canvas(text)) == 9
    assert max(map(len, text.splitlines()[1:])) <= max(width, 10)
    assert not {c for c in text if not c.isprintable()} - {"\n"}


def test_hostile_names_are_shown() -> None:
    text = draw(Chart("\x1b]0;t\x07", "x", "y", [Series("a\x1b[31m你好", WAVE), Series("\u202eb\n", WAVE)]), 40, 5)
    assert not {c for c in text if not c.isprintable()} - {"\n"}
    assert "␛]0;t␇" in text
    assert "a␛[31m你好" in text


def test_a_plane_has_its_origin_in_the_middle() -> None:
    lines = draw_plane({"·": [(3.0, 0.0), (0.0, 3.0)], "●": [(-3.0, 0.0)], "○": [(1.5, -1.5)]}).splitlines()
    assert len(lines) == 21
    assert max(map(len, lines)) <= 41
    assert lines[10][:21] == "●" + "─" * 19 + "┼"
    assert lines[10].endswith("·")
    assert lines[0][20] == "·"
    assert lines[15][30] == "○"
    assert draw_plane({"●": [(0.0, 0.0)]}).splitlines()[10][20] == "●"


def test_what_was_drawn_before_and_the_terminal_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    chart = Chart("t", "x", "y", [Series("", WAVE)])
    first = draw(chart, 100, 30)
    draw(Chart("other", "a", "b", [Series("p", [(1, 1), (10, 100)]), Series("q", [(3, 3)])], log=True), 30, 5)
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setenv("LINES", "5")
    assert draw(chart, 100, 30) == first


def test_points_that_cannot_be_drawn_are_left_out() -> None:
    wild = [(0, math.nan), (1, 3.0), (2, math.inf), (3, 4.0)]
    assert tick_lines(draw(Chart("t", "", "", [Series("", wild)]), 40, 5)) == ["4", "3"]
    assert "no points" in draw(Chart("t", "x", "y", [Series("", [(-1, 1), (0, 1)])], log=True), 40, 5)
    assert "no points" in draw(Chart("t", "x", "y", [Series("", [])]), 40, 5)


def tick_lines(text: str) -> list[str]:
    return [line.partition("┤")[0].strip() for line in text.splitlines() if "┤" in line]


def test_crowded_points_are_averaged_and_the_title_says_so() -> None:
    noisy = Series("", [(x, 5.0 + (-1) ** x) for x in range(4000)])
    text = draw(Chart("t", "x", "y", [noisy]), 60, 9)
    assert text.startswith("t, averaged in each column\n")
    assert [bool(line.strip()) for line in canvas(text)] == [False] * 4 + [True] + [False] * 4
    assert "averaged" not in draw(Chart("t", "x", "y", [Series("", noisy.points[:200])]), 60, 9)


def test_ticks_stand_at_values_of_the_curve() -> None:
    values = [y for _, y in WAVE]
    chosen = ticks(values, 5)
    assert set(chosen) <= set(values)
    assert (chosen[0], chosen[-1]) == (min(values), max(values))
    assert tick_labels(chosen) == ["-1", "-0.5", "0", "0.51", "1"]
    assert ticks([3.0, 1.0, 3.0], 5) == [1.0, 3.0]
    assert ticks([1.0, 10.0, 50.0, 100.0], 3, math.log10) == [1.0, 10.0, 100.0]


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ([5.0], ["5"]),
        ([0.0, 512.0, 1023.0], ["0", "512", "1023"]),
        ([0.12345, 0.12445], ["0.1235", "0.1245"]),
        ([1e5, 3e7], ["100000", "3e+07"]),
        ([1e-6, 2e-6], ["1e-06", "2e-06"]),
    ],
)
def test_tick_labels_are_as_short_as_they_may_be(places: list[float], expected: list[str]) -> None:
    assert tick_labels(places) == expected


def test_the_library_is_loaded_by_drawing_alone() -> None:
    program = "import sys; from llmcli.render import plot; print('plotext' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "False\n"


def test_ticks_of_a_log_axis_in_a_picture_are_the_points_numbers() -> None:
    pytest.importorskip("matplotlib")
    points = [(356672.0, 2.228392), (1041280.0, 2.044882), (2570304.0, 1.98849)]
    chart = Chart(
        "law", "parameters", "bits", [Series("runs", points), Series("fit", points[::2], dots=True)], log=True
    )
    figure = _figure([chart])
    figure.canvas.draw()
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_xticklabels(which="both")] == ["356672", "1.04e+06", "2.57e+06"]
    assert [label.get_text() for label in axes.get_yticklabels(which="both")] == ["1.988", "2.045", "2.228"]


def test_a_single_point_is_seen_in_a_picture() -> None:
    pytest.importorskip("matplotlib")
    chart = Chart("loss", "step", "bits", [Series("training", [(0, 3.0), (1, 2.5)]), Series("validation", [(1, 2.6)])])
    line, point = _figure([chart]).axes[0].get_lines()
    assert (line.get_marker(), point.get_marker()) == ("None", "o")
