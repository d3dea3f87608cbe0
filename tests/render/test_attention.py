"""Attention as it is drawn: snapshots at 80 and 120 columns, with and without colour; what they must not lack."""

import json
from dataclasses import replace
from importlib.resources import files

import jsonschema
import numpy as np
import pytest
from attention_samples import made
from drawn_numbers import fractions, invented
from rich.cells import cell_len
from snapshot import check_snapshot
from tiny_families import pair

from llmcli.inspect.attention import rank_heads
from llmcli.inspect.steps import head_steps
from llmcli.render.attention import draw_maps, draw_overview, draw_ranking, draw_summary, draw_token
from llmcli.render.attention_data import attention_document, maps_table, steps_data
from llmcli.render.attention_view import Drawing, maps_view, ranking_view, steps_view, token_view
from llmcli.render.export import json_chunks, npz_bytes, picture_bytes
from llmcli.render.screen import Screen, draw
from llmcli.render.steps import draw_steps
from llmcli.render.window import Window

SCREENS = [Screen(80, "none"), Screen(120, "none"), Screen(80, "256"), Screen(120, "truecolor")]
ALL = tuple((layer, head) for layer in range(2) for head in range(4))
HOW = Drawing("some/model", "float32", Window())

VIEWS = {
    "summary": lambda screen: draw_summary(made(chosen=((1, None),)), screen, Window(), numbers=False),
    "map": lambda screen: draw_maps(made(), screen, Window(), numbers=False),
    "values": lambda screen: draw_maps(made(), screen, Window(), numbers=True),
    "scores": lambda screen: draw_maps(made(scores=True), screen, Window(), numbers=False),
    "sink": lambda screen: draw_maps(made(sink=True), screen, Window(), numbers=True),
    "grid": lambda screen: draw_maps(made(chosen=ALL), screen, Window(), numbers=False),
    "generated": lambda screen: draw_maps(made(generated=3), screen, Window(), numbers=False),
    "window": lambda screen: draw_maps(made(60), screen, Window("50-52"), numbers=False),
    "pool": lambda screen: draw_maps(made(60), screen, Window(pool=3), numbers=False),
    "token": lambda screen: draw_token(made(), made().maps[0], 6, screen, Window()),
    "ranking": lambda screen: draw_ranking(made(), rank_heads(made(), "previous token", 5), "previous token", screen),
}


@pytest.mark.parametrize("screen", SCREENS, ids=lambda screen: f"{screen.width}-{screen.depth}")
@pytest.mark.parametrize("name", VIEWS)
def test_snapshots(name, screen):
    text = draw(VIEWS[name](screen), screen)
    check_snapshot(f"attention-{name}-{screen.width}-{screen.depth}", text)
    if not screen.color:
        assert "\x1b" not in text
        assert max(map(cell_len, text.splitlines())) <= screen.width


def test_steps_show_a_shape_at_every_arrow_and_all_numbers_of_a_short_text():
    found = head_steps(pair("llama").pipeline, [5, 6, 7, 8], layer=1, head=1)
    text = draw(draw_steps(found, Screen(100), numbers=False), Screen(100))
    arrows = [line for line in text.splitlines() if line.startswith("  ▼ ")]
    assert len(arrows) == len(found.steps) - 1
    for line, step in zip(arrows, found.steps[1:], strict=True):
        assert f"{step.name} ({step.values.shape[0]}, {step.values.shape[1]})" in line
    for name in ("QK^T", "weights"):
        for row in np.tril(found.values(name)):
            assert f"{row[0]:.2f}" in text
    assert "channels more" in text
    everything = draw(draw_steps(found, Screen(100), numbers=True), Screen(100))
    assert "channels more" not in everything
    for value in found.values("hidden states").ravel():
        assert f"{value:.2f}".replace("-0.00", "0.00") in everything
    for spread in (found.scaled, found.unscaled):
        assert f"{spread.std:.4f}" in text
        assert f"{spread.entropy:.4f}" in text


def test_long_texts_show_shapes_alone_and_learned_positions_say_so():
    found = head_steps(pair("gpt2").pipeline, list(range(5, 30)), layer=0, head=0)
    text = draw(draw_steps(found, Screen(80), numbers=False), Screen(80))
    assert "--values prints the matrices" in text
    assert "no rotation here" in text
    assert len(text.splitlines()) < 60


def test_heads_are_named_by_their_key_value_head_only_where_they_share_it():
    shared = draw(draw_overview(made(), Screen(80)), Screen(80))
    assert "H3→kv1" in shared
    own = made()
    own = replace(own, heads=[replace(head, kv_head=head.head) for head in own.heads])
    assert "→kv" not in draw(draw_overview(own, Screen(80)), Screen(80))


def test_many_heads_are_drawn_in_blocks_that_fit():
    text = draw(draw_overview(made(layers=3, heads=32), Screen(80)), Screen(80))
    assert max(map(cell_len, text.splitlines())) <= 80
    assert all(f"H{head}→kv{head // 2}" in text for head in range(32))


