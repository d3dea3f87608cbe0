"""What the views of logits, model, positions and cache draw, from documents kept beside the expected drawings."""

import csv
import io
import json
import re
from importlib.resources import files
from typing import Any

import jsonschema
import numpy as np
import pytest
from drawn_numbers import fractions, invented
from rich.cells import cell_len
from snapshot import FOLDER, check_snapshot

from llmcli.render.ablation import ablation_view
from llmcli.render.cache import cache_view
from llmcli.render.export import View, csv_chunks, json_chunks, picture_bytes
from llmcli.render.funnel import funnel_view
from llmcli.render.lens import lens_view
from llmcli.render.logits import distribution_view, score_view
from llmcli.render.model_tree import model_view, size
from llmcli.render.order import shift_view, shuffle_view
from llmcli.render.parts import bar, percent, tail
from llmcli.render.positions import learned_view
from llmcli.render.rope import rope_view, rotation_view
from llmcli.render.screen import Screen, draw
from llmcli.render.window import Window

VIEWS = {
    "distribution": distribution_view,
    "funnel": funnel_view,
    "per-token": lambda data: score_view(data, 10),
    "lens": lens_view,
    "ablation": lambda data: ablation_view(data, 10),
    "model": model_view,
    "learned": lambda data: learned_view(data, [0, 1], Window()),
    "rope": rope_view,
    "rotation": lambda data: rotation_view(data, [0, 1], Window()),
    "shift": shift_view,
    "shuffle": shuffle_view,
    "cache": cache_view,
}
ARRAYS = ("table", "similarity", "variance", "matrix", "blocks")


def load(name: str) -> dict[str, Any]:
    def arrays(value: dict[str, Any]) -> dict[str, Any]:
        return value | {key: np.array(value[key]) for key in ARRAYS if key in value}

    return json.loads((FOLDER / "documents" / f"{name}.json").read_text("utf-8"), object_hook=arrays)


def view_of(name: str, **changes: Any) -> View:
    return VIEWS[name](load(name) | changes)


@pytest.mark.parametrize("depth", ["none", "256"])
@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("name", VIEWS)
def test_drawn_as_before(name, width, depth):
    screen = Screen(width, depth)
    drawn = draw(view_of(name).terminal(screen), screen)
    check_snapshot(f"{name}-{width}-{depth}", drawn)
    if depth == "none":
        assert "\x1b" not in drawn
        assert all(cell_len(line) <= width for line in drawn.splitlines())


@pytest.mark.parametrize("name", VIEWS)
def test_every_form_of_a_view(name):
    view = view_of(name)
    header, *rows = csv.reader(io.StringIO("".join(csv_chunks(view.table()))))
    assert rows
    assert all(len(row) == len(header) for row in rows)
    assert view.figure is not None
    assert picture_bytes(view.figure, "png").startswith(b"\x89PNG")
    assert b"mathdefault" not in picture_bytes(view.figure, "svg")
    assert view.html is not None
    page = view.html()
    assert page.startswith("<!DOCTYPE html>")
    assert "http" not in page
    assert "<script" not in page


@pytest.mark.parametrize("name", VIEWS)
def test_no_number_is_drawn_that_the_document_does_not_hold(name):
    view = view_of(name)
    points = [100 * each["change"] for each in view.data.get("next", ())]  # percentage points
    for screen in (Screen(40), Screen(80), Screen(120), Screen(80, "256")):
        text = draw(view.terminal(screen), screen)
        assert fractions(text)
        assert invented(text, view.data, besides=points) == []


def test_an_invented_number_is_found():
    data = {"share": 0.1234, "bytes": 1_500_000, "text": "x 0.289", "logits": [0.77], "list": ["a", "b"], "id": 4711}
    text = "12.34 %  12%  1.5 MB  0.289  0.12  1.234e-01  item 1 of 2  4,711  L1.H0→kv2 U+202E x9 \x1b[38;5;77m"
    assert invented(text, data) == []
    text = "12.35 %  13%  0.13  1.6 MB  0.77  1.235e-01  item 3  4,712  L3.H5→kv6 of 4711."
    assert invented(text, data) == ["12.35", "13", "0.13", "1.6", "0.77", "1.235e-01", "3", "4,712", "3", "5", "6"]


def test_the_ticks_of_an_axis_and_the_numbers_of_a_legend_count_too():
    view = view_of("per-token")
    text = draw(view.terminal(Screen(80)), Screen(80))
    assert set(invented(text, {**view.data, "legends": {}})) >= {"5", "50"}
    view = view_of("rope")
    text = draw(view.terminal(Screen(80)), Screen(80))
    assert set(invented(text, {**view.data, "curves": []})) >= {"-0.49", "63", "94", "126"}


