"""`llmcli generate` for several texts: samples, files of prompts and beams, in every form of output."""

import io
import json
import sys
from importlib.resources import files

import jsonschema
import pytest
from tiny import BOS, write_model

from llmcli.__main__ import run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def generate(folder, monkeypatch, capfdbinary):
    """Runs the command in float32; returns exit code, stdout and stderr."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder / "no-settings"))
    for name in ("TEMPERATURE", "SEED", "MODEL", "MAX_TOKENS"):
        monkeypatch.delenv(f"LLMCLI_{name}", raising=False)

    def command(*arguments, stdin=None):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin or b"unread"), "utf-8"))
        code = run(["generate", "-m", str(folder), "--threads", "1", "--dtype", "float32", *map(str, arguments)])
        out, err = capfdbinary.readouterr()
        return code, out.decode(), err.decode()

    return command


@pytest.fixture
def single(generate):
    """One text as `--json` of a run of its own, without what differs from run to run."""

    def ask(prompt, *arguments):
        return comparable(json.loads(generate(prompt, *arguments, "--json")[1]))

    return ask


def comparable(told):
    return {name: told[name] for name in ("prompt", "prompt_ids", "text", "ids", "finish_reason", "seed")}


def schema(name):
    return json.loads(files("llmcli").joinpath(f"schemas/{name}.json").read_text())


ASK = ("-n", 6, "--ignore-eos", "-t", 1.2)


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("ab\n\ncd ef\n")
    return path


def test_samples_are_runs_with_the_next_seeds(generate, single):
    code, out, err = generate("ab", *ASK, "--seed", 5, "--num-samples", 3, "--jsonl")
    lines = [json.loads(line) for line in out.splitlines()]
    assert (code, err) == (0, "seed 5\n")
    assert [(each["index"], each["sample"]) for each in lines] == [(0, 0), (0, 1), (0, 2)]
    for i, each in enumerate(lines):
        jsonschema.validate(each, schema("generate"))
        assert comparable(each) == single("ab", *ASK, "--seed", 5 + i)


def test_each_prompt_of_a_batch_starts_from_the_seed(generate, single, prompts):
    code, out, _ = generate(*ASK, "--seed", 5, "--num-samples", 2, "--batch", prompts, "--json")
    data = json.loads(out)
    jsonschema.validate(data, schema("generate-batch"))
    assert (code, out.count("\n")) == (0, 1)
    places = [(each["index"], each["sample"]) for each in data["generations"]]
    assert places == [(i, k) for i in range(3) for k in range(2)]
    for each, prompt in zip(data["generations"], ["ab", "ab", "", "", "cd ef", "cd ef"], strict=True):
        assert comparable(each) == single(prompt, *ASK, "--seed", 5 + each["sample"])


def test_texts_are_parted_by_an_empty_line_or_ended_by_a_nul(generate, single, prompts):
    texts = [single(prompt, *ASK, "--seed", 5)["text"] for prompt in ("ab", "", "cd ef")]
    ask = [*ASK, "--seed", 5, "--batch", prompts]
    assert generate(*ask)[1] == "\n\n".join(texts) + "\n"
    assert generate(*ask, "--no-stream")[1] == "\n\n".join(texts) + "\n"
    assert generate(*ask, "-0")[1] == "".join(text + "\0" for text in texts)
    assert generate(*ask, "-0", "--echo")[1] == "".join(
        prompt + text + "\0" for prompt, text in zip(("ab", "", "cd ef"), texts, strict=True)
    )
    assert generate("ab", *ASK, "--seed", 5, "-0")[1] == texts[0] + "\0"


def test_events_tell_whose_token_it_is(generate, prompts):
    ask = [*ASK, "--seed", 5, "--num-samples", 2, "--batch", prompts, "--logprobs", 1, "--trace"]
    lines = [json.loads(line) for line in generate(*ask, "--events")[1].splitlines()]
    whole = [json.loads(line) for line in generate(*ask, "--jsonl")[1].splitlines()]
    for each in lines:
        jsonschema.validate(each, schema("generate-events"))
    for text in whole:
        own = [each for each in lines if (each["index"], each["sample"]) == (text["index"], text["sample"])]
        assert [each["step"] for each in own] == list(range(6))
        assert [each["id"] for each in own] == text["ids"]
        assert "".join(each["text"] for each in own) == text["text"]
        assert [each["logprobs"] for each in own] == text["logprobs"]
        assert [each["trace"] for each in own] == text["trace"]
    assert [each["step"] for each in lines[:6]] == [0] * 6  # they take turns


def test_unordered_gives_what_ends_first(generate, tmp_path):
    path = tmp_path / "prompts"
    path.write_text("ab\n" + "x" * 62 + "\n")
    ask = [*ASK, "--seed", 5, "--batch", path, "--jsonl"]
    assert [json.loads(line)["index"] for line in generate(*ask)[1].splitlines()] == [0, 1]
    assert [json.loads(line)["index"] for line in generate(*ask, "--unordered")[1].splitlines()] == [1, 0]


def test_a_batch_may_be_json_lines_and_come_on_stdin(generate):
    lines = b'{"prompt": "a\\nb", "id": 7}\r\n{"prompt": ""}\n'
    code, out, _ = generate("--greedy", "-n", 2, "--batch", "-", "--jsonl", stdin=lines)
    assert code == 0
    assert [json.loads(line)["prompt"] for line in out.splitlines()] == ["a\nb", ""]
    assert json.loads(out.splitlines()[1])["prompt_ids"] == [BOS]


def test_lines_end_with_lf_or_crlf_and_nothing_else(generate):
    _, out, _ = generate("--greedy", "-n", 1, "--batch", "-", "--jsonl", stdin="a\u2028b\r\n \x0c\n\nz".encode())
    lines = out.removesuffix("\n").split("\n")
    assert [json.loads(line)["prompt"] for line in lines] == ["a\u2028b", " \x0c", "", "z"]


def test_an_empty_file_gives_nothing(generate, tmp_path):
    path = tmp_path / "none"
    path.write_text("")
    assert generate("--batch", path, "--greedy") == (0, "", "")
    assert json.loads(generate("--batch", path, "--greedy", "--json")[1])["generations"] == []


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        (b'{"prompt": "a"}\n{"prompt": 3}\n', 2, ["line 2", "prompt"]),
        (b'{"prompt": "a"}\n\n', 2, ["line 2"]),
        (b'{"prompt": "a"\n', 2, ["line 1"]),
        (b'{"text": "a"}\n', 2, ["line 1", "prompt"]),
        (b'{"prompt": "a"}\n{"prompt": "b", "seed": 3}\n', 2, ["line 2", "seed", "--seed"]),
        (b'{"prompt": "\\ud800"}\n', 2, ["line 1", "surrogate"]),
        (b"a\n" + b"x" * 100 + b"\n", 4, ["line 2", "101 tokens"]),
        (b"a\n\xff\n", 2, ["byte 2"]),
        (b"a\n\0\n", 2, ["NUL"]),
    ],
)
def test_bad_lines_are_named_before_anything_is_generated(generate, tmp_path, content, code, words):
    path = tmp_path / "prompts"
    path.write_bytes(content)
    found, out, err = generate("--batch", path, "--jsonl")
    assert (found, out) == (code, "")
    assert len(err.splitlines()) == 2
    assert all(word in err for word in (*words, str(path)))


def test_a_prompt_that_is_too_long_may_be_cut(generate, tmp_path):
    path = tmp_path / "prompts"
    path.write_text("a\n" + "x" * 100 + "\n")
    code, out, err = generate("--batch", path, "--truncate", "left", "-n", 10, "--greedy", "--jsonl")
    assert code == 0
    assert f"prompts cut on the left: 1, the first is {path}, line 2" in err
    assert len(json.loads(out.splitlines()[1])["prompt_ids"]) == 54
    echoed = generate("--batch", path, "--truncate", "left", "-n", 10, "--greedy", "--echo", "-0")[1].split("\0")[1]
    assert echoed.startswith("x" * 53)
    assert not echoed.startswith("x" * 54)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ab", "--num-samples", "0"], ["--num-samples"]),
        (["ab", "--batch-size", "2"], ["--batch-size", "--batch"]),
        (["ab", "--unordered"], ["--unordered", "--num-samples"]),
        (["ab", "--batch", "prompts.txt"], ["--batch", "a prompt"]),
        (["--file", "x", "--batch", "prompts.txt"], ["--batch", "--file"]),
        (["--batch", "/no/such/file"], ["/no/such/file"]),
        (["ab", "-0", "--json"], ["-0", "--json"]),
        (["ab", "--num-samples", "2", "--record", "run.json"], ["--record", "--num-samples"]),
        (["ab", "--num-samples", "2", "--show-tokens"], ["--show-tokens"]),
        (["ab", "--num-samples", "2", "--trace"], ["--trace"]),
        (["ab", "--num-samples", "2", "--draft", "lookup"], ["--draft"]),
        (["ab", "--num-samples", "2", "--prompt-cache", "x"], ["--prompt-cache"]),
        (["ab", "--num-samples", "2", "--seed", str(2**63 - 1)], ["--seed", "2 samples"]),
        (["ab", "--beams", "0"], ["--beams"]),
        (["ab", "--length-penalty", "1"], ["--length-penalty", "--beams"]),
        (["ab", "--beams", "2", "--num-samples", "3"], ["--num-samples", "--beams"]),
        (["ab", "--beams", "2", "--length-penalty", "nan"], ["--length-penalty"]),
        (["ab", "--beams", "2", "--temperature", "1"], ["--temperature", "--beams"]),
        (["ab", "--beams", "2", "--top-k", "3"], ["--top-k", "--beams"]),
        (["ab", "--beams", "2", "--seed", "3"], ["--seed", "--beams"]),
        (["ab", "--beams", "2", "--greedy"], ["--greedy", "--beams"]),
        (["ab", "--beams", "2", "--logprobs", "3", "--json"], ["--logprobs", "--beams"]),
        (["--batch", "-", "--beams", "2", "--unordered"], ["--unordered", "--beams"]),
    ],
)
def test_wrong_requests_are_exit_2_naming_the_option(generate, arguments, words):
    code, out, err = generate(*arguments)
    assert (code, out) == (2, "")
    assert all(word in err for word in words)
    assert len(err.splitlines()) == 2


def test_statistics(generate):
    err = generate("ab", *ASK, "--num-samples", 3, "--stats", "--seed", 5)[2]
    assert "3 texts, 18 new tokens" in err
    assert generate("ab", *ASK, "--num-samples", 3, "--quiet")[2] == ""


def test_a_constraint_holds_for_every_text(generate):
    pytest.importorskip("llguidance")
    ask = ["--choice", "yes", "--choice", "no", "--num-samples", 4, "--seed", 1]
    code, out, _ = generate("ab", *ask)
    assert code == 0
    assert set(out.split("\n\n")) <= {"yes", "no", "yes\n", "no\n"}
    assert generate("ab", "--choice", "a long text", "--num-samples", 2, "-n", 3)[0] == 1


# --- beams ---


def test_beams_are_told_best_first_in_every_form(generate):
    ask = ["ab", "--beams", 4, "--num-samples", 3, "-n", 8, "--ignore-eos"]
    lines = [json.loads(line) for line in generate(*ask, "--jsonl")[1].splitlines()]
    for each in lines:
        jsonschema.validate(each, schema("generate"))
    assert [each["sample"] for each in lines] == [0, 1, 2]
    scores = [each["score"] for each in lines]
    assert scores == sorted(scores, reverse=True)
    data = json.loads(generate(*ask, "--json")[1])
    jsonschema.validate(data, schema("generate-batch"))
    assert [each["ids"] for each in data["generations"]] == [each["ids"] for each in lines]
    assert generate(*ask) == (0, "\n\n".join(each["text"] for each in lines) + "\n", "")
    events = [json.loads(line) for line in generate(*ask, "--events")[1].splitlines()]
    for each in events:
        jsonschema.validate(each, schema("generate-events"))
    assert [each["id"] for each in events if each["sample"] == 1] == lines[1]["ids"]
    assert sum(each["logprob"] for each in events[:8]) / 8 == pytest.approx(scores[0], rel=1e-4)


def test_settings_about_drawing_give_way_to_beams(generate, monkeypatch):
    plain = generate("ab", "--beams", 2, "-n", 8)
    for name, value in (("TEMPERATURE", "0.3"), ("SEED", "4"), ("TOP_K", "2")):
        monkeypatch.setenv(f"LLMCLI_{name}", value)
    assert generate("ab", "--beams", 2, "-n", 8) == plain
    assert plain[0] == 0


# --- interrupts ---


@pytest.mark.parametrize("form", ["--jsonl", "--json", "--events", "-0"])
def test_an_interrupt_keeps_what_was_finished(generate, monkeypatch, tmp_path, form):
    from llmcli import batch

    real, calls = batch.decode_rows, []

    def step(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(batch, "decode_rows", step)
    path = tmp_path / "prompts"
    path.write_text("ab\n" + "x" * 62 + "\ncd\n")  # the second one ends first
    code, out, err = generate("--batch", path, "-n", 9, "--ignore-eos", "--seed", 5, form)
    assert code == 130
    assert err == "seed 5\nnote: 1 of 3 texts were finished\n"
    if form == "-0":
        assert out.count("\0") == 1
    elif form == "--json":
        assert [each["index"] for each in json.loads(out)["generations"]] == [1]
    else:
        lines = [json.loads(line) for line in out.splitlines()]
        assert [each["index"] for each in lines if each["finish_reason"]] == [1]
        assert len(lines) == (1 if form == "--jsonl" else 7)


@pytest.mark.parametrize(
    ("arguments", "texts", "drafts"),
    [
        (("ab",), 1, False),
        (("ab", "--draft", "lookup"), 1, False),
        (("ab", "--draft-model", "FOLDER"), 1, True),
        (("ab", "--num-samples", 9), 9, False),
        (("ab", "--num-samples", 9, "--batch-size", 4), 4, False),
        (("ab", "--num-samples", 100), 32, False),
        (("ab", "--beams", 5), 5, False),
        (("ab", "--beams", 5, "--num-samples", 2), 5, False),
        (("--batch", "-"), 2, False),
        (("--batch", "-", "--num-samples", 3), 6, False),
    ],
)
def test_the_model_is_held_for_the_texts_that_are_decoded_together(
    arguments, texts, drafts, generate, folder, monkeypatch
):
    from llmcli.pipeline import Pipeline

    asked, plain = [], Pipeline.load
    monkeypatch.setattr(Pipeline, "load", lambda *given, **how: asked.append(how) or plain(*given, **how))
    given = [folder if each == "FOLDER" else each for each in arguments]
    assert generate(*given, "-n", 1, stdin=b"ab\ncd\n")[0] == 0
    assert (asked[0]["texts"], asked[0]["drafts"]) == (texts, drafts)
