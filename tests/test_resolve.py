"""Names to folders, without the net."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmcli import resolve as module
from llmcli.errors import ConfigError, HubError, ModelError, ModelNotFoundError
from llmcli.resolve import cached_folder, cached_names, hub_cache, is_hub_id, resolve, weight_files


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "hub"


@pytest.fixture
def builtin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "builtin"
    for name in ("stories", "tales"):
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text("{}")
    monkeypatch.setattr(module, "BUILTIN", folder)
    return folder


def snapshot(cache: Path, name: str, *files: str, commit: str = "c0ffee") -> Path:
    repository = cache / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True, exist_ok=True)
    (repository / "refs" / "main").write_text(commit)
    folder = repository / "snapshots" / commit
    folder.mkdir(parents=True)
    for each in files:
        (folder / each).write_text("{}")
    return folder


def test_a_built_in_name(builtin: Path) -> None:
    assert resolve("stories") == builtin / "stories"


def test_a_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert resolve(str(tmp_path)) == tmp_path


def test_a_tilde_is_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text("{}")
    assert resolve("~/m") == tmp_path / "m"


def test_a_folder_wins_over_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "org" / "name").mkdir(parents=True)
    (tmp_path / "org" / "name" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert resolve("org/name") == Path("org/name")


def test_a_folder_without_config_is_named_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no config\.json") as caught:
        resolve(str(tmp_path))
    assert "Hugging Face" in caught.value.remedy


def test_a_tokenizer_alone_will_do_for_a_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    assert resolve(str(tmp_path), need="tokenizer") == tmp_path
    with pytest.raises(ConfigError):
        resolve(str(tmp_path))


@pytest.mark.parametrize("name", ["model.gguf", "pytorch_model.bin", "x/model.pt"])
def test_foreign_formats_name_safetensors(name: str) -> None:
    with pytest.raises(ModelError, match="not read") as caught:
        resolve(name)
    assert "safetensors" in caught.value.remedy


def test_a_folder_of_gguf_names_it(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelError, match=r"m\.gguf: GGUF"):
        resolve(str(tmp_path))


def test_a_file_is_not_a_model(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"")
    with pytest.raises(ModelNotFoundError, match="is a file") as caught:
        resolve(str(path))
    assert str(tmp_path) in caught.value.remedy


@pytest.mark.parametrize("name", ["./no", "/no/where", "a/b/c", "~/no-such", "../up"])
def test_a_path_that_is_not_there_is_called_a_folder(name: str) -> None:
    with pytest.raises(ModelNotFoundError, match="no folder"):
        resolve(name)


@pytest.mark.usefixtures("builtin")
def test_an_unknown_name_gets_the_nearest_and_the_list() -> None:
    with pytest.raises(ModelNotFoundError, match="'storys'") as caught:
        resolve("storys")
    assert "did you mean stories?" in caught.value.remedy
    assert "stories, tales" in caught.value.remedy


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("org/name", True),
        ("HuggingFaceTB/SmolLM2-135M", True),
        ("a/b.c_d-e", True),
        ("org", False),
        ("a/b/c", False),
        ("../x", False),
        ("a/..", False),
        ("a/b..c", False),
        ("a--b/c", False),
        ("a/b\n", False),
        ("", False),
        ("a/", False),
    ],
)
def test_the_form_of_a_hub_id(name: str, is_one: bool) -> None:
    assert is_hub_id(name) is is_one


def test_a_whole_snapshot_is_used_without_the_net(cache: Path) -> None:
    folder = snapshot(cache, "org/name", "config.json", "tokenizer.json", "model.safetensors")
    assert resolve("org/name") == folder
    assert cached_names() == ["org/name"]


def test_a_snapshot_without_weights_serves_the_tokenizer_alone(cache: Path) -> None:
    folder = snapshot(cache, "org/name", "config.json", "tokenizer.json")
    assert resolve("org/name", need="tokenizer") == folder
    assert cached_names() == []
    with pytest.raises(HubError, match="not in the cache, and HF_HUB_OFFLINE"):
        resolve("org/name")


def test_a_snapshot_that_misses_a_shard_is_not_whole(cache: Path) -> None:
    folder = snapshot(cache, "org/name", "config.json", "tokenizer.json", "a.safetensors")
    index = {"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert cached_folder("org/name") is None
    (folder / "b.safetensors").write_text("")
    assert cached_folder("org/name") == folder


def test_a_cached_model_with_a_broken_index_does_not_spoil_the_list(cache: Path) -> None:
    folder = snapshot(cache, "org/broken", "config.json", "tokenizer.json")
    (folder / "model.safetensors.index.json").write_text("no")
    snapshot(cache, "org/name", "config.json", "tokenizer.json", "model.safetensors")
    assert cached_names() == ["org/name"]


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": 3}}', '{"weight_map": []}']
)
def test_an_index_that_is_none_is_a_model_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ModelError, match="index"):
        weight_files(tmp_path)


@pytest.mark.parametrize("name", ["../out.safetensors", "/etc/passwd", "x/y.safetensors", "code.py"])
def test_an_index_may_not_leave_its_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": name}}))
    with pytest.raises(ModelError, match="no weight file"):
        weight_files(tmp_path)


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"HF_HOME": "/somewhere"},
        {"HF_HUB_CACHE": "/cache", "HF_HOME": "/somewhere"},
        {"HUGGINGFACE_HUB_CACHE": "/older"},
        {"XDG_CACHE_HOME": "/xdg"},
        {"HF_HOME": "~/mine"},
    ],
)
def test_the_cache_is_where_the_library_has_it(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    code = "from huggingface_hub import constants; print(constants.HF_HUB_CACHE)"
    theirs = subprocess.run([sys.executable, "-c", code], env=os.environ, capture_output=True, text=True, check=True)
    assert str(hub_cache()) == theirs.stdout.strip()