@pytest.mark.parametrize("name", VIEWS)
def test_documents_fit_their_schemas(name):
    schemas = {"model": "model", "cache": "cache", "learned": "positions", "rope": "positions", "rotation": "positions"}
    schemas |= {"shift": "positions", "shuffle": "positions"}
    schema = json.loads(files("llmcli.schemas").joinpath(f"inspect-{schemas.get(name, 'logits')}.json").read_text())
    data = json.loads("".join(json_chunks(view_of(name).data)))
    jsonschema.validate(data, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(data | {"more": 1}, schema)


HOSTILE = {"id": 5, "piece": "\x1b[31m", "label": "[red]<b>你好"}


def test_tokens_are_shown_as_they_are_and_never_as_markup():
    data = load("distribution")
    data["top"][0]["token"] = HOSTILE
    view = distribution_view(data)
    assert "[red]<b>你好" in draw(view.terminal(Screen(80)), Screen(80))
    assert "[red]&lt;b&gt;你好" in view.html()
    lens = load("lens")
    lens["rows"][-1]["final"]["token"] = HOSTILE
    assert "[red]<b>你好" in draw(lens_view(lens).terminal(Screen(80)), Screen(80))


@pytest.mark.parametrize("name", ["distribution", "funnel", "per-token", "ablation", "cache"])
def test_a_long_token_leaves_the_numbers_beside_it_whole(name):
    def lengthened(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: "long" * 20 if key == "label" else lengthened(each) for key, each in value.items()}
        return [lengthened(each) for each in value] if isinstance(value, list) else value

    drawn = draw(VIEWS[name](lengthened(load(name))).terminal(Screen(80)), Screen(80))
    rows = [line for line in drawn.splitlines() if re.search(r"longlonglonglo.*\d", line)]
    assert rows
    assert all(not re.search(r"\d…", line) for line in rows)


def test_moved_texts_say_why_scores_changed():
    data = load("shift") | {"change": 0.2}
    assert "depend on the length" in draw(shift_view(data).terminal(Screen(80)), Screen(80))
    assert "a learned table" in draw(shift_view(data | {"learned": True}).terminal(Screen(80)), Screen(80))


def test_the_model_name_is_made_safe():
    view = view_of("distribution", model="/tmp/evil\x1b[2J")
    assert "\x1b" not in draw(view.terminal(Screen(80)), Screen(80))
    assert "\x1b" not in view.html()


def test_long_texts_are_cut_with_a_notice():
    data = load("per-token")
    data["tokens"] = data["tokens"][:1] + data["tokens"][1:] * 10
    drawn = draw(score_view(data, 7).terminal(Screen(80)), Screen(80))
    assert f"the 7 most surprising of {len(data['tokens'])} tokens" in drawn
    ablated = load("ablation")
    ablated["tokens"] = ablated["tokens"] * 10
    assert "the 4 most changed of 60 tokens" in draw(ablation_view(ablated, 4).terminal(Screen(80)), Screen(80))
    cached = load("cache")
    cached["steps"] = cached["steps"] * 10
    assert "40 of 60 steps" in draw(cache_view(cached).terminal(Screen(80)), Screen(80))


def test_failed_checks_are_seen_without_colour():
    data = load("cache") | {"same_ids": False}
    data["steps"][1]["uncached_id"] = 7
    drawn = draw(cache_view(data).terminal(Screen(80)), Screen(80))
    assert "✗ NOT equal: the same ids" in drawn
    assert "≠ id 7" in drawn


def test_a_learned_table_larger_than_the_screen_says_what_is_not_shown():
    drawn = draw(learned_view(load("learned"), [], Window(rows="0-3", columns="2-5")).terminal(Screen(80)), Screen(80))
    assert "positions 0-3 of 40 are shown" in drawn
    assert "channels 2-5 of 10 are shown" in drawn


@pytest.mark.parametrize(
    ("share", "width", "expected"),
    [(0, 4, ""), (1, 4, "████"), (0.5, 4, "██"), (1e-9, 4, "▏"), (2, 3, "███"), (0.25 + 1 / 64, 2, "▌")],
)
def test_bars(share, width, expected):
    assert bar(share, width) == expected


def test_numbers_in_words():
    assert [percent(p) for p in (1, 0.1235, 0.0001, 0.00005, 1e-9, 0)] == [
        "100.00 %",
        "12.35 %",
        "0.01 %",
        "0.005 %",
        "1.0e-07 %",
        "0.00 %",
    ]
    assert [size(n) for n in (7, 1500, 2_500_000, 123_456_789_012)] == ["7 B", "1.5 kB", "2.5 MB", "123.5 GB"]


def test_the_end_of_a_text_fits():
    tokens = [{"label": each} for each in ("␣one", "␣你好", "␣three")]
    assert tail(tokens, 40) == "␣one␣你好␣three"
    assert tail(tokens, 11) == "…␣three"
    assert tail(tokens, 5) == "…"