def test_tokens_of_a_long_text_show_the_heaviest_keys_and_say_so():
    found = made(80)
    text = draw(draw_token(found, found.maps[0], -1 % 80, Screen(80), Window()), Screen(80))
    assert "the 40 heaviest of 80 keys; --cols all draws every one" in text
    every = draw(draw_token(found, found.maps[0], 79, Screen(80), Window(columns="all")), Screen(80))
    assert len([line for line in every.splitlines() if line[:2].strip().isdigit()]) == 80


def test_the_picture_of_the_steps_has_a_panel_for_each_with_its_shape():
    for name, ids in (("llama", [5, 6, 7]), ("gpt2", list(range(5, 35)))):
        steps = head_steps(pair(name).pipeline, ids, layer=1, head=1)
        figure = steps_view(made(), steps, HOW, str).figure()
        panels = [axes for axes in figure.axes if axes.get_title()]
        assert len(panels) == len(steps.steps)
        for axes, step in zip(panels, steps.steps, strict=True):
            assert f"{step.name} {step.values.shape}" in axes.get_title()
            np.testing.assert_array_equal(axes.images[0].get_array().filled(0), np.nan_to_num(step.values))
        weights = next(axes for axes in panels if " weights " in axes.get_title())
        assert len(weights.texts) == (6 if len(ids) == 3 else 0)


def schema():
    return json.loads(files("llmcli").joinpath("schemas/inspect-attention.json").read_text())


def documents():
    page = str
    steps = head_steps(pair("llama").pipeline, [5, 6, 7], layer=0, head=0)
    yield maps_view(made(), HOW, overview=True, page=page)
    yield maps_view(made(scores=True, sink=True), HOW, overview=False, page=page)
    yield maps_view(made(generated=2), HOW, overview=False, page=page, difference=1e-7, tolerance=1e-4)
    yield ranking_view(made(chosen=()), rank_heads(made(), "entropy", 3), "entropy", HOW)
    yield ranking_view(made(chosen=()), rank_heads(made(), "induction", 3), "induction", HOW)
    yield token_view(made(), 3, HOW, page)
    yield steps_view(made(), steps, HOW, page)


def test_every_document_follows_the_schema_and_has_every_form():
    for view in documents():
        data = json.loads("".join(json_chunks(view.data)))
        jsonschema.validate(data, schema())
        header, rows = view.table()
        assert all(len(row) == len(header) for row in rows)
        npz_bytes(view.data)
        assert draw(view.terminal(Screen(80)), Screen(80))


@pytest.mark.parametrize("screen", [Screen(40), Screen(80), Screen(80, "256")], ids=lambda screen: str(screen))
def test_no_number_is_drawn_that_the_document_does_not_hold(screen):
    for view in documents():
        text = draw(view.terminal(screen), screen)
        assert fractions(text)
        assert invented(text, view.data) == []
    values = replace(HOW, numbers=True)
    view = maps_view(made(scores=True), values, overview=False, page=str)
    text = draw(view.terminal(screen), screen)
    assert len(fractions(text)) > 30
    assert invented(text, view.data) == []


def test_the_document_has_the_documented_fields_and_no_others():
    data = attention_document(made(), "m", "float32")
    assert list(data) == ["schema_version", "model", "dtype", "tokens", "heads", "maps"]
    assert list(data["tokens"][0]) == ["id", "piece"]
    assert list(data["heads"][0]) == ["layer", "head", "kv_head", "entropy", "pattern", "strength"]
    assert list(data["maps"][0]) == ["layer", "head", "kv_head", "weights", "row_sums"]
    np.testing.assert_allclose(data["maps"][0]["row_sums"], 1, atol=1e-6)
    assert len(data["heads"]) == 8
    mean = attention_document(made(chosen=((1, None),)), "m", "float32")["maps"][0]
    assert (mean["layer"], mean["head"], mean["kv_head"]) == (1, None, None)
    rows = attention_document(made(generated=3), "m", "float32")["maps"][0]
    assert rows["queries"] == list(range(8))
    with_scores = attention_document(made(scores=True), "m", "float32")["maps"][0]
    assert np.isfinite(with_scores["scores"]).all()


def test_masked_scores_of_steps_are_null():
    steps = head_steps(pair("llama").pipeline, [5, 6, 7], layer=0, head=0)
    tensors = {each["name"]: each["values"] for each in steps_data(steps)["tensors"]}
    assert [[each is None for each in row] for row in tensors["masked scores"]] == np.triu(np.ones((3, 3)), 1).tolist()


def test_tables_hold_what_is_visible_and_with_scores_all_pairs():
    _, rows = maps_table(made())
    assert len(list(rows)) == 8 * 9 // 2
    header, rows = maps_table(made(scores=True))
    assert header[-1] == "score"
    assert len(list(rows)) == 64


@pytest.mark.parametrize("form", ["png", "svg"])
def test_pictures(form):
    """No font warning for any token, no mathematics in `$x$`; warnings are errors here."""
    start = {"png": b"\x89PNG", "svg": b"<?xml"}[form]
    for found, overview in ((made(chosen=((1, None),)), True), (made(scores=True), False), (made(chosen=ALL), False)):
        view = maps_view(found, HOW, overview=overview, page=str)
        assert picture_bytes(view.figure, form).startswith(start)
    for view in documents():
        assert picture_bytes(view.figure, form).startswith(start)
