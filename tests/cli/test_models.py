"""`llmcli models`: the list, its JSON, and the path of one model."""

import json
from pathlib import Path
from typing import Any

import pytest

from llmcli import resolve
from llmcli.__main__ import run
from llmcli.cli import io, models


@pytest.fixture(autouse=True)
def _at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One built-in model of two files, and one in the cache."""
    builtin = tmp_path / "builtin" / "stories"
    builtin.mkdir(parents=True)
    (builtin / "config.json").write_text("{}")
    (builtin / "model.safetensors").write_bytes(bytes(1_500_000))
    for module in (resolve, models):
        monkeypatch.setattr(module, "BUILTIN", builtin.parent)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    repository = tmp_path / "cache" / "models--org--name"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    snapshot = repository / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    for each in ("config.json", "tokenizer.json", "model.safetensors"):
        (snapshot / each).write_text("{}")


def test_the_list_names_both_kinds_and_how_to_get_others(tmp_path: Path, capsys: Any) -> None:
    assert run(["models"]) == 0
    out, err = capsys.readouterr()
    first, second = out.splitlines()[:2]
    assert first.split() == ["stories", "built-in", "1.5", "MB", str(tmp_path / "builtin" / "stories")]
    assert second.split()[:2] == ["org/name", "cached"]
    assert all(word in out for word in ("hub id", "HF_HOME", "HF_TOKEN", "HF_HUB_OFFLINE"))
    assert err == ""


@pytest.mark.parametrize("columns", [30, 80])
def test_the_advice_fits_the_terminal(columns: int, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert run(["models"]) == 0
    advice = capsys.readouterr().out.partition("\n\n")[2].splitlines()
    assert len(advice) > 2
    assert all(len(line) <= columns for line in advice)


def test_json_and_names(tmp_path: Path, capsys: Any) -> None:
    assert run(["models", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["schema_version"] == 1
    assert [(each["name"], each["kind"]) for each in found["models"]] == [
        ("stories", "built-in"),
        ("org/name", "cached"),
    ]
    assert found["models"][0]["bytes"] == 1_500_002
    assert found["cache"] == str(tmp_path / "cache")
    assert run(["models", "--names"]) == 0
    assert capsys.readouterr().out == "stories\norg/name\n"


def test_the_path_is_absolute(tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("stories", "builtin/stories"):
        assert run(["models", "path", name]) == 0
        assert capsys.readouterr().out == f"{tmp_path}/builtin/stories\n"


def test_an_unknown_name_is_exit_3(capsys: Any) -> None:
    assert run(["models", "path", "storie"]) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert "did you mean stories?" in err


def test_a_folder_name_does_not_steer_a_terminal(tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "a\x1b[31mb"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    assert run(["models", "path", str(folder)]) == 0
    assert capsys.readouterr().out == f"{folder}\n"  # exact in a pipe
    monkeypatch.setattr(models, "is_terminal", lambda _: True)
    assert run(["models", "path", str(folder)]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_nothing_at_hand_is_said(tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolve, "BUILTIN", tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "none"))
    assert run(["models"]) == 0
    assert capsys.readouterr().out.startswith("No model is at hand.")
    assert io.is_terminal(None) is False
