"""Documents and files: JSON in pieces, CSV, npz, pictures; where they are sent."""

import io
import json
import sys

import numpy as np
import pytest

from llmcli.cli.view import ViewOptions, emit
from llmcli.errors import LlmcliError, UsageError
from llmcli.render import export
from llmcli.render.export import View, csv_chunks, drawable, json_chunks, npz_bytes, picture_bytes

DATA = {
    "schema_version": 1,
    "model": "x\u007f\u001b",
    "value": np.float32(0.1),
    "rows": np.array([[0.1, 1.0], [0.25, 0.0]], dtype=np.float32),
    "tokens": [{"id": 1, "piece": "é"}, {"id": 2, "piece": "<"}],
    "maps": [{"head": None, "weights": np.eye(2)}, {"head": 3, "weights": np.eye(2)}],
    "mixed": [{"a": 1}, {"b": 2}],
    "nothing": None,
    "flag": True,
}


def loaded(data):
    with np.load(io.BytesIO(npz_bytes(data)), allow_pickle=False) as arrays:
        return dict(arrays)


def test_json_in_pieces_is_the_document():
    text = "".join(json_chunks(DATA))
    read = json.loads(text)
    assert read["rows"] == [[0.1, 1.0], [0.25, 0.0]]
    assert read["value"] == 0.1
    assert read["tokens"][0] == {"id": 1, "piece": "é"}
    assert read["maps"][0] == {"head": None, "weights": [[1, 0], [0, 1]]}
    assert (read["nothing"], read["flag"], read["model"]) == (None, True, "x\x7f\x1b")
    assert "\x7f" not in text
    assert "é" in text
    assert "".join(json_chunks(DATA, ascii_only=True)).isascii()


def test_float32_numbers_read_back_to_the_very_same():
    numbers = np.random.default_rng(0).standard_normal(1000).astype(np.float32) ** 9
    read = json.loads("".join(json_chunks({"n": numbers})))["n"]
    assert np.array_equal(np.array(read, dtype=np.float32), numbers)


@pytest.mark.parametrize("value", [np.nan, np.inf, np.array([0, np.nan]), np.float32("inf"), float("nan")])
def test_what_is_no_number_is_no_json(value):
    with pytest.raises(ValueError, match="JSON"):
        list(json_chunks({"a": [value]}))


def test_npz_arrays_carry_the_names_of_the_fields():
    arrays = loaded(DATA)
    assert arrays["rows"].dtype == np.float32
    assert arrays["tokens.piece"].tolist() == ["é", "<"]
    assert arrays["maps.weights"].shape == (2, 2, 2)
    assert arrays["maps.head"].tolist() == [-1, 3]
    assert arrays["mixed.0.a"] == 1
    assert np.isnan(arrays["nothing"])


def test_csv_quotes_what_it_must():
    rows = ([i, 'a"b\n'] for i in range(9000))
    text = "".join(csv_chunks((["n", "text"], rows)))
    assert text.startswith('n,text\n0,"a""b\n"\n1,')
    assert text.count("\n") == 2 * 9000 + 1


def picture(label="$x_1$ 你"):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2, 2))
    figure.add_subplot().set_title(drawable(label))
    return figure


def test_pictures_are_what_they_say_and_need_no_font_that_is_missing():
    assert picture_bytes(picture, "png").startswith(b"\x89PNG")
    svg = picture_bytes(picture, "svg")
    assert b"<svg" in svg
    assert svg == picture_bytes(picture, "svg")
    assert drawable("a\U000e0041") == "aU+E0041"


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(LlmcliError, match="matplotlib") as error:
        picture_bytes(picture, "png")
    assert "llmcli[plot]" in error.value.remedy


@pytest.fixture
def view():
    return View("some-view", {"a": [1]}, lambda screen: f"drawn in {screen.width}", lambda: (["a"], [[1]]))


def test_emit_sends_a_view_where_it_is_asked_to(view, capsys, tmp_path):
    emit(view, ViewOptions(width=50))
    assert capsys.readouterr() == ("drawn in 50\n", "")
    emit(view, ViewOptions(json=True))
    assert capsys.readouterr().out == '{"a": [1]}\n'
    emit(view, ViewOptions(csv=True))
    assert capsys.readouterr().out == "a\n1\n"
    emit(view, ViewOptions(npz=tmp_path / "a.npz"))
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"wrote {tmp_path / 'a.npz'}\n")
    emit(view, ViewOptions(json=True, npz=tmp_path / "b.npz"))
    assert capsys.readouterr().out == '{"a": [1]}\n'


def test_emit_refuses_what_a_view_does_not_have(view, tmp_path):
    for name in ("png", "svg", "html"):
        with pytest.raises(UsageError, match=f"some-view has no --{name}"):
            emit(view, ViewOptions(**{name: tmp_path / "x"}))
    assert list(tmp_path.iterdir()) == []


def test_options_are_checked_before_anything_is_computed(tmp_path):
    with pytest.raises(UsageError, match="--json and --csv"):
        ViewOptions(json=True, csv=True)
    with pytest.raises(UsageError, match="does not exist"):
        ViewOptions(npz=tmp_path / "no" / "a.npz")
    with pytest.raises(UsageError, match="is a folder"):
        ViewOptions(html=tmp_path)


def test_fonts_are_looked_up_among_those_installed():
    assert export._fonts()[0] == "DejaVu Sans"
