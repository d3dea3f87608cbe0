"""`--draft`, `--draft-model`, `--prompt-cache`, `--kv-dtype` of `llmcli generate`: the same ids, and what is said."""

import json
import re
import sys
from importlib.resources import files

import jsonschema
import pytest
from tiny import write_model

from llmcli.__main__ import run

PROMPT = "abcdefgh abcdefgh abcdefgh"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("tiny"), max_position_embeddings=256)


@pytest.fixture
def generate(folder, capfd, monkeypatch):
    """Runs the command in float32; returns exit code, stdout and stderr."""
    monkeypatch.setattr(sys, "stdin", None)
    monkeypatch.setenv("LLMCLI_SEED", "5")
    fixed = ["generate", "-m", str(folder), "--threads", "1", "--dtype", "float32", "-n", "40"]

    def command(*arguments, prompt=PROMPT):
        code = run([*fixed, *map(str, arguments), prompt])
        return code, *capfd.readouterr()

    return command


def test_no_way_changes_the_text(generate, folder, tmp_path):
    for sampling in (("--temperature", "0.5"), ("--greedy",)):
        expected = generate(*sampling)
        assert expected[0] == 0
        for ways in (
            ("--draft", "lookup"),
            ("--draft-model", folder),
            ("--prompt-cache", tmp_path / "prompt"),
            ("--prompt-cache", tmp_path / "prompt", "--draft", "lookup"),
            ("--kv-dtype", "float32"),
        ):
            assert generate(*sampling, *ways)[:2] == expected[:2]


def test_statistics_and_json_tell_what_was_saved(generate, folder, tmp_path):
    schema = json.loads(files("llmcli").joinpath("schemas/generate.json").read_text())
    plain = json.loads(generate("--json")[1])
    assert [plain["timings"][name] for name in ("drafted", "accepted", "reused")] == [None] * 3
    found = json.loads(generate("--json", "--draft-model", folder)[1])
    jsonschema.validate(found, schema)
    assert found["ids"] == plain["ids"]
    assert found["timings"]["drafted"] == found["timings"]["accepted"] > 20
    _, _, said = generate("--stats", "--draft-model", folder)
    assert re.search(r"; (\d+) drafted, \1 accepted; ", said)
    for reused in (0, 26):
        _, _, said = generate("--stats", "--prompt-cache", tmp_path / "prompt")
        assert f"; {reused} of the prompt reused; " in said
        assert "drafted" not in said


def test_another_number_format_of_the_cache_is_another_record(generate, tmp_path):
    for name in ("auto", "bfloat16"):
        assert generate("--kv-dtype", name, "--record", tmp_path / name)[0] == 0
        assert json.loads((tmp_path / name).read_text())["kv_dtype"] == name
        assert run(["replay", str(tmp_path / name)]) == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--draft", "lookup", "--draft-model", "stories"), "--draft and --draft-model exclude each other"),
        (("--draft", "lookup", "--num-samples", "2"), "--draft is about a single text"),
        (("--draft-model", "stories", "--beams", "2"), "--beams and --draft-model exclude each other"),
        (("--prompt-cache", "{}/prompt", "--beams", "2"), "--beams and --prompt-cache exclude each other"),
        (("--prompt-cache", "{}/prompt", "--num-samples", "2"), "--prompt-cache is about a single text"),
        (("--draft", "lookup", "--record", "{}/run.json"), "--record and --draft exclude each other"),
        (("--prompt-cache", "{}/none/prompt"), "lies in a folder that does not exist"),
        (("--prompt-cache", "{}"), "is a folder"),
        (("--draft-model", "stories"), "their vocabularies differ, first at id"),
    ],
    ids=lambda given: str(given[0]) if isinstance(given, tuple) else None,
)
def test_what_does_not_go_together_is_exit_2(generate, tmp_path, arguments, said):
    code, out, err = generate(*(each.format(tmp_path) for each in arguments))
    assert (code, out) == (2, "")
    assert said in err
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_or_foreign_prompt_cache_is_exit_3_and_left_alone(generate, tmp_path):
    file = tmp_path / "prompt"
    file.write_bytes(b"something else")
    for _ in range(2):
        code, out, err = generate("--prompt-cache", file)
        assert (code, out) == (3, "")
        assert err.splitlines()[-2].startswith(f"llmcli: {file} is damaged")
        assert "delete it" in err.splitlines()[-1]
    file.unlink()
    assert generate("--prompt-cache", file)[0] == 0
    other = write_model(tmp_path / "other", seed=1, max_position_embeddings=256)
    code, out, err = generate("--prompt-cache", file, "-m", other)
    assert (code, out) == (3, "")
    assert "is of another model: model.safetensors differs" in err


def test_a_draft_model_that_is_not_there_is_exit_3(generate, tmp_path):
    assert generate("--draft-model", tmp_path / "none")[0] == 3
