import json

import pytest

from llmcli.errors import ConfigError
from llmcli.generation_config import read_generation_config


def write(folder, value):
    (folder / "generation_config.json").write_text(value if isinstance(value, str) else json.dumps(value))
    return read_generation_config(folder)


def test_generation_config(tmp_path):
    assert read_generation_config(tmp_path) == ({}, (), [])
    params, eos, notes = write(
        tmp_path,
        {"temperature": 0.6, "top_p": 0.9, "top_k": 20, "eos_token_id": [7, 8], "do_sample": True, "num_beams": 1},
    )
    assert params == {"temperature": 0.6, "top_p": 0.9, "top_k": 20}
    assert eos == (7, 8)
    assert notes == []
    assert write(tmp_path, {"eos_token_id": 5, "top_k": None})[:2] == ({}, (5,))
    assert write(tmp_path, {"do_sample": False, "temperature": 1.0})[0] == {"temperature": 0.0}


def test_what_is_not_applied_is_said(tmp_path):
    _, _, notes = write(tmp_path, {"no_repeat_ngram_size": 3, "min_length": 0})
    assert len(notes) == 1
    assert "no_repeat_ngram_size = 3" in notes[0]


@pytest.mark.parametrize("value", ["{", "[1]", '{"temperature": -1}', '{"eos_token_id": "x"}', '{"top_k": "many"}'])
def test_a_malformed_generation_config_is_named(tmp_path, value):
    with pytest.raises(ConfigError, match=r"generation_config\.json"):
        write(tmp_path, value)
