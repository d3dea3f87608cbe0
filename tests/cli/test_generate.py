"""`llmcli generate` inside this process: options, input, and what goes where."""

import io
import json
import sys
from importlib.resources import files
from pathlib import Path

import jsonschema
import pytest
from tiny import BOS, TEMPLATE, write_model, write_tokenizer

from llmcli.__main__ import run
from llmcli.cli.sampling_options import unescape


class Stdin(io.TextIOWrapper):
    """Standard input that tells whether it was read."""

    def __init__(self, data: bytes, terminal: bool = False) -> None:
        super().__init__(io.BytesIO(data), "utf-8")
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def generate(folder, monkeypatch, capfdbinary):
    """Runs the command; returns exit code, stdout and stderr. Generates with a fixed seed unless told otherwise."""
    for name in ("TEMPERATURE", "TOP_K", "TOP_P", "SEED", "MODEL", "MAX_TOKENS", "DEVICE", "THREADS", "COLOR"):
        monkeypatch.delenv(f"LLMCLI_{name}", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder / "no-settings"))

    def command(*arguments, stdin=b"", terminal=False, seed=True, model=folder):
        monkeypatch.setattr(sys, "stdin", Stdin(stdin, terminal))
        extra = ["--seed", "5"] if seed else []
        code = run(["generate", "-m", str(model), "--threads", "1", *extra, *map(str, arguments)])
        out, err = capfdbinary.readouterr()
        return code, out, err.decode()

    return command


def test_a_pipe_gets_the_continuation_and_one_newline(generate):
    code, out, err = generate("ab", "-n", 6)
    assert code == 0
    assert out.endswith(b"\n")
    data = json.loads(generate("ab", "-n", 6, "--json")[1])
    assert out.decode() == data["text"] + "\n"
    assert err == "seed 5\n"


def test_json_is_one_object_by_its_schema(generate, folder):
    schema = json.loads(files("llmcli").joinpath("schemas/generate.json").read_text())
    for arguments in (["-n", 6], ["-n", 0], ["--greedy", "-n", 3]):
        code, out, _ = generate("ab", "--json", "--ignore-eos", *arguments)
        data = json.loads(out)
        jsonschema.validate(data, schema)
        assert code == 0
        assert out.count(b"\n") == 1
        assert data["prompt"] == "ab"
        assert data["prompt_ids"] == [BOS, 97, 98]
        assert len(data["ids"]) == arguments[-1]
        assert data["seed"] == (None if "--greedy" in arguments else 5)
        assert data["model"] == str(folder)
        assert "NaN" not in out.decode()


def test_no_stream_prints_the_same(generate):
    assert generate("ab", "-n", 9, "--no-stream") == generate("ab", "-n", 9)


def test_same_seed_same_text_and_a_new_one_otherwise(generate):
    assert generate("ab", "-n", 9) == generate("ab", "-n", 9)
    seeds = {generate("ab", "-n", 1, seed=False)[2] for _ in range(3)}
    assert len(seeds) == 3
    assert all(each.startswith("seed ") for each in seeds)


def test_the_seed_on_stderr_repeats_the_run(generate):
    _, out, err = generate("ab", "-n", 9, seed=False)
    assert generate("ab", "-n", 9, "--seed", err.split()[1], seed=False)[1] == out


@pytest.mark.parametrize("arguments", [["ab", "--quiet"], ["ab", "--greedy"]])
def test_stderr_is_empty_when_quiet_and_has_no_seed_when_greedy(generate, arguments):
    assert generate(*arguments, "-n", 3)[2] == ""


def test_statistics_only_when_asked_for(generate):
    assert "tokens/s" not in generate("ab", "-n", 5)[2]
    err = generate("ab", "-n", 5, "--stats", "--ignore-eos")[2]
    assert "3 prompt tokens, 5 new" in err
    assert "tokens/s" in err
    assert "length" in err


# --- the prompt ---


def prompt_of(result):
    code, out, err = result
    assert code == 0, err
    return json.loads(out)["prompt"]


