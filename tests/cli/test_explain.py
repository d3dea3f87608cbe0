"""`llmcli explain`: options, forms, pauses on a terminal, and the token that `generate` draws."""

import csv
import io
import json
import os
import re
import sys
from importlib.resources import files

import jsonschema
import numpy as np
import pexpect
import pytest
from tiny import write_model

from llmcli.__main__ import run


class Stdin(io.TextIOWrapper):
    """Standard input that is, or is not, a terminal."""

    def __init__(self, data: bytes, terminal: bool) -> None:
        super().__init__(io.BytesIO(data), "utf-8")
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def llmcli(folder, monkeypatch, capfdbinary):
    """Runs a command on the tiny model; returns exit code, stdout and stderr."""
    for name in [each for each in os.environ if each.startswith("LLMCLI_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder / "no-settings"))

    def command(name, *arguments, stdin=b"", terminal=False):
        monkeypatch.setattr(sys, "stdin", Stdin(stdin, terminal))
        code = run([name, "-m", str(folder), "--threads", "1", *map(str, arguments)])
        out, err = capfdbinary.readouterr()
        return code, out.decode(), err.decode()

    return command


def test_the_walk_in_a_pipe_is_plain_and_whole(llmcli):
    code, out, err = llmcli("explain", "ab", "--seed", 5)
    assert code == 0
    assert "\x1b" not in out
    numbers = [int(n) for n in re.findall(r"^(\d+)/14  ", out, flags=re.MULTILINE)]
    assert numbers == list(range(1, 15))
    assert err == "seed 5\n"
    assert max(map(len, out.splitlines())) <= 80


def test_json_is_by_its_schema_and_says_what_is_drawn(llmcli):
    schema = json.loads(files("llmcli").joinpath("schemas/explain.json").read_text())
    code, out, _ = llmcli("explain", "ab", "--seed", 5, "--json")
    assert code == 0
    data = json.loads(out)
    jsonschema.Draft202012Validator(schema).validate(data)
    assert data["dtype"] == "float32"
    assert [token["id"] for token in data["tokens"]] == [256, 97, 98]


@pytest.mark.parametrize("options", [(), ("-t", "1.5"), ("-k", "9", "-p", "0.7"), ("--min-p", "0.2"), ("--greedy",)])
@pytest.mark.parametrize("seed", [1, 2])
def test_the_token_drawn_is_what_generate_draws(llmcli, options, seed):
    generated = json.loads(llmcli("generate", "ab", "-n", 1, "--seed", seed, "--json", *options)[1])
    data = json.loads(llmcli("explain", "ab", "--seed", seed, "--json", *options)[1])
    sampling, decoding = data["stages"][-2:]
    assert [sampling["drawn"]["token"]["id"]] == generated["ids"]
    if not decoding["ends"]:
        assert decoding["text"] == generated["text"] or decoding["text"] == ""


@pytest.mark.parametrize(
    "options",
    [
        ("--frequency-penalty", "0.5", "--presence-penalty", "0.25", "--penalty-window", "2"),
        ("--dry-multiplier", "0.8", "--dry-allowed-length", "1", "--dry-sequence-breaker", "none"),
        ("--no-repeat-ngram", "1", "--ban", "c", "--logit-bias", "97=-3", "--logit-bias", "d=2"),
        ("--top-n-sigma", "1", "--typical-p", "0.9", "--xtc-probability", "1", "--xtc-threshold", "0.001"),
        ("--mirostat", "2", "--mirostat-tau", "3"),
        ("--samplers", "top-k,temperature", "--top-k", "7", "--temperature", "0.5"),
        ("--greedy", "--repetition-penalty", "1.3"),
    ],
    ids=lambda options: options[0],
)
def test_the_filters_are_those_of_the_funnel_and_of_generate(llmcli, options):
    code, out, err = llmcli("explain", "abab", "--seed", 3, "--only", "sampling", "--json", "--limit", 9, *options)
    assert (code, err.count("\n")) == (0, 0 if "--greedy" in options else 1)
    sampling = json.loads(out)["stages"][0]
    funnel = json.loads(llmcli("inspect-logits", "abab", "--funnel", "--seed", 3, "--json", "--limit", 9, *options)[1])
    assert sampling["filters"] == funnel["stages"]
    assert [sampling[each] for each in ("candidates", "drawn", "seed", "uniform")] == [
        funnel[each] for each in ("candidates", "drawn", "seed", "uniform")
    ]
    exact = ("--dtype", "float32")  # as views are; rounded, another candidate may lie at a filter's edge
    generated = json.loads(llmcli("generate", "abab", "-n", 1, "--seed", 3, "--json", *exact, *options)[1])
    assert [sampling["drawn"]["token"]["id"]] == generated["ids"]


def test_one_stage(llmcli):
    out = llmcli("explain", "ab", "--only", "attention", "--layer", -1)[1]
    assert "Self-attention, block 1" in out
    assert "Encoding" not in out
    code, out, err = llmcli("explain", "ab", "--only", "embedding", "--json")
    assert [stage["kind"] for stage in json.loads(out)["stages"]] == ["embedding"]
    assert (code, err) == (0, "")  # nothing is drawn: no seed to tell
    headings = re.findall(r"^\d+/14  (\w+)", llmcli("explain", "ab", "--only", "block")[1], flags=re.MULTILINE)
    assert headings == ["RMSNorm", "Self", "Residual", "RMSNorm", "Feed", "Residual"]


def test_every_form(llmcli, tmp_path):
    pictures = ("--png", tmp_path / "w.png", "--svg", tmp_path / "w.svg")
    code, out, _ = llmcli(
        "explain", "ab", "--csv", "--npz", tmp_path / "w.npz", "--html", tmp_path / "w.html", *pictures
    )
    assert llmcli("explain", "ab", "--hidden", tmp_path / "h.npz")[:2] == (0, "")
    with np.load(tmp_path / "h.npz", allow_pickle=False) as arrays:
        assert arrays["hidden_states"].shape[1] == 3
    assert code == 0
    assert (tmp_path / "w.png").read_bytes().startswith(b"\x89PNG")
    svg = (tmp_path / "w.svg").read_text("utf-8")
    assert all(f"{i}/14 " in svg for i in (4, 9, 12, 13))
    rows = list(csv.DictReader(io.StringIO(out)))
    assert {row["kind"] for row in rows} >= {"encoding", "norm", "attention", "ffn", "decoding"}
    arrays = np.load(tmp_path / "w.npz", allow_pickle=False)
    assert arrays["stages.3.weights"].shape == (3, 3)
    assert "Feed-forward network" in (tmp_path / "w.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only", "encoding", "--png", "x.png"], "explain has no --png"),
        (["--layer", "2"], "there is no layer 2"),
        (["--layer", "0-1"], "more than one"),
        (["--only", "mlp"], "only"),
        (["--only", "attention", "--top-k", "5"], "--top-k changes nothing in --only attention"),
        (["--only", "ffn", "--dry-sequence-breaker", "x"], "--dry-sequence-breaker changes nothing in --only ffn"),
        (["--only", "softmax", "--layer", "1"], "--layer opens a block, which --only softmax does not show"),
        (["--rows", "7"], "there is no token 7"),
        (["--temperature", "-1"], "--temperature"),
        (["--greedy", "--temperature", "1"], "--greedy"),
        (["--step"], "must be a terminal"),
        (["--step", "--json"], "--step draws on the terminal"),
        (["--step", "--hidden", "h.npz"], "--step draws on the terminal"),
    ],
    ids=" ".join,
)
def test_what_is_refused(llmcli, arguments, said):
    code, out, err = llmcli("explain", "ab", *arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert len([line for line in err.splitlines() if not line.startswith("seed")]) == 2


def test_text_too_long_is_exit_4(llmcli):
    assert llmcli("explain", "a" * 80)[0] == 4


def test_text_from_stdin_and_hostile_text(llmcli):
    hostile = "\x1b]0;t\x07[red]\u202e"
    code, out, _ = llmcli("explain", stdin=f"{hostile}\n".encode())
    assert code == 0
    assert not {c for c in out if not c.isprintable()} - {"\n"}
    assert "␛]0;t␇[red]⟨U+202E⟩" in out
    assert json.loads(llmcli("explain", "--json", stdin=f"{hostile}\n".encode())[1])["stages"][0]["text"] == hostile


def spawn(folder, *arguments, columns=80, rows=24):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LLMCLI_")}
    environment |= {"OMP_NUM_THREADS": "1", "TERM": "xterm-256color", "XDG_CONFIG_HOME": str(folder)}
    command = ["-m", "llmcli", "explain", "-m", str(folder), "--threads", "1", *arguments]
    return pexpect.spawn(sys.executable, command, env=environment, dimensions=(rows, columns), timeout=60)


def test_steps_wait_for_a_key_and_end_where_asked(folder):
    child = spawn(folder, "ab", "--step", "--color", "never")
    child.expect(re.escape("[Enter: next stage, q: end] "))
    assert b"Encoding" in child.before
    assert b"Embedding lookup" not in child.before
    child.sendline("")
    child.expect(re.escape("[Enter: next stage, q: end] "))
    assert b"Embedding lookup" in child.before
    child.sendline("q")
    rest = child.read()
    child.close()
    assert child.exitstatus == 0
    assert b"RMSNorm" not in rest


def test_steps_to_the_end_by_eof_and_by_interrupt(folder):
    child = spawn(folder, "ab", "--step", "--only", "residual")
    child.expect("Enter: next stage")
    child.sendline("")
    child.expect(pexpect.EOF)
    assert b"ffn" in child.before
    child.close()
    assert child.exitstatus == 0
    for end, code in ((lambda child: child.sendeof(), 0), (lambda child: child.sendintr(), 130)):
        child = spawn(folder, "ab", "--step")
        child.expect("q: end] ")
        end(child)
        rest = child.read()
        child.close()
        assert child.exitstatus == code
        assert b"Traceback" not in rest
