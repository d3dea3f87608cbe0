"""Maps in the terminal: alignment, colours, marks, windows, blocks."""

import re

import numpy as np
import pytest
from rich.cells import cell_len

from llmcli.errors import UsageError
from llmcli.ranges import parse_one, parse_ranges, ranges_text
from llmcli.render.grid import Tile, draw_grid
from llmcli.render.heatmap import Heatmap, draw_heatmap
from llmcli.render.labels import downwards, fit
from llmcli.render.palette import Scale
from llmcli.render.screen import Screen, color_depth, draw
from llmcli.render.window import Window, choose_part, pooled

LABELS = ["␣Once", "你好", "👍", "↵", "e\u0301", "⟨E4⟩", "a" * 30, "한국어"]


def causal(n, labels=None, **changes):
    weights = np.tri(n) / np.arange(1, n + 1)[:, None]
    labels = labels or [LABELS[i % len(LABELS)] for i in range(n)]
    masked = ~np.tri(n, dtype=bool)
    return Heatmap(weights, labels, labels, masked=masked, causal=True, summed=True, **changes)


def lines(heatmap, *, width=80, depth="none", window=None, **how):
    screen = Screen(width, depth)
    return draw(draw_heatmap(heatmap, screen, window, **how), screen).splitlines()


def rows_of(drawn, n):
    """The lines of the map itself: those that begin with a row's number."""
    return [line for line in drawn if re.match(r" *\d+ ", line)][:n]


@pytest.mark.parametrize("numbers", [False, True])
def test_wide_labels_leave_the_columns_aligned(numbers):
    heatmap = causal(8, notes=("sum", ["1.000"] * 8))
    drawn = lines(heatmap, width=120, numbers=numbers)
    assert len({cell_len(line) for line in rows_of(drawn, 8)}) == 1
    assert all(cell_len(line) <= 120 for line in drawn)


def test_the_masked_triangle_looks_unlike_zero():
    weights = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0.5, 0.5]])
    heatmap = Heatmap(weights, list("abc"), list("abc"), masked=~np.tri(3, dtype=bool), masked_means="masked")
    drawn = lines(heatmap)
    first, second, third = (line.removeprefix(f"{i} {'abc'[i]}").strip() for i, line in enumerate(rows_of(drawn, 3)))
    assert (first, second, third) == ("██", "··██", "··▓▓▓▓")
    assert "blank: masked" in drawn[-1]
    colored = "\n".join(lines(heatmap, depth="truecolor"))
    assert "48;2;68;1;84" in colored  # zero has the darkest colour, what is masked none
    assert colored.count("48;2;68;1;84m  ") == 2


def test_colours_as_the_terminal_allows():
    heatmap = causal(4)
    assert "\x1b" not in "".join(lines(heatmap))
    assert "48;5;" in "".join(lines(heatmap, depth="256"))
    assert "48;2;" not in "".join(lines(heatmap, depth="256"))
    assert "48;2;" in "".join(lines(heatmap, depth="truecolor"))


