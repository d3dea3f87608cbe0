"""The configuration file, its errors, and the order of the sources."""

from pathlib import Path

import pytest

from llmcli.errors import UsageError
from llmcli.settings import SETTINGS, _cpu_quota, config_path, read_config, sources, usable_cores


def written(folder: Path, text: str) -> Path:
    path = folder / "config.toml"
    path.write_text(text)
    return path


def test_the_file_is_found_under_xdg_config_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert config_path() == tmp_path / "llmcli" / "config.toml"
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert config_path() == tmp_path / ".config" / "llmcli" / "config.toml"


def test_an_absent_file_says_nothing(tmp_path: Path) -> None:
    assert read_config(tmp_path / "nothing" / "config.toml") == {}


def test_values_keep_their_types(tmp_path: Path) -> None:
    path = written(tmp_path, 'model = "tiny"\ntemperature = 1\ntop_p = 0.5\nmax_tokens = 9\n')
    assert read_config(path) == {"model": "tiny", "temperature": 1, "top_p": 0.5, "max_tokens": 9}


@pytest.mark.parametrize(
    ("text", "said", "advice"),
    [
        ("temprature = 1", "temprature", "did you mean temperature?"),
        ("zzz = 1", "zzz", "settings are model"),
        ('temperature = "hot"', "not a number", "temperature = 0.8"),
        ("max_tokens = 1.5", "not a whole number", "max_tokens = 4"),
        ("max_tokens = true", "not a whole number", "max_tokens"),
        ("model = 3", "not text", 'model = "stories"'),
        ('device = "tpu"', "unknown", "auto, cpu, cuda, mps"),
        ("model = ", "not TOML", "model ="),
        ("[model]\nname = 1", "not text", "model"),
    ],
)
def test_what_is_wrong_in_the_file_is_named(tmp_path: Path, text: str, said: str, advice: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        read_config(written(tmp_path, text))
    assert advice in caught.value.remedy


def test_a_file_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(b'model = "\xff"')
    with pytest.raises(UsageError, match="cannot be read"):
        read_config(path)


def test_environment_wins_over_file_and_file_over_default(tmp_path: Path) -> None:
    path = written(tmp_path, 'model = "from-file"\nseed = 7\n')
    found = {each.name: each for each in sources({"LLMCLI_MODEL": "from-env", "LLMCLI_TOP_K": ""}, path)}
    assert (found["model"].value, found["model"].source) == ("from-env", "LLMCLI_MODEL")
    assert (found["seed"].value, found["seed"].source) == ("7", str(path))
    assert (found["device"].value, found["device"].source) == ("auto", "default")
    assert found["top_k"].source == "default"
    assert list(found) == list(SETTINGS)


@pytest.mark.parametrize(("limit", "cores"), [("max 100000", None), ("150000 100000", 1.5), ("nonsense", None)])
def test_the_quota_of_a_control_group(tmp_path: Path, limit: str, cores: float | None) -> None:
    (tmp_path / "cpu.max").write_text(limit)
    assert _cpu_quota(tmp_path) == cores


def test_the_quota_of_the_older_control_groups(tmp_path: Path) -> None:
    assert _cpu_quota(tmp_path) is None
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("200000\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert _cpu_quota(tmp_path) == 2
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("-1\n")
    assert _cpu_quota(tmp_path) is None


def test_at_least_one_core_is_usable() -> None:
    assert usable_cores() >= 1
