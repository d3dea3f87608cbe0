"""Constrained text along every way to tokens: guessed ahead, several samples, a batch, beams; and in every output."""

import io
import json
import re
import sys

import jsonschema
import pytest
from tiny import write_model

import llmcli
from llmcli.__main__ import run

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 4}, "ok": {"type": "boolean"}},
    "required": ["name", "ok"],
    "additionalProperties": False,
}
LARK = 'start: "<" word ">"\nword: /[a-c]{1,9}/\n'
CHOICES = ("yes indeed", "yesterday", "no")
CONSTRAINTS = {
    "json-schema": {"json_schema": SCHEMA},
    "regex": {"regex": "(ab|ba|aab){2,6}c"},
    "grammar": {"grammar": LARK},
    "choice": {"choice": CHOICES},
}
FITS = {
    "json-schema": lambda text: jsonschema.validate(json.loads(text), SCHEMA) is None,
    "regex": re.compile("(ab|ba|aab){2,6}c").fullmatch,
    "grammar": re.compile("<[a-c]{1,9}>").fullmatch,
    "choice": CHOICES.__contains__,
}
PROMPT = 'abab {"name": "no", "ok": true} <abc> yes'


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A model, and another one of the same vocabulary that guesses for it, mostly wrong."""
    place = tmp_path_factory.mktemp("models")
    longer = {"max_position_embeddings": 256}
    return write_model(place / "model", **longer), write_model(place / "small", seed=1, **longer)


@pytest.fixture(scope="module")
def tiny(folders):
    return llmcli.load(folders[0], dtype="float32")


@pytest.mark.parametrize("draft", ["lookup", "small", "itself"])
@pytest.mark.parametrize("name", CONSTRAINTS)
def test_drafts_change_no_id(tiny, folders, name, draft):
    drafts = {"lookup": "lookup", "small": llmcli.load(folders[1], dtype="float32"), "itself": tiny}
    asked = {**CONSTRAINTS[name], "max_tokens": 80}
    for more in ({"greedy": True}, {"seed": 1}, {"seed": 2, "temperature": 1.5, "top_p": 1.0}):
        plain = tiny.generate(PROMPT, **asked, **more)
        drafted = tiny.generate(PROMPT, drive=tiny.decoder(draft=drafts[draft]), **asked, **more)
        assert (drafted.ids, drafted.finish_reason) == (plain.ids, plain.finish_reason)
        assert drafted.finish_reason != "complete" or FITS[name](drafted.text)
    if draft == "itself":
        assert drafted.timings.accepted > 0


@pytest.fixture
def generate(folders, tmp_path, monkeypatch):
    (tmp_path / "s.json").write_text(json.dumps(SCHEMA))
    (tmp_path / "g.lark").write_text(LARK)
    options = {
        "json-schema": ["--json-schema", str(tmp_path / "s.json")],
        "regex": ["--regex", CONSTRAINTS["regex"]["regex"]],
        "grammar": ["--grammar", str(tmp_path / "g.lark")],
        "choice": [word for each in CHOICES for word in ("--choice", each)],
    }

    def command(name, *more):
        out = io.TextIOWrapper(io.BytesIO(), "utf-8")
        monkeypatch.setattr(sys, "stdout", out)
        model = ["-m", str(folders[0]), "--dtype", "float32", "-n", "80", "--threads", "1", "-q"]
        assert run(["generate", *model, *options[name], *more]) == 0
        return out.buffer.getvalue().decode()

    return command


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_beams_find_texts_that_fit(generate, name):
    found = json.loads(generate(name, "--beams", "3", "--num-samples", "2", "--json", PROMPT))["generations"]
    assert found
    for each in found:
        assert each["finish_reason"] in ("eos", "complete")
        assert FITS[name](each["text"])


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_samples_and_batches_are_held_to_it_one_by_one(generate, name, tmp_path):
    (tmp_path / "prompts").write_text(f"{PROMPT}\n{PROMPT}\nab\n")
    batch = ["--batch", str(tmp_path / "prompts"), "--num-samples", "2", "--seed", "4"]
    lines = [json.loads(each) for each in generate(name, *batch, "--jsonl").splitlines()]
    alone = json.loads(generate(name, "--seed", "4", "--json", PROMPT))
    assert [(each["index"], each["sample"]) for each in lines] == [(i, j) for i in range(3) for j in range(2)]
    assert all(FITS[name](each["text"]) for each in lines)
    assert lines[0]["ids"] == lines[2]["ids"] == alone["ids"]


@pytest.mark.parametrize("way", [["--draft", "lookup"], ["--num-samples", "2"]])
def test_logprobs_of_every_token_show_what_the_constraint_cut(generate, way):
    lines = generate("regex", *way, "--seed", "4", "--events", "--logprobs", "3", "ab").splitlines()
    events = [json.loads(each) for each in lines]
    assert FITS["regex"]("".join(each["text"] for each in events if each["sample"] == 0))
    for each in events:
        best = each["logprobs"]["top_filtered"]
        assert {bytes(one["bytes"]) for one in best} <= {b"a", b"b", b"c"}
        assert len(each["logprobs"]["top"]) == 3


def test_beams_as_events(generate):
    events = [json.loads(each) for each in generate("regex", "--beams", "2", "--events", "ab").splitlines()]
    assert FITS["regex"]("".join(each["text"] for each in events))