@pytest.mark.parametrize(
    ("color", "environment", "depth"),
    [
        (False, {"COLORTERM": "truecolor"}, "none"),
        (True, {"COLORTERM": "truecolor"}, "truecolor"),
        (True, {"COLORTERM": "24bit", "TERM": "xterm"}, "truecolor"),
        (True, {"TERM": "xterm-direct"}, "truecolor"),
        (True, {"TERM": "xterm-256color"}, "256"),
        (True, {}, "256"),
    ],
)
def test_the_depth_of_colour(monkeypatch, color, environment, depth):
    for name in ("COLORTERM", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert color_depth(color) == depth


def test_signed_numbers_show_their_sign_and_struck_cells_their_mark():
    values = np.array([[1.0, -1.0], [0.0, 0.5]])
    heatmap = Heatmap(
        values,
        ["a", "b"],
        ["a", "b"],
        scale=Scale(1, "diverging", root=False),
        struck=np.array([[0, 1], [0, 0]], dtype=bool),
    )
    first, second = (line.split(maxsplit=2)[2] for line in rows_of(lines(heatmap), 2))
    assert (first, second) == ("+█ -█×", "·· +▒")
    assert rows_of(lines(heatmap, numbers=True), 1)[0].split()[2:] == ["1.00", "-1.00×"]


def test_a_map_that_does_not_fit_says_what_is_missing_and_how_to_see_it():
    heatmap = causal(50)
    drawn = lines(heatmap)
    notes = [line for line in drawn if line.startswith("note:")]
    assert len(rows_of(drawn, 99)) == 40
    assert "queries 0-39 of 50 are shown; the others: --rows 40-49" in notes[0]
    shown, rest = re.fullmatch(r"note: keys 0-(\d+) of 50 are shown; the others: --cols (\d+)-49", notes[1]).groups()
    assert int(rest) == int(shown) + 1
    assert notes[2] == "note: all of it in blocks: --pool 2"
    blocks = lines(heatmap, window=Window(pool=2))
    assert len(rows_of(blocks, 99)) == 25
    assert "each cell is a block of 2 queries x 2 keys, keys added up, queries" in " ".join(blocks)
    assert not any("are shown" in line for line in blocks)


def test_chosen_rows_bring_the_keys_that_they_look_at():
    drawn = lines(causal(90, labels=["x"] * 90), window=Window("70-72"))
    assert [line.split()[0] for line in rows_of(drawn, 9)] == ["70", "71", "72"]
    assert "-72 of 90 are shown" in " ".join(drawn)
    chosen = lines(causal(90, labels=["x"] * 90), window=Window("70", "0-2,69"), numbers=True)
    assert rows_of(chosen, 1)[0].split()[2:] == ["0.01"] * 4


def test_blocks_keep_what_they_stand_for():
    weights = np.tri(7) / np.arange(1, 8)[:, None]
    masked = ~np.tri(7, dtype=bool)
    values, hidden = pooled(weights, masked, 3, add_columns=True)
    assert values.shape == (3, 3)
    assert np.allclose(values.sum(axis=1), 1)
    assert values[1, 0] == pytest.approx(weights[3:6, :3].sum() / 3)
    assert hidden.tolist() == [[False, True, True], [False, False, True], [False, False, False]]
    means, _ = pooled(weights, masked, 3, add_columns=False)
    assert means[0, 0] == pytest.approx(weights[:3, :3].sum() / 6)


def test_numbers_and_blocks_exclude_each_other_and_ranges_are_checked():
    with pytest.raises(UsageError, match="--values"):
        lines(causal(5), window=Window(pool=2), numbers=True)
    with pytest.raises(UsageError, match="no query 9"):
        lines(causal(5), window=Window("9"))
    with pytest.raises(UsageError, match="no key 7"):
        lines(causal(5), window=Window(None, "7"))
    with pytest.raises(UsageError, match="--pool is 0"):
        choose_part((5, 5), ("query", "key"), Window(pool=0), 9)


def test_values_print_no_minus_zero():
    heatmap = Heatmap(np.array([[-0.001, 0.5]]), ["a"], ["a", "b"], scale=Scale(1, "diverging"))
    assert rows_of(lines(heatmap, numbers=True), 1)[0].split()[2:] == ["0.00", "0.50"]


@pytest.mark.parametrize("depth", ["none", "truecolor"])
def test_a_grid_keeps_its_tiles_aligned_and_says_where_it_pools(depth):
    tiles = [Tile(f"L1.H{i}", "prev 0.50", causal(50)) for i in range(5)]
    screen = Screen(80, depth)
    drawn = draw(draw_grid(tiles, screen, Window()), screen)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", drawn).splitlines()
    starts = [plain[0].index(f"L1.H{i}") for i in range(4)]
    assert len(set(np.diff(starts))) == 1
    assert "blocks of 3" in drawn or "block of 3 queries x 3 keys" in drawn
    assert all(cell_len(line) <= 80 for line in plain)
    with pytest.raises(UsageError, match="no query 50"):
        draw_grid(tiles, screen, Window("50"))


def test_labels_are_cut_between_characters_and_written_downwards():
    assert [fit("你好吗", width) for width in (3, 4, 5, 6, 7)] == ["你…", "你… ", "你好…", "你好吗", "你好吗 "]
    assert downwards(["ab", "你", "", "abcdef"], 2, 3) == ["      a ", "a     b ", "b 你  … "]


def test_shades_and_places():
    scale = Scale(2.0)
    assert [scale.shade(value) for value in (0, 0.02, 0.1, 0.6, 1.2, 2, 9)] == list("··░▒▓██")
    assert scale.value(scale.place(0.7)) == pytest.approx(0.7)
    signed = Scale(2.0, "diverging", root=False)
    assert [signed.place(value) for value in (-4, -1, 0, 1)] == [-1, -0.5, 0, 0.5]


def test_ranges():
    assert parse_ranges("0-3,5", 8, "layer") == [0, 1, 2, 3, 5]
    assert parse_ranges("-1", 8, "layer") == [7]
    assert parse_ranges("-3--1, 0", 8, "layer") == [0, 5, 6, 7]
    assert parse_ranges("2--2", 8, "layer") == [2, 3, 4, 5, 6]
    assert parse_ranges("all", 3, "layer") == [0, 1, 2]
    assert parse_one("-2", 8, "token") == 6
    assert ranges_text([0, 1, 2, 5, 7, 8]) == "0-2,5,7-8"
    for text, match in (
        ("8", "no layer 8"),
        ("-9", "no layer -9"),
        ("3-1", "backwards"),
        ("x", "no range"),
        ("", "no range"),
    ):
        with pytest.raises(UsageError, match=match):
            parse_ranges(text, 8, "layer")
    with pytest.raises(UsageError, match="more than one"):
        parse_one("0-1", 8, "token")