def test_where_the_prompt_comes_from(generate, tmp_path):
    path = tmp_path / "prompt.txt"
    path.write_text("from a file\n")
    ask = ["--json", "-n", 1]
    assert prompt_of(generate(*ask, "argument\n", stdin=b"unread")) == "argument\n"
    assert not sys.stdin.closed
    assert sys.stdin.buffer.read() == b"unread"
    assert prompt_of(generate(*ask, "--file", path, stdin=b"unread")) == "from a file"
    assert sys.stdin.buffer.read() == b"unread"
    assert prompt_of(generate(*ask, stdin=b"piped\n\n")) == "piped\n"
    assert prompt_of(generate(*ask, "-", stdin=b"dash\n")) == "dash"
    assert prompt_of(generate(*ask, "--keep-newline", stdin=b"kept\n")) == "kept\n"
    assert prompt_of(generate(*ask, "--keep-newline", "--file", path)) == "from a file\n"
    assert prompt_of(generate(*ask, stdin=b"")) == ""


def test_no_prompt_on_a_terminal_shows_an_example(generate):
    code, out, err = generate(terminal=True)
    assert (code, out) == (2, b"")
    assert "no prompt given" in err
    assert 'llmcli generate "Once upon a time"' in err


def test_input_that_is_no_text(generate):
    assert generate(stdin=b"ok \xff")[0] == 2
    assert "byte 3" in generate(stdin=b"ok \xff")[2]
    assert generate("--file", "/no/such/file")[0] == 2


def test_an_empty_prompt_starts_from_the_beginning_id(generate):
    data = json.loads(generate("", "--json", "-n", 1)[1])
    assert data["prompt_ids"] == [BOS]


def test_an_empty_prompt_without_a_beginning_id(generate, folder, tmp_path):
    for name in ("model.safetensors", "config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "bos_token_id": None}))
    write_tokenizer(tmp_path, bos=False)
    code, out, err = generate("", model=tmp_path)
    assert (code, out) == (2, b"")
    assert "empty" in err


def test_echo(generate):
    plain = generate("ab", "-n", 4)[1]
    assert generate("ab", "-n", 4, "--echo")[1] == b"ab" + plain
    assert generate("ab", "-n", 4, "--no-echo")[1] == plain


def test_special_text_is_text_unless_asked(generate):
    ask = ["<|eos|>", "--json", "-n", 1]
    assert json.loads(generate(*ask)[1])["prompt_ids"] == [BOS, *b"<|eos|>"]
    assert json.loads(generate(*ask, "--parse-special")[1])["prompt_ids"] == [BOS, 257]


# --- options ---


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--greedy", "--temperature", "0.5"], ["--greedy", "--temperature"]),
        (["--temperature", "-1"], ["--temperature"]),
        (["--temperature", "nan"], ["--temperature"]),
        (["--top-p", "1.5"], ["--top-p"]),
        (["--top-k", "-2"], ["--top-k"]),
        (["-n", "-1"], ["--max-tokens"]),
        (["--stop", ""], ["--stop"]),
        (["--system", "x"], ["--system", "--chat"]),
        (["--json", "--show-tokens"], ["--json", "--show-tokens"]),
        (["--stats", "--quiet"], ["--stats", "--quiet"]),
        (["--context", "0"], ["--context"]),
        (["--chat"], ["chat template"]),
        (["--device", "tpu"], ["--device"]),
        (["--truncate", "middle"], ["--truncate"]),
        (["--seed", "99999999999999999999"], ["--seed"]),
    ],
)
def test_wrong_requests_are_exit_2_naming_the_option(generate, arguments, words):
    code, out, err = generate("ab", *arguments)
    assert (code, out) == (2, b"")
    assert all(word in err for word in words)
    assert len(err.splitlines()) == 2


def test_greedy_needs_no_temperature_of_its_own(generate, monkeypatch):
    greedy = generate("ab", "-n", 5, "--greedy")
    monkeypatch.setenv("LLMCLI_TEMPERATURE", "0.9")
    assert generate("ab", "-n", 5, "--greedy") == greedy
    assert generate("ab", "-n", 5, "--temperature", 0)[1] == greedy[1]
    assert generate("ab", "-n", 5, "--greedy", "--temperature", 0)[0] == 0


