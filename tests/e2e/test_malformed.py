"""Whatever is malformed, a model's folder or the text: `llmcli generate` says so in two lines, with the right code.

Ten kinds, each in many seeded variants, every one of which must be refused. `tests/model/test_mutations.py` damages
folders at random, where some damage does no harm.
"""

import io
import json
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path

import pytest
from tiny import write_model, write_tokenizer

from llmcli.__main__ import run

EACH = 100
WEIGHTS = "model.safetensors"
TEXT = "The old house – naïve, 你好 😀 – stood there.\n"


@dataclass
class Case:
    """A folder and a text, one of which a kind of malformation spoils; what the command should say."""

    folder: Path
    random: random.Random
    stdin: bytes = TEXT.encode()
    code: int = 3
    said: str = ""


def header_of(path: Path) -> tuple[dict, bytes]:
    blob = path.read_bytes()
    end = 8 + int.from_bytes(blob[:8], "little")
    return json.loads(blob[8:end]), blob[end:]


def write(path: Path, header: dict, data: bytes) -> None:
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def tensors_of(header: dict) -> list[str]:
    return sorted(name for name in header if name != "__metadata__")


def truncated_safetensors(case: Case) -> None:
    blob = (case.folder / WEIGHTS).read_bytes()
    near_header = int.from_bytes(blob[:8], "little") + 100
    (case.folder / WEIGHTS).write_bytes(blob[: case.random.randrange(case.random.choice([9, near_header, len(blob)]))])
    case.said = WEIGHTS


def header_that_lies_about_sizes(case: Case) -> None:
    path, draw = case.folder / WEIGHTS, case.random
    header, data = header_of(path)
    name = draw.choice(tensors_of(header))
    if draw.random() < 0.3:  # the header's own length
        length = draw.choice([0, 1, draw.randrange(2, 200), 2**63, 2**64 - 1, draw.randrange(10**6, 10**12)])
        path.write_bytes(length.to_bytes(8, "little") + path.read_bytes()[8:])
        return
    entry = header[name]
    entry["data_offsets"][1] += draw.choice([-1, 1, 4, -4, 2**31, 2**62, 10**30, draw.randrange(1, 10**6)])
    if draw.random() < 0.5:
        entry["shape"] = [entry["data_offsets"][1] - entry["data_offsets"][0], *draw.choice([[], [2**40]])]
    write(path, header, data)


def offsets_that_overlap(case: Case) -> None:
    path = case.folder / WEIGHTS
    header, data = header_of(path)
    names = [name for name in tensors_of(header) if header[name]["data_offsets"][0] > 0]
    entry = header[case.random.choice(names)]
    begin, end = entry["data_offsets"]
    shift = case.random.randrange(1, begin + 1)
    entry["data_offsets"] = [begin - shift, end - shift]
    write(path, header, data)
    case.said = WEIGHTS


def wrong_shapes(case: Case) -> None:
    path = case.folder / WEIGHTS
    header, data = header_of(path)
    entry = header[case.random.choice(tensors_of(header))]
    right, count = entry["shape"], prod(entry["shape"])
    choices = [[count], [count, 1], [1, count], [1, *right], [*right, 1], right[::-1]]
    entry["shape"] = case.random.choice([each for each in choices if each != right])
    write(path, header, data)
    case.said = "misshapen"


def config_with_absurd_values(case: Case) -> None:
    path, draw = case.folder / "config.json", case.random
    keys = json.loads(path.read_text())
    sizes = ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size"]
    name = draw.choice([*sizes, "num_key_value_heads", "rms_norm_eps", "hidden_act", "model_type", "rope_parameters"])
    absurd = [-1, -(2**70), "many", [1], {"a": 1}, float("nan"), float("inf"), True]
    if name in sizes:
        absurd += [0, 2**31, 10**40, 1.5, 10**9]
    keys[name] = draw.choice(absurd)
    path.write_text(json.dumps(keys))
    case.said = "config.json"


def tokenizer_that_is_not_json(case: Case) -> None:
    path, draw = case.folder / "tokenizer.json", case.random
    text = path.read_bytes()
    at = draw.randrange(len(text) - 1)
    path.write_bytes(
        draw.choice([b"", b"[", b"\xff\xfe{", text[:at], text[:at] + b"\0" + text[at:], draw.randbytes(99)])
    )
    case.said = "tokenizer.json"


