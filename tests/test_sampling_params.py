import json
import subprocess
import sys

import pytest

from llmcli.errors import ConfigError, UsageError
from llmcli.sampling_params import SamplingParams, merged, read_generation_config


@pytest.mark.parametrize(
    ("field", "value", "flag"),
    [
        ("temperature", -0.1, "--temperature"),
        ("temperature", float("nan"), "--temperature"),
        ("temperature", float("inf"), "--temperature"),
        ("temperature", "hot", "--temperature"),
        ("top_k", -1, "--top-k"),
        ("top_k", 1.5, "--top-k"),
        ("top_k", True, "--top-k"),
        ("top_p", 1.01, "--top-p"),
        ("top_p", -0.01, "--top-p"),
        ("min_p", 2, "--min-p"),
        ("typical_p", 0, "--typical-p"),
        ("repetition_penalty", 0, "--repetition-penalty"),
        ("max_tokens", -1, "--max-tokens"),
        ("seed", -1, "--seed"),
        ("seed", 2**63, "--seed"),
        ("stop", ("",), "--stop"),
        ("stop", (3,), "--stop"),
    ],
)
def test_a_value_out_of_range_names_its_flag(field, value, flag):
    with pytest.raises(UsageError, match=flag) as caught:
        SamplingParams(**{field: value})
    assert caught.value.remedy


def test_edges_are_allowed():
    SamplingParams(temperature=0, top_k=0, top_p=0, min_p=1, typical_p=1, max_tokens=0, seed=0)
    assert SamplingParams(temperature=0).greedy
    assert not SamplingParams(temperature=1e-9).greedy
    assert SamplingParams(stop="end").stop == ("end",)
    assert SamplingParams(stop=["a", "b"]).stop == ("a", "b")


def test_what_is_given_wins_over_the_model_and_the_model_over_defaults():
    params = merged({"top_p": 0.5, "top_k": 9}, {"top_k": 3, "temperature": None})
    assert (params.temperature, params.top_k, params.top_p) == (0.8, 3, 0.5)


def test_greedy_is_temperature_0_and_contradicts_a_positive_one():
    assert merged({"temperature": 0.6}, {"greedy": True}).greedy
    assert merged({}, {"greedy": True, "temperature": 0}).greedy
    assert not merged({}, {"greedy": False}).greedy
    with pytest.raises(UsageError, match="--greedy"):
        merged({}, {"greedy": True, "temperature": 0.5})


def test_unknown_names_are_refused():
    with pytest.raises(UsageError, match="topk"):
        merged({}, {"topk": 3})


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


def test_it_needs_no_torch():
    code = "import sys, llmcli.sampling_params; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
