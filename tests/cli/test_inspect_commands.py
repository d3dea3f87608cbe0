"""`inspect-logits`, `-model`, `-positions` and `-cache` inside this process: options, forms, exit codes."""

import csv
import io
import json
from importlib.resources import files

import jsonschema
import numpy as np
import pytest
from drawn_numbers import invented
from safetensors.torch import load_file
from tiny import write_model
from tiny_families import pair

from llmcli.__main__ import run
from llmcli.model.cache import LayerCache

TEXT = "Once upon a time"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("inspected"))


@pytest.fixture
def command(folder, monkeypatch, capfdbinary):
    """Runs `inspect-NAME`; returns exit code, stdout and stderr."""
    for name in ("TEMPERATURE", "TOP_K", "TOP_P", "SEED", "MODEL", "MAX_TOKENS", "DEVICE", "THREADS", "COLOR"):
        monkeypatch.delenv(f"LLMCLI_{name}", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder / "no-settings"))

    def call(name, *arguments, model=folder):
        capfdbinary.readouterr()
        threads = () if name == "model" else ("--threads", "1")
        code = run([f"inspect-{name}", "-m", str(model), *threads, *arguments])
        out, err = capfdbinary.readouterr()
        return code, out.decode(), err.decode()

    return call


@pytest.mark.parametrize("arguments", [(), ("--lens",), ("--per-token",)])
def test_hidden_states_are_written_from_views_of_logits(command, tmp_path, arguments):
    code, out, err = command("logits", *arguments, "--hidden", str(tmp_path / "h.npz"), TEXT)
    assert (code, out) == (0, "")
    assert "wrote" in err
    code, out, _ = command("logits", "--hidden", str(tmp_path / "i.npz"), "--json", TEXT)
    ids = [each["id"] for each in json.loads(out)["tokens"]]
    for name in ("h", "i"):
        with np.load(tmp_path / f"{name}.npz", allow_pickle=False) as arrays:
            assert arrays["tokens.id"].tolist() == ids
            assert arrays["hidden_states"].shape[1] == len(ids)


CASES = [
    ("logits", (TEXT,), "distribution"),
    ("logits", ("--position", "-2", TEXT), "distribution"),
    ("logits", ("--funnel", "--seed", "1", "--top-k", "9", TEXT), "funnel"),
    ("logits", ("--funnel", "--greedy", TEXT), "funnel"),
    ("logits", ("--per-token", TEXT), "per-token"),
    ("logits", ("--lens", TEXT), "lens"),
    ("logits", ("--ablate", "L0.H1,L-1.ffn", TEXT), "ablation"),
    ("logits", ("--ablate", "", TEXT), "ablation"),
    ("model", (), "model"),
    ("positions", (), "rope"),
    ("positions", ("--pairs", "0,2", "--layer", "1", "--head", "-1", "--token", "3", TEXT), "rope"),
    ("positions", ("--at", "5"), "rotation"),
    ("positions", ("--at", "5", "--pairs", "1", TEXT), "rotation"),
    ("positions", ("--shift", "30", TEXT), "shift"),
    ("positions", ("--shuffle", "--seed", "3", TEXT), "shuffle"),
    ("cache", ("-n", "3", TEXT), "cache"),
]


@pytest.mark.parametrize(("name", "arguments", "view"), CASES)
def test_every_view_in_every_form(command, name, arguments, view, tmp_path):
    targets = {form: tmp_path / f"view.{form}" for form in ("npz", "png", "svg", "html")}
    options = [each for form, path in targets.items() for each in (f"--{form}", str(path))]
    code, out, err = command(name, "--json", *options, *arguments)
    assert code == 0
    assert [f"wrote {path}" for path in targets.values()] == [line for line in err.splitlines() if "wrote" in line]
    data = json.loads(out)
    schema = json.loads(files("llmcli.schemas").joinpath(f"inspect-{name}.json").read_text("utf-8"))
    jsonschema.validate(data, schema)
    assert (data["schema_version"], data["view"], data["dtype"]) == (1, view, "float32")
    with np.load(targets["npz"]) as arrays:
        assert {each.partition(".")[0] for each in arrays.files} <= set(data)
    assert targets["png"].read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in targets["svg"].read_bytes()
    assert targets["html"].read_text("utf-8").startswith("<!DOCTYPE html>")

    code, out, _ = command(name, "--csv", *arguments)
    assert code == 0
    header, *rows = csv.reader(io.StringIO(out))
    assert all(len(row) == len(header) for row in rows)

    code, out, _ = command(name, *arguments)
    assert code == 0
    assert out
    assert "\x1b" not in out
    assert max(map(len, out.splitlines())) <= 80
    colored = command(name, "--color", "always", "--width", "120", *arguments)[1]
    assert "\x1b[" in colored