def index_that_leaves_the_folder(case: Case) -> None:
    draw = case.random
    header, _ = header_of(case.folder / WEIGHTS)
    outside = case.folder.parent / "outside.safetensors"
    (case.folder / WEIGHTS).rename(outside)
    targets = ["../outside.safetensors", str(outside), "./../outside.safetensors", "/dev/zero", "/etc/passwd", ".."]
    targets += ["a/../../outside.safetensors", "", "\0", "x" * 300 + ".safetensors", "../" * draw.randrange(2, 30)]
    names = tensors_of(header)
    weight_map = dict.fromkeys(names, draw.choice(targets))
    (case.folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    case.said = f"{WEIGHTS}.index.json"


def empty_prompt_without_a_start(case: Case) -> None:
    write_tokenizer(case.folder, bos=False)
    keys = json.loads((case.folder / "config.json").read_text())
    (case.folder / "config.json").write_text(json.dumps({k: v for k, v in keys.items() if k != "bos_token_id"}))
    case.stdin, case.code, case.said = case.random.choice([b"", b"\n"]), 2, "prompt is empty"


def stdin_that_is_not_utf8(case: Case) -> None:
    whole = (TEXT * case.random.randrange(1, 30)).encode()
    at = case.random.choice([i for i in range(len(whole)) if whole[i] & 0xC0 != 0x80])  # between two characters
    bad = case.random.choice([0x80, 0xBF, 0xC0, 0xC1, 0xF5, 0xFE, 0xFF])
    case.stdin = whole[:at] + bytes([bad]) + whole[at:]
    case.code, case.said = 2, f"stdin is not UTF-8: byte {at} is 0x{bad:02x}"


def stdin_that_is_binary(case: Case) -> None:
    data = bytes(byte or 1 for byte in case.random.randbytes(case.random.randrange(0, 4000)))
    case.stdin = data + b"\0" + case.random.randbytes(50)
    case.code, case.said = 2, f"stdin is binary: byte {len(data)} is NUL"


KINDS: list[Callable[[Case], None]] = [
    truncated_safetensors,
    header_that_lies_about_sizes,
    offsets_that_overlap,
    wrong_shapes,
    config_with_absurd_values,
    tokenizer_that_is_not_json,
    index_that_leaves_the_folder,
    empty_prompt_without_a_start,
    stdin_that_is_not_utf8,
    stdin_that_is_binary,
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, bytes]:
    """The files of a sound model."""
    folder = write_model(tmp_path_factory.mktemp("tiny"))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def generate(monkeypatch, tmp_path, capfdbinary):
    """Runs the command on a folder and standard input: exit code, stdout, stderr."""
    monkeypatch.setenv("LLMCLI_DEBUG", "")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "no-settings"))

    def command(folder: Path, stdin: bytes) -> tuple[int, bytes, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), "utf-8"))
        code = run(["generate", "-m", str(folder), "--greedy", "-n", "2", "--threads", "1"])
        out, err = capfdbinary.readouterr()
        return code, out, err.decode()

    return command


def make(whole: dict[str, bytes], folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name, data in whole.items():
        (folder / name).write_bytes(data)
    return folder


def test_the_sound_model_runs(whole, generate, tmp_path):
    code, out, err = generate(make(whole, tmp_path / "sound"), TEXT.encode())
    assert (code, err) == (0, "")
    assert out


@pytest.mark.parametrize("kind", KINDS, ids=[kind.__name__ for kind in KINDS])
def test_what_is_malformed_is_refused_in_two_lines(kind, whole, generate, tmp_path):
    for seed in range(EACH):
        case = Case(make(whole, tmp_path / str(seed) / "model"), random.Random(f"{kind.__name__} {seed}"))
        kind(case)
        code, out, err = generate(case.folder, case.stdin)
        lines = err.splitlines()
        shown = f"seed {seed}: exit code {code}, {err!r}"
        assert code == case.code, shown
        assert out == b"", shown
        assert len(lines) == 2, shown
        assert lines[0].startswith("llmcli: "), shown
        assert case.said in err, shown
        assert "Traceback" not in err, shown
        assert "internal error" not in err, shown
        assert "\x1b" not in err, shown


def test_there_are_at_least_500_cases():
    assert EACH * len(KINDS) >= 500
