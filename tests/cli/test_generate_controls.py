"""Sampling options, log-probabilities, traces, events and records of `llmcli generate`, and `llmcli replay`."""

import json
import math
import subprocess
import sys
from importlib.resources import files

import jsonschema
import pytest
from tiny import write_model

from llmcli.__main__ import run
from llmcli.sampling_params import FIELDS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def llmcli(folder, monkeypatch, capfd):
    """Runs a command on the tiny model; returns exit code, stdout and stderr."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder / "no-settings"))

    def command(name, *arguments, model=folder):
        code = run([name, *([] if model is None else ["-m", str(model)]), "--threads", "1", *map(str, arguments)])
        out, err = capfd.readouterr()
        return code, out, err

    return command


def schema(name):
    return json.loads(files("llmcli").joinpath(f"schemas/{name}.json").read_text())


ASK = ("ab", "--seed", 5, "--ignore-eos")
ALL = [
    "--top-n-sigma", "3", "--xtc-probability", "0.5", "--xtc-threshold", "0.05", "--presence-penalty", "0.5",
    "--frequency-penalty", "0.2", "--penalty-window", "20", "--dry-multiplier", "0.8", "--dry-base", "1.5",
    "--dry-allowed-length", "3", "--dry-penalty-last-n", "50", "--dry-sequence-breaker", r"\n",
    "--no-repeat-ngram", "3", "--logit-bias", "65=1.5", "--logit-bias", "b=2", "--ban", "xy", "--mirostat", "2",
    "--mirostat-tau", "4", "--mirostat-eta", "0.2", "--min-tokens", "3", "--top-k", "50", "--repetition-penalty", "1.1",
]  # fmt: skip


def test_every_option_reaches_its_field(llmcli, tmp_path):
    path = tmp_path / "run.json"
    code, _, err = llmcli("generate", *ASK, "-n", 12, *ALL, "--record", path)
    assert code == 0, err
    params = json.loads(path.read_text())["params"]
    wanted = {
        "top_n_sigma": 3, "xtc_probability": 0.5, "xtc_threshold": 0.05, "presence_penalty": 0.5,
        "frequency_penalty": 0.2, "penalty_window": 20, "dry_multiplier": 0.8, "dry_base": 1.5, "dry_allowed_length": 3,
        "dry_penalty_last_n": 50, "dry_sequence_breakers": ["\n"], "no_repeat_ngram": 3,
        "logit_bias": [[65, 1.5], ["b", 2.0]], "ban": ["xy"], "mirostat": 2, "mirostat_tau": 4, "mirostat_eta": 0.2,
        "min_tokens": 3, "top_k": 50, "repetition_penalty": 1.1, "top_p": 1.0,
    }  # fmt: skip
    assert {name: params[name] for name in wanted} == wanted
    assert set(params) == set(FIELDS)
    assert llmcli("replay", path, model=None)[:2] == (0, "the same 12 ids\n")


def test_a_temperature_of_0_is_given_too(llmcli):
    greedy = llmcli("generate", "ab", "-n", 5, "--greedy")
    assert llmcli("generate", "ab", "-n", 5, "--temperature", 0) == greedy
    assert greedy[2] == ""


def test_dry_without_breakers(llmcli, tmp_path):
    path = tmp_path / "run.json"
    llmcli("generate", *ASK, "-n", 1, "--dry-multiplier", 1, "--dry-sequence-breaker", "none", "--record", path)
    assert json.loads(path.read_text())["params"]["dry_sequence_breakers"] == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--samplers", "top-k,temprature"], ["temprature", "did you mean temperature?"]),
        (["--samplers", "temperature", "--top-k", 3], ["--top-k", "--samplers"]),
        (["--xtc-threshold", "0.2"], ["--xtc-threshold", "--xtc-probability"]),
        (["--dry-base", "2"], ["--dry-base", "--dry-multiplier"]),
        (["--mirostat", "1"], ["--mirostat"]),
        (["--mirostat", "2", "--greedy"], ["--mirostat", "temperature"]),
        (["--mirostat-tau", "3"], ["--mirostat-tau", "--mirostat"]),
        (["--min-tokens", "9", "-n", "3"], ["--min-tokens", "--max-tokens"]),
        (["--logit-bias", "5"], ["--logit-bias", "TOKEN=BIAS"]),
        (["--logit-bias", "=5"], ["--logit-bias"]),
        (["--logit-bias", "a=b"], ["--logit-bias"]),
        (["--logit-bias", "999=5"], ["999"]),
        (["--logit-bias", "abc=5"], ["not one token"]),
        (["--ban", ""], ["--ban"]),
        (["--logprobs", "3"], ["--logprobs", "--json"]),
        (["--logprobs", "-1", "--json"], ["--logprobs"]),
        (["--json", "--jsonl"], ["--json", "--jsonl"]),
        (["--events", "--show-tokens"], ["--events", "--show-tokens"]),
        (["--trace", "--quiet"], ["--trace", "--quiet"]),
        (["--record", "/no/such/folder/file"], ["/no/such/folder/file"]),
        (["--record", "/"], ["folder"]),
    ],
)
def test_wrong_requests_are_exit_2_naming_the_option(llmcli, arguments, words):
    code, out, err = llmcli("generate", "ab", *arguments)
    assert (code, out) == (2, "")
    assert all(word in err for word in words)
    assert len(err.splitlines()) == 2


def test_a_ban_keeps_the_text_out(llmcli):
    ask = ["generate", "ab", "--greedy", "--ignore-eos", "-n", 30, "--jsonl"]
    text = json.loads(llmcli(*ask)[1])["text"]
    banned = next(text[i : i + 2] for i in range(len(text) - 1) if text[i : i + 2].isascii() and text[i] != "\\")
    assert banned not in json.loads(llmcli(*ask, "--ban", banned.replace("\n", r"\n"))[1])["text"]


def test_a_bias_decides(llmcli):
    data = json.loads(llmcli("generate", *ASK, "-n", 4, "--logit-bias", "Z=1000", "--json")[1])
    assert data["text"] == "ZZZZ"


def test_min_tokens_holds_back_ends_and_stops(llmcli):
    ask = ["generate", "ab", "--seed", 5, "-n", 20, "--logit-bias", "<|eos|>=1000", "--json"]
    assert len(json.loads(llmcli(*ask)[1])["ids"]) == 1
    data = json.loads(llmcli(*ask, "--min-tokens", 6)[1])
    assert (len(data["ids"]), data["finish_reason"]) == (7, "eos")
    ask = ["generate", *ASK, "-n", 20, "--logit-bias", "Z=1000", "--stop", "ZZ", "--json"]
    assert json.loads(llmcli(*ask)[1])["text"] == ""
    data = json.loads(llmcli(*ask, "--min-tokens", 5)[1])
    assert (data["text"], data["finish_reason"]) == ("ZZZZZ", "stop")


def test_no_repeat_ngram(llmcli):
    ids = json.loads(
        llmcli("generate", "ab", "--greedy", "--ignore-eos", "-n", 60, "--no-repeat-ngram", 2, "--json")[1]
    )
    rows = list(zip((whole := ids["prompt_ids"] + ids["ids"]), whole[1:], strict=False))
    assert len(set(rows)) == len(rows)


def test_xtc_that_never_happens_changes_no_draw(llmcli):
    plain = llmcli("generate", *ASK, "-n", 20)
    assert llmcli("generate", *ASK, "-n", 20, "--xtc-probability", 1, "--xtc-threshold", 1) == plain
    assert llmcli("generate", *ASK, "-n", 20, "--xtc-probability", 1, "--xtc-threshold", 0.01) != plain


def test_settings_come_from_the_environment(llmcli, monkeypatch, tmp_path):
    path = tmp_path / "run.json"
    monkeypatch.setenv("LLMCLI_MIN_P", "0.25")
    monkeypatch.setenv("LLMCLI_PRESENCE_PENALTY", "-0.5")
    monkeypatch.setenv("LLMCLI_TOP_N_SIGMA", "2")
    llmcli("generate", *ASK, "-n", 1, "--top-n-sigma", 3, "--record", path)
    params = json.loads(path.read_text())["params"]
    assert [params[name] for name in ("min_p", "presence_penalty", "top_n_sigma")] == [0.25, -0.5, 3]


# --- log-probabilities, traces, events ---


def test_logprobs_are_those_of_both_distributions(llmcli, folder):
    from llmcli.pipeline import Pipeline

    ask = ["generate", *ASK, "-n", 6, "-t", 0.7, "-k", 4, "-p", 1, "--logprobs", 5, "--json", "--dtype", "float32"]
    data = json.loads(llmcli(*ask)[1])
    jsonschema.validate(data, schema("generate"))
    rows = Pipeline.load(folder).logits(data["prompt_ids"] + data["ids"]).astype(float)
    assert len(data["logprobs"]) == 6
    for index, told in enumerate(data["logprobs"]):
        row = rows[len(data["prompt_ids"]) - 1 + index].tolist()
        order = sorted(range(len(row)), key=lambda i: (-row[i], i))
        total = math.fsum(math.exp(x - max(row)) for x in row)
        left = math.fsum(math.exp((row[i] - max(row)) / 0.7) for i in order[:4])
        assert told["id"] == data["ids"][index]
        assert [each["id"] for each in told["top"]] == order[:5]
        assert [each["id"] for each in told["top_filtered"]] == order[:4]
        for each in (told, *told["top"], *told["top_filtered"]):
            logit = row[each["id"]]
            assert each["logprob"] == pytest.approx(logit - max(row) - math.log(total), abs=1e-4)
            if each["id"] in order[:4]:
                assert each["filtered_logprob"] == pytest.approx((logit - max(row)) / 0.7 - math.log(left), abs=1e-4)
            else:
                assert each["filtered_logprob"] is None
            assert each["bytes"] == [each["id"]] or each["id"] > 255


def test_no_best_ones_and_greedy(llmcli):
    data = json.loads(llmcli("generate", "ab", "--greedy", "-n", 2, "--logprobs", 0, "--json")[1])
    for told in data["logprobs"]:
        assert told["top"] == told["top_filtered"] == []
        assert told["logprob"] == told["filtered_logprob"]


def test_events_and_jsonl_are_the_same_run(llmcli):
    extra = ["-n", 6, "--logprobs", 2, "--trace"]
    code, out, err = llmcli("generate", *ASK, *extra, "--events")
    assert (code, err) == (0, "seed 5\n")
    lines = [json.loads(line) for line in out.splitlines()]
    [whole] = llmcli("generate", *ASK, *extra, "--jsonl")[1].splitlines()
    whole = json.loads(whole)
    jsonschema.validate(whole, schema("generate"))
    for each in lines:
        jsonschema.validate(each, schema("generate-events"))
    assert [each["step"] for each in lines] == list(range(6))
    for name in ("index", "sample"):
        assert {each[name] for each in lines} == {whole[name]} == {0}
    assert [each["id"] for each in lines] == whole["ids"]
    assert "".join(each["text"] for each in lines) == whole["text"]
    assert [each["logprobs"] for each in lines] == whole["logprobs"]
    assert [each["trace"] for each in lines] == whole["trace"]
    assert [each["finish_reason"] for each in lines] == [None] * 5 + ["length"]
    for each in lines:
        assert each["logprob"] == each["logprobs"]["logprob"]
        assert math.log(each["prob"]) == pytest.approx(each["logprobs"]["filtered_logprob"], abs=1e-5)
        assert each["trace"]["drawn"]["id"] == each["id"]
    assert "NaN" not in out
    assert "Infinity" not in out


def test_without_them_the_json_is_as_it_was(llmcli):
    data = json.loads(llmcli("generate", *ASK, "-n", 2, "--json")[1])
    assert not {"index", "sample", "logprobs", "trace", "score"} & set(data)


def test_events_come_as_they_are_generated(folder):
    command = [sys.executable, "-m", "llmcli", "generate", "-m", str(folder), "--threads", "1", "--events", "-n", "50"]
    with subprocess.Popen([*command, "--ignore-eos", "ab"], stdout=subprocess.PIPE, text=True) as process:
        first = json.loads(process.stdout.readline())
        assert (first["step"], first["finish_reason"]) == (0, None)
        process.stdout.read()
    assert process.returncode == 0


def test_an_interrupted_run_leaves_whole_lines(llmcli, monkeypatch, tmp_path):
    from llmcli import generation

    real, calls = generation.decode_step, []

    def step(*arguments):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*arguments)

    path = tmp_path / "run.json"
    monkeypatch.setattr(generation, "decode_step", step)
    code, out, _ = llmcli("generate", *ASK, "-n", 9, "--events", "--record", path)
    assert code == 130
    assert [json.loads(line)["step"] for line in out.splitlines()] == [0, 1, 2, 3]
    record = json.loads(path.read_text())
    assert (record["finish_reason"], len(record["ids"])) == ("interrupt", 4)
    monkeypatch.setattr(generation, "decode_step", real)
    assert llmcli("replay", path, model=None)[0] == 0


@pytest.mark.parametrize(
    "options", [["-t", 0.9, "-k", 20, "-p", 0.9], ["--greedy"], ALL], ids=["some", "greedy", "all"]
)
def test_a_trace_tells_what_the_funnel_tells(llmcli, options):
    data = json.loads(llmcli("generate", *ASK, "-n", 3, *options, "--trace", "--json", "--dtype", "float32")[1])
    options = list(options)
    if "--min-tokens" in options:
        at = options.index("--min-tokens")
        del options[at : at + 2]
    funnel = json.loads(llmcli("inspect-logits", "--funnel", "--seed", 5, "ab", *options, "--json")[1])
    trace = data["trace"][0]
    assert [each["name"] for each in trace["stages"]] == [each["name"] for each in funnel["stages"]]
    for ours, theirs in zip(trace["stages"], funnel["stages"], strict=True):
        assert ours == pytest.approx({**theirs, "name": ours["name"]}, abs=1e-5)
    assert trace["drawn"]["id"] == funnel["drawn"]["token"]["id"]
    assert trace["drawn"]["prob"] == pytest.approx(funnel["drawn"]["prob"], abs=1e-5)
    assert trace["uniform"] == funnel["uniform"]


def test_a_trace_of_text_goes_to_stderr(llmcli):
    plain = llmcli("generate", *ASK, "-n", 2, "-k", 5)
    code, out, err = llmcli("generate", *ASK, "-n", 2, "-k", 5, "--trace")
    assert (code, out) == (0, plain[1])
    lines = err.splitlines()
    assert lines[0] == "step 0"
    assert lines[1].split() == ["model", "259", "candidates,", "mass", "100.00", "%"]
    assert lines[3].split()[:4] == ["top-k", "5", "5", "candidates,"]
    assert lines[5].startswith("  drawn: ")
    assert lines[6] == "step 1"
    assert lines[-1] == "seed 5"


# --- replay ---


def test_replay_names_the_first_step_that_differs(llmcli, tmp_path):
    path = tmp_path / "run.json"
    llmcli("generate", *ASK, "-n", 8, "--record", path)
    record = json.loads(path.read_text())
    jsonschema.validate(record, schema("record"))
    right = record["ids"][3]
    record["ids"][3] = wrong = (right + 1) % 256
    path.write_text(json.dumps(record))
    code, out, err = llmcli("replay", path, model=None)
    assert (code, out) == (5, "")
    assert f"step 3 differs: id {wrong} was recorded, now it is id {right}" in err
    code, out, _ = llmcli("replay", path, "--json", model=None)
    data = json.loads(out)
    jsonschema.validate(data, schema("replay"))
    assert code == 5
    assert data["difference"] == {"step": 3, "recorded": wrong, "replayed": right}


def test_replay_says_that_the_model_changed(llmcli, folder, tmp_path):
    path = tmp_path / "run.json"
    llmcli("generate", *ASK, "-n", 8, "--record", path)
    other = write_model(tmp_path / "other", seed=3)
    code, _, err = llmcli("replay", path, model=other)
    assert code == 5
    assert err.count("the model is not the recorded one: model.safetensors changed") == 2  # a note, and the error
    copy = tmp_path / "copy"
    copy.mkdir()
    for each in folder.iterdir():
        if each.is_file():
            (copy / each.name).write_bytes(each.read_bytes())
    (copy / "notes.json").write_text("{}")
    code, out, err = llmcli("replay", path, "--json", model=copy)
    assert (code, json.loads(out)["model_changes"]) == (0, ["notes.json was added"])
    assert "notes.json was added" in err
    assert llmcli("replay", path, "--quiet", model=copy) == (0, "the same 8 ids\n", "")


def test_replay_of_no_record(llmcli, tmp_path):
    (tmp_path / "x.json").write_text("{}")
    for path in (tmp_path / "x.json", tmp_path / "none.json"):
        code, out, err = llmcli("replay", path, model=None)
        assert (code, out) == (2, "")
        assert path.name in err
        assert len(err.splitlines()) == 2


def test_a_record_goes_where_it_is_told_to(llmcli, tmp_path):
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to("target")
    assert llmcli("generate", *ASK, "-n", 1, "--record", tmp_path / "link")[0] == 0
    assert (tmp_path / "link").is_symlink()
    assert json.loads((tmp_path / "target").read_text())["finish_reason"] == "length"
    assert llmcli("generate", *ASK, "-n", 1, "--record", "/dev/null")[0] == 0
