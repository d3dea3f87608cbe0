"""The guided walk as it is drawn, from documents kept beside the snapshots."""

import csv
import io
import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from drawn_numbers import fractions, invented
from rich.cells import cell_len
from snapshot import FOLDER, check_snapshot

from llmcli.errors import UsageError
from llmcli.render.explain import draw_stages, explain_view
from llmcli.render.export import csv_chunks, npz_bytes
from llmcli.render.screen import Screen, draw

NAMES = ("explain", "explain-learned", "explain-parallel", "explain-sandwich")


def load(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / "documents" / f"{name}.json").read_text("utf-8"))


def drawn(name: str, screen: Screen, **options: Any) -> str:
    return draw(explain_view(load(name), **options).terminal(screen), screen)


@pytest.mark.parametrize("depth", ["none", "256"])
@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("name", NAMES)
def test_drawn_as_before(name, width, depth):
    text = drawn(name, Screen(width, depth))
    check_snapshot(f"{name}-{width}-{depth}", text)
    if depth == "none":
        assert "\x1b" not in text
        assert max(map(cell_len, text.splitlines())) <= width


@pytest.mark.parametrize("name", NAMES)
def test_a_stage_fits_a_screen(name):
    for stage in draw_stages(load(name), Screen(80)):
        assert len(draw(stage, Screen(80)).splitlines()) <= 22  # and two of a pause


@pytest.mark.parametrize("width", [40, 60, 200])
def test_any_width(width):
    for name in NAMES:
        assert max(map(cell_len, drawn(name, Screen(width)).splitlines())) <= width


@pytest.mark.parametrize("name", NAMES)
def test_documents_are_as_the_schema_says(name):
    schema = json.loads(files("llmcli").joinpath("schemas/explain.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(load(name))
    broken = load(name)
    broken["stages"][0]["more"] = 1
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(schema).validate(broken)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("screen", [Screen(40), Screen(120), Screen(80, "256")], ids=lambda screen: str(screen))
def test_no_number_is_drawn_that_the_document_does_not_hold(name, screen):
    text = drawn(name, screen)
    assert len(fractions(text)) > 100
    assert invented(text, load(name)) == []


def test_hostile_text_is_shown_and_not_obeyed():
    text = drawn("explain-learned", Screen(80))
    assert not {c for c in text if not c.isprintable()} - {"\n"}
    assert "␛[31m[red]" in text
    assert "⟨U+202E⟩" in text
    assert "tiny␛[2J" in text


def test_every_stage_says_its_shapes_and_its_place_in_the_block():
    data = load("explain-sandwich")
    for stage, part in zip(data["stages"], draw_stages(data, Screen(120)), strict=True):
        text = draw(part, Screen(120))
        shapes = [f"({', '.join(map(str, stage[end]))})" for end in ("input", "output")]
        assert f"in {shapes[0]}  out {shapes[1]}" in text
        assert f"{stage['number'] + 1}/16  " in text
        assert len(re.findall(r"\[(?:norm|attention|residual|ffn)\]", text)) == (stage["layer"] is not None)


def test_what_a_causal_and_a_masked_model_predict_is_said_once():
    lines = [line for line in drawn("explain", Screen(120)).splitlines() if "causal" in line and "masked" in line]
    assert len(lines) == 1


def test_the_drawn_token_and_its_share_are_told():
    data = load("explain")
    sampling = next(stage for stage in data["stages"] if stage["kind"] == "sampling")
    text = " ".join(drawn("explain", Screen(120)).split())
    assert f"drawn: {sampling['drawn']['token']['label']} (id {sampling['drawn']['token']['id']})" in text
    assert f"random number {sampling['uniform']:.4f}" in text
    assert f"{sampling['low']:.4f} to {sampling['high']:.4f}" in text
    assert "no random number" in drawn("explain-parallel", Screen(120))


def test_a_long_text_shows_its_end_and_how_to_see_the_rest():
    text = drawn("explain-learned", Screen(80))
    count = len(load("explain-learned")["tokens"])
    assert f"tokens {count - 6}-{count - 1} of {count} are shown; the others: --rows 0-{count - 7}" in text
    everything = drawn("explain-learned", Screen(120), rows="all")
    assert "are shown; the others" not in everything
    first = drawn("explain-learned", Screen(120), rows="0-1", columns="0")
    assert "--cols 1-" in first
    with pytest.raises(UsageError, match="no token 99"):
        drawn("explain-learned", Screen(80), rows="99")


def test_the_table_holds_every_number_once():
    data = load("explain")
    rows = list(csv.DictReader(io.StringIO("".join(csv_chunks(explain_view(data).table())))))
    logits = [row for row in rows if row["name"] == "logits"]
    lm_head = next(stage for stage in data["stages"] if stage["kind"] == "lm_head")
    assert [float(row["value"]) for row in logits] == lm_head["logits"]
    assert [int(row["row"]) for row in logits] == list(range(512))
    weights = {(r["row"], r["column"]): float(r["value"]) for r in rows if r["name"] == "weights"}
    attention = next(stage for stage in data["stages"] if stage["kind"] == "attention")
    assert weights["2", "1"] == attention["weights"][2][1]
    assert {row["stage"] for row in rows} == {str(stage["number"]) for stage in data["stages"]}


def test_arrays_and_page():
    data = load("explain-learned")
    arrays = np.load(io.BytesIO(npz_bytes(explain_view(data).data)), allow_pickle=False)
    np.testing.assert_allclose(arrays["stages.3.weights"], data["stages"][3]["weights"])
    html = explain_view(data).html
    assert html is not None
    page = html()
    assert page.startswith("<!DOCTYPE html>")
    assert "Self-attention, block 1" in page
    assert not {c for c in page if not c.isprintable()} - {"\n"}
    assert not re.search(r"(src|href)\s*=|url\(", page)
    assert explain_view(data).figure is not None


def test_a_text_of_ids_alone():
    assert "this model has no tokenizer" in drawn("explain-parallel", Screen(80))


def test_snapshots_are_all_wanted():
    kept = {path.name for path in Path(FOLDER).glob("explain*.txt")}
    assert kept == {f"{name}-{width}-{depth}.txt" for name in NAMES for width in (80, 120) for depth in ("none", "256")}


def test_filters_that_are_off_stand_in_their_places():
    data = load("explain-parallel")
    sampling = next(stage for stage in data["stages"] if stage["kind"] == "sampling")
    data["stages"] = [sampling]
    kept = {"candidates": 101, "mass": 1.0, "model_mass": 1.0, "entropy": 1.0}
    named = (("model", None), ("repetition-penalty", 1.25), ("top-k", 101.0), ("min-p", 0.0), ("other", None))
    sampling["filters"] = [{"name": name, "value": value, **kept} for name, value in named]
    lines = draw(explain_view(data).terminal(Screen(80)), Screen(80)).splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("filter"))
    names = [line.split("  ")[0] for line in lines[first + 1 : first + 8]]
    assert names == ["model", "repetition-penalty 1.25", "temperature 1", "top-k 101", "top-p 1", "min-p 0", "other"]
    assert "…" not in "".join(lines[first : first + 8])
