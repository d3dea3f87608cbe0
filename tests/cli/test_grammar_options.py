"""`--json-schema`, `--regex`, `--grammar` and `--choice` of `llmcli generate`: exit codes and what is said."""

import json
import sys

import pytest
from tiny import write_model

from llmcli.__main__ import run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def generate(folder, capfd):
    def command(*arguments):
        code = run(["generate", "-m", str(folder), "--threads", "1", "--seed", "5", *map(str, arguments), "ab"])
        out, err = capfd.readouterr()
        return code, out, err

    return command


def test_each_option_holds_the_text(generate, tmp_path):
    (tmp_path / "schema.json").write_text('{"enum": [12, "three"]}')
    (tmp_path / "g.lark").write_text('start: "<" /[a-c]/ ">"')
    assert generate("--json-schema", tmp_path / "schema.json")[:2] in [(0, "12\n"), (0, '"three"\n')]
    assert generate("--grammar", tmp_path / "g.lark")[:2] in [(0, f"<{each}>\n") for each in "abc"]
    assert generate("--regex", "[xy]{2}")[:2] in [(0, f"{a}{b}\n") for a in "xy" for b in "xy"]
    assert generate("--choice", "yes", "--choice", "no")[:2] in [(0, "yes\n"), (0, "no\n")]


def test_a_text_that_a_limit_cuts_is_printed_and_exit_1(generate):
    code, out, err = generate("--choice", "yes", "-n", "2")
    assert (code, out) == (1, "ye\n")
    assert err.splitlines()[-2:] == [
        "llmcli: the text was cut before it was all that --choice asks for",
        "raise --max-tokens, or allow shorter texts",
    ]


def test_the_json_tells_why_it_ended(generate):
    code, out, _ = generate("--choice", "yes", "--json")
    assert (code, json.loads(out)["finish_reason"]) == (0, "complete")
    code, out, _ = generate("--choice", "yes", "-n", "2", "--json")
    assert (code, json.loads(out)["finish_reason"]) == (1, "length")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--regex", "(a"), "--regex: unclosed group"),
        (("--regex", ""), "--regex is ''"),
        (("--regex", "a", "--choice", "b"), "--regex and --choice exclude each other"),
        (("--regex", "a", "--stop", "b"), "--regex and --stop exclude each other"),
        (("--grammar", "absent.lark"), "absent.lark: No such file or directory"),
        (("--json-schema", "."), ".: Is a directory"),
        (("--choice", ""), "--choice is empty"),
    ],
)
def test_what_is_wrong_is_two_lines_and_exit_2(generate, arguments, said):
    code, out, err = generate(*arguments)
    assert (code, out) == (2, "")
    assert err.splitlines()[0] == f"llmcli: {said}"
    assert len(err.splitlines()) == 2


def test_without_the_library_the_remedy_is_named(generate, monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    code, _, err = generate("--choice", "yes")
    assert (code, err.splitlines()[1]) == (1, "install it: pip install 'llmcli[grammar]'")


def test_a_record_is_replayed_under_its_constraint(generate, folder, tmp_path, capfd):
    path = tmp_path / "run.json"
    assert generate("--regex", "[a-z]{5}", "--record", path)[0] == 0
    assert json.loads(path.read_text())["params"]["regex"] == "[a-z]{5}"
    assert run(["replay", "-m", str(folder), str(path)]) == 0, capfd.readouterr()
