"""A generation written down, run again, and compared."""

import json
from dataclasses import replace
from importlib.resources import files

import jsonschema
import pytest
from tiny import write_model

from llmcli.errors import LlmcliError, UsageError
from llmcli.pipeline import Pipeline
from llmcli.record import Difference, changes, file_hashes, make_record, read_record, replay, write_record


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    return Pipeline.load(write_model(tmp_path_factory.mktemp("tiny")))


@pytest.fixture
def recorded(pipeline):
    run = pipeline.stream(
        "ab", max_tokens=8, ignore_eos=True, ban="zz", logit_bias={5: 1.5}, dry_multiplier=1, samplers="dry,temperature"
    )
    for _ in run:
        pass
    return make_record(pipeline, run)


def test_what_is_written_is_read_again_and_gives_the_same_ids(pipeline, recorded, tmp_path):
    path = tmp_path / "run.json"
    write_record(path, recorded)
    schema = json.loads(files("llmcli").joinpath("schemas/record.json").read_text())
    jsonschema.validate(json.loads(path.read_text()), schema)
    again = read_record(path)
    assert again == recorded
    assert again.seed is not None
    assert again.params.seed is None
    assert replay(pipeline, again) is None
    assert [each.name for each in tmp_path.iterdir()] == ["run.json"]


def test_the_first_step_that_differs(pipeline, recorded):
    ids = recorded.ids
    other = (ids[3] + 1) % 256
    changed = replace(recorded, ids=[*ids[:3], other, *ids[4:]])
    assert replay(pipeline, changed) == Difference(3, other, ids[3])
    assert replay(pipeline, replace(recorded, ids=ids[:5])) == Difference(5, None, ids[5])
    assert replay(pipeline, replace(recorded, ids=[*ids, 7])) == Difference(8, 7, None)


def test_an_interrupted_run_is_compared_as_far_as_it_goes(pipeline, recorded):
    cut = replace(recorded, ids=recorded.ids[:5], finish_reason="interrupt")
    assert replay(pipeline, cut) is None
    assert replay(pipeline, replace(recorded, ids=[], finish_reason="interrupt")) is None


def test_nothing_generated_is_repeatable_too(pipeline):
    run = pipeline.stream("ab", max_tokens=0)
    assert list(run) == []
    record = make_record(pipeline, run)
    assert replay(pipeline, record) is None
    assert replay(pipeline, replace(record, ids=[5])) == Difference(0, 5, None)


def test_changes_are_named():
    then, now = {"a": "1", "b": "2", "c": "3"}, {"a": "1", "b": "9", "d": "4"}
    assert changes(then, now) == ["b changed", "c is gone", "d was added"]


def test_hashes_are_those_of_the_files(pipeline):
    import hashlib

    hashes = file_hashes(pipeline.folder)
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(hashes)
    data = (pipeline.folder / "config.json").read_bytes()
    assert hashes["config.json"] == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(
    "change",
    [
        {"schema_version": 2},
        {"model": 5},
        {"ids": [1, -1]},
        {"ids": [True]},
        {"ids": "12"},
        {"threads": 0},
        {"threads": 2**63},
        {"threads": True},
        {"files": {"a": 1}},
        {"prompt": 5},
        {"seed": None},
        {"seed": -1},
        {"seed": "x"},
        {"params": {"topk": 3}},
        {"params": {"top_k": -3}},
        {"params": {"stop": None}},
        {"params": {"samplers": [["a"]]}},
        {"params": {"logit_bias": 5}},
        {"params": []},
    ],
    ids=str,
)
def test_what_is_no_record_is_refused(recorded, tmp_path, change):
    path = tmp_path / "run.json"
    write_record(path, recorded)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UsageError, match="is no record"):
        read_record(path)


def test_a_record_that_lacks_something_or_is_no_json(recorded, tmp_path):
    path = tmp_path / "run.json"
    write_record(path, recorded)
    values = json.loads(path.read_text())
    for name in values:
        path.write_text(json.dumps({key: value for key, value in values.items() if key != name}))
        with pytest.raises(UsageError, match=name):
            read_record(path)
    for text in ("", "[]", "5", "{", "[" * 100_000, "\udcff"):
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
        with pytest.raises(UsageError):
            read_record(path)
    with pytest.raises(UsageError, match="cannot be read"):
        read_record(tmp_path / "none.json")


def test_an_old_record_survives_a_failed_write(recorded, tmp_path, monkeypatch):
    path = tmp_path / "run.json"
    path.write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(LlmcliError, match="No space left"):
        write_record(path, recorded)
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["run.json"]