def test_flag_before_environment_before_model_before_default(generate, monkeypatch, tmp_path):
    seen = []

    def spy(model, given):
        seen.append(real(model, given))
        return seen[-1]

    from llmcli import pipeline

    real = pipeline.merged
    monkeypatch.setattr(pipeline, "merged", spy)
    model = write_model(tmp_path / "m", generation={"temperature": 0.5, "top_k": 7, "do_sample": True})

    def in_force(*arguments, **options):
        assert generate("ab", "-n", 1, *arguments, **options)[0] == 0
        return (seen[-1].temperature, seen[-1].top_k, seen[-1].top_p)

    assert in_force() == (0.8, 0, 0.95)
    assert in_force(model=model) == (0.5, 7, 0.95)
    monkeypatch.setenv("LLMCLI_TEMPERATURE", "0.6")
    monkeypatch.setenv("LLMCLI_TOP_P", "0.7")
    assert in_force(model=model) == (0.6, 7, 0.7)
    assert in_force("-t", 0.9, "-k", 3, "-p", 1, model=model) == (0.9, 3, 1.0)
    settings = tmp_path / "llmcli" / "config.toml"
    settings.parent.mkdir()
    settings.write_text("top_k = 2\ntemperature = 0.1\n")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert in_force(model=model) == (0.6, 2, 0.7)


def test_help_tells_the_order(generate):
    out = " ".join(generate("--help")[1].decode().split())
    assert "from the flag, else from the environment" in out
    assert "generation_config.json, else temperature 0.8 and top-p 0.95" in out


def test_256_tokens_unless_told(generate, tmp_path):
    model = write_model(tmp_path / "m", max_position_embeddings=512)
    data = json.loads(generate("ab", "--json", "--ignore-eos", model=model)[1])
    assert len(data["ids"]) == 256


@pytest.mark.parametrize(
    ("written", "meant"), [(r"\n", "\n"), (r"\t", "\t"), (r"\\n", r"\n"), (r"\\", "\\"), (r"\x\n", "\\x\n"), ("a", "a")]
)
def test_escapes_of_stop(written, meant):
    assert unescape(written) == meant


def test_stop_is_not_shown(generate, shared):
    model = shared / "models" / "stories260K"
    out = generate("Once", "--greedy", "--stop", ".", "--stop", "named", model=model)[1]
    assert out == b" upon a time, there was a little girl \n"
    data = json.loads(generate("Once", "--greedy", "--stop", "named", "--json", model=model)[1])
    assert data["finish_reason"] == "stop"
    assert data["text"] == " upon a time, there was a little girl "
    out = generate("", "--greedy", "-n", 200, "--stop", r"\n", model=model)[1]
    assert out.count(b"\n") == 1
    assert out.endswith(b"it was too high.\n")


def test_context_and_truncation(generate):
    code, out, err = generate("x" * 100)
    assert (code, out) == (4, b"")
    assert "101 tokens" in err
    assert "64" in err
    code, _, err = generate("x" * 100, "--truncate", "left", "-n", 10)
    assert code == 0
    assert "had 101 tokens; 47 went on the left, 54 are left" in err
    assert generate("x" * 100, "--truncate", "left", "-n", 10, "--quiet")[2] == ""
    code, out, err = generate("x" * 100, "--context", 120, "--json", "--ignore-eos")
    assert code == 0
    assert "64 tokens that the model declares" in err
    assert json.loads(out)["finish_reason"] == "context"
    assert "fills the context" in generate("x" * 63)[2]
    shown = generate("y" + "x" * 100, "--truncate", "right", "-n", 10, "--echo")[1]
    assert shown.startswith(b"y" + b"x" * 52)
    assert b"x" * 54 not in shown


def test_a_learned_table_refuses_more(generate, shared, tmp_path):
    source = shared / "models" / "tiny-random-gpt2"
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((source / name).read_bytes())
    write_tokenizer(tmp_path)
    code, _, err = generate("ab", "--context", 600, model=tmp_path)
    assert code == 2
    assert "512" in err