@pytest.mark.parametrize(
    ("arguments", "view"),
    [
        ((), "learned"),
        (("--channels", "0,-1", "--rows", "0-3", "--cols", "2-9"), "learned"),
        (("--pool", "8"), "learned"),
        (("--shift", "30", "Zoë was"), "shift"),
        (("--shuffle", "Zoë was"), "shuffle"),
    ],
)
def test_learned_positions(command, arguments, view):
    model = pair("gpt2-bytes").folder
    code, out, _ = command("positions", "--json", *arguments, model=model)
    assert code == 0
    data = json.loads(out)
    jsonschema.validate(data, json.loads(files("llmcli.schemas").joinpath("inspect-positions.json").read_text("utf-8")))
    assert data["view"] == view
    code, out, _ = command("positions", *arguments, model=model)
    assert code == 0
    assert "\x1b" not in out


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("logits", ("--funnel", "--lens", TEXT), "--funnel and --lens exclude each other"),
        ("logits", ("--top-k", "5", TEXT), "--top-k is given without --funnel"),
        ("logits", ("--seed", "5", "--lens", TEXT), "--seed is given without --funnel"),
        ("logits", ("--funnel", "--position", "1", TEXT), "--position does not go with --funnel"),
        ("logits", ("--funnel", "--top-p", "2", TEXT), "--top-p is 2.0"),
        ("logits", ("--position", "99", TEXT), "--position 99: there are 17 tokens"),
        ("logits", ("--ablate", "L9.ffn", TEXT), "there is no layer 9"),
        ("logits", ("--ablate", "everything", TEXT), "'everything' is no part of a model"),
        ("logits", ("--json", "--csv", TEXT), "--json and --csv both go to stdout"),
        ("positions", ("--at", "-1"), "--at -1"),
        ("positions", ("--at", "1", "--shift", "2", TEXT), "--at and --shift exclude each other"),
        ("positions", ("--shift", "2", "--pairs", "1", TEXT), "--pairs: --shift does not read it"),
        ("positions", ("--seed", "1"), "--seed: it is for --shuffle"),
        ("positions", ("--channels", "1"), "--channels: this model has RoPE"),
        ("positions", ("--token", "1", "--layer", "0"), "--token: no text is given"),
        ("positions", ("--pairs", "9"), "there is no pair 9"),
        ("positions", ("--shuffle", "a"), "--shuffle: the text has 2 tokens"),
        ("cache", ("-n", "0", TEXT), "--max-tokens is 0"),
    ],
)
def test_what_is_wrong_is_said_with_exit_code_2(command, name, arguments, words):
    code, out, err = command(name, *arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert len(err.splitlines()) == 2


@pytest.mark.parametrize("option", ["--pairs=1", "--layer=0", "--head=0", "--token=1"])
def test_rope_options_do_not_fit_a_learned_table(command, option):
    code, _, err = command("positions", option, "abc", model=pair("gpt2-bytes").folder)
    assert code == 2
    assert "no RoPE" in err
    assert command("positions", "--at", "3", model=pair("gpt2-bytes").folder)[0] == 2


def test_a_model_without_a_tokenizer(command):
    model = pair("gpt2").folder
    assert command("positions", model=model)[0] == 0
    code, _, err = command("logits", TEXT, model=model)
    assert code == 3
    assert "has no tokenizer" in err


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("attention", ("--layer", "0", "--head", "1", "--steps")),
        ("attention", ("--generate", "3", "--verify")),
        ("logits", ()),
        ("logits", ("--per-token",)),
        ("logits", ("--lens",)),
        ("positions", ("--shift", "5")),
        ("cache", ("-n", "2")),
    ],
)
def test_a_model_without_a_tokenizer_is_looked_into_by_ids(command, name, arguments):
    folder = pair("gpt2").folder
    code, out, _ = command(name, "--json", "--ids", *arguments, "5 9, 12", model=folder)
    assert code == 0
    assert name == "cache" or all(f'"id": {each},' in out for each in (5, 9, 12))
    assert command(name, "--ids", *arguments, '{"tokens": [{"id": 5}, {"id": 9}, {"id": 12}]}', model=folder)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("5 x",), "'x' is not a token id"),
        (("5 9999999",), "outside the model's vocabulary"),
        (("",), "no token ids"),
        (("5", "--keep-newline"), "--keep-newline changes nothing about --ids"),
    ],
)
def test_ids_that_are_none(command, arguments, words):
    code, out, err = command("logits", "--ids", *arguments, model=pair("gpt2").folder)
    assert (code, out) == (2, "")
    assert words in err