def test_chat(generate, tmp_path, folder):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    write_tokenizer(tmp_path, template=TEMPLATE)
    code, out, _ = generate("hi", "--chat", "--system", "be kind", "--json", "-n", 1, model=tmp_path)
    assert code == 0
    assert json.loads(out)["prompt_ids"] == [BOS, 258, *b"system:be kind", 258, *b"user:hi", 257]
    assert generate("hi", "--chat", "-n", 2, "--echo", model=tmp_path)[1].startswith(b"hi\n")
    assert "hint" not in generate("hi", "-n", 1, model=tmp_path)[2]  # stderr is no terminal


def test_what_of_the_models_file_is_not_applied_is_said(generate, tmp_path):
    model = write_model(tmp_path / "m", generation={"no_repeat_ngram_size": 3})
    assert "no_repeat_ngram_size" in generate("ab", "-n", 1, model=model)[2]


# --- tokens ---


def test_show_tokens_reads_without_colour(generate, shared):
    model = shared / "models" / "stories260K"
    code, out, _ = generate("Once", "--greedy", "-n", 4, "--show-tokens", model=model)
    lines = out.decode().splitlines()
    assert code == 0
    assert lines[0].replace("▇", "").replace("▅", "").replace("▃", "") == " upon a time,"
    assert len(lines[0]) == len(" upon a time,") + 4
    assert lines[1].startswith("probability: ▁ under 5%")
    assert "\x1b" not in out.decode()


def test_show_tokens_in_colour(generate, shared):
    model = shared / "models" / "stories260K"
    out = generate("Once", "--greedy", "-n", 4, "--show-tokens", "--color", "always", model=model)[1].decode()
    assert out.count("\x1b[0m") == 4 + 5
    assert "▇" not in out


def test_show_tokens_hides_the_stop(generate, shared):
    model = shared / "models" / "stories260K"
    out = generate("Once", "--greedy", "--show-tokens", "--stop", "me, there", model=model)[1].decode()
    assert out.splitlines()[0].translate({ord(bar): None for bar in "▁▂▃▅▇"}) == " upon a ti"


def test_show_tokens_shows_bytes_and_controls(generate):
    out = generate("ab", "-n", 40, "-t", 2, "--show-tokens", "--ignore-eos")[1].decode()
    assert "⟨" in out
    assert all(char.isprintable() or char == "\n" for char in out)


# --- interrupts ---


def test_an_interrupt_keeps_what_there_is(generate, monkeypatch):
    from llmcli import generation

    real, calls = generation.decode_step, []

    def step(*arguments):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*arguments)

    whole = json.loads(generate("ab", "-n", 9, "--json", "--ignore-eos")[1])
    monkeypatch.setattr(generation, "decode_step", step)
    code, out, err = generate("ab", "-n", 9, "--json", "--ignore-eos")
    data = json.loads(out)
    assert code == 130
    assert data["finish_reason"] == "interrupt"
    assert data["ids"] == whole["ids"][:4]
    assert err == "seed 5\n"
    for extra in ([], ["--no-stream"], ["--show-tokens"]):
        calls.clear()
        code, out, _ = generate("ab", "-n", 9, "--ignore-eos", *extra)
        assert code == 130
        assert out.endswith(b"\n")
        if "--show-tokens" not in extra:
            assert out.decode() == data["text"] + "\n"


def test_torch_comes_only_after_options_and_input_are_right(folder):
    import subprocess

    code = (
        "import sys\nfrom llmcli.__main__ import run\n"
        f"rc = run(['generate', '-m', {str(folder)!r}, *sys.argv[1:]])\nprint(rc, 'torch' in sys.modules)"
    )
    for arguments in (["--top-p", "2", "x"], ["--file", "/no/such/file"], ["--help"]):
        result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
        assert result.stdout.splitlines()[-1].endswith("False")


def test_the_schema_is_in_the_package():
    assert Path(str(files("llmcli").joinpath("schemas/generate.json"))).is_file()