def test_a_text_that_is_too_long_exits_4(command):
    assert command("logits", "x" * 100)[0] == 4
    assert command("cache", "-n", "60", TEXT)[0] == 4


def test_a_cache_that_is_wrong_exits_5_and_shows_it(command, monkeypatch):
    append = LayerCache.append

    def forgetful(self, keys, values):
        keys, values = append(self, keys, values)
        return keys[:, :, -3:], values[:, :, -3:]

    monkeypatch.setattr(LayerCache, "append", forgetful)
    code, out, err = command("cache", "-n", "4", "abcd")
    assert code == 5
    assert "✗ NOT equal" in out
    assert "differ" in err


def test_the_funnel_tells_a_seed_that_was_chosen_for_it(command):
    code, out, err = command("logits", "--funnel", "--json", TEXT)
    assert code == 0
    seed = json.loads(out)["seed"]
    assert f"seed {seed}\n" in err
    again = command("logits", "--funnel", "--json", "--seed", str(seed), TEXT)[1]
    assert json.loads(again)["drawn"] == json.loads(out)["drawn"]


def test_the_last_newline_of_a_file_is_not_part_of_the_text(command, tmp_path):
    file = tmp_path / "text"
    file.write_text(TEXT + "\n")
    plain = json.loads(command("logits", "--json", TEXT)[1])
    assert json.loads(command("logits", "--json", "--file", str(file))[1]) == plain
    kept = json.loads(command("logits", "--json", "--keep-newline", "--file", str(file))[1])
    assert len(kept["tokens"]) == len(plain["tokens"]) + 1


def test_views_are_methods_of_a_loaded_model(folder):
    import llmcli

    model = llmcli.load(folder, device="cpu")
    assert model.next_token(TEXT).top[0].token.id == int(model.logits(TEXT)[-1].argmax())
    assert model.funnel(TEXT, seed=1, top_k=3).stages[-1].candidates <= 3
    assert model.score(TEXT).predicted == 16
    assert model.lens(TEXT).difference <= 1e-5
    assert model.ablation(TEXT, "").largest_change == 0
    assert model.shape().parameters == sum(each.numel() for each in load_file(folder / "model.safetensors").values())
    assert len(model.rope().ropes) == 1
    assert model.rotation(4).rotations[0].position == 4
    assert model.shift(TEXT, 5).change < 1e-4
    assert model.shuffle(TEXT).without_positions <= 1e-5
    assert model.cache(TEXT, max_tokens=2).same_ids
    assert pair("gpt2").pipeline.learned_positions().table.shape == (128, 48)


@pytest.mark.parametrize("arguments", [case for case in CASES if case[0] != "cache"], ids=str)
def test_no_number_is_drawn_that_the_json_does_not_hold(command, arguments):
    name, options, _ = arguments
    code, drawn, _ = command(name, *options)
    data = json.loads(command(name, "--json", *options)[1])
    assert code == 0
    points = [100 * each["change"] for each in data.get("next", ())]  # percentage points
    assert invented(drawn, data, besides=points) == []
