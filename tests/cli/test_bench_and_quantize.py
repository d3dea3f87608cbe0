"""`llmcli bench` and `llmcli quantize`: what they print, write and refuse."""

import json
from pathlib import Path

import pytest

from llmcli import __main__


def run(*arguments: str) -> int:
    return __main__.run(list(arguments))


@pytest.fixture
def folder(shared: Path) -> str:
    return str(shared / "models/stories260K")


def test_bench_measures_what_it_is_asked_for(folder: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("bench", folder, "--prefill", "8,32", "--context", "16", "--rounds", "2", "--no-cold", "--json") == 0
    found = json.loads(capfd.readouterr().out)
    assert [each["tokens"] for each in found["prefill"]] == [8, 32]
    (decode,) = found["decode"]
    assert decode["context"] == 16
    assert decode["tokens_per_second"] == pytest.approx(1 / decode["seconds"])
    assert decode["share"] == pytest.approx(decode["bytes_read"] / found["bandwidth"] / decode["seconds"])
    assert decode["bytes_read"] > found["weight_bytes"] > 200_000
    assert found["cold"] is None


def test_bench_draws_the_same(folder: str, capfd: pytest.CaptureFixture[str]) -> None:
    options = ["--prefill", "8", "--context", "16", "--rounds", "1", "--no-cold", "--dtype", "float32"]
    assert run("bench", folder, *options) == 0
    text = capfd.readouterr().out
    assert "float32" in text
    assert "decode after" in text
    assert all(len(line) <= 80 for line in text.splitlines() if folder not in line)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--prefill", "x"], "'x' is not a list of lengths"),
        (["--context", "0"], "'0' is not a list of lengths"),
        (["--prefill", "100000", "--no-cold"], "does not fit the context"),
        (["--dtype", "int8", "--device", "mps"], ""),
    ],
)
def test_bench_refuses(folder: str, capfd: pytest.CaptureFixture[str], options: list[str], words: str) -> None:
    assert run("bench", folder, *options) == 2
    printed = capfd.readouterr()
    assert printed.out == ""
    assert words in printed.err
    assert len(printed.err.splitlines()) == 2


def test_a_quantized_folder_is_a_model(folder: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    small = str(tmp_path / "small")
    assert run("quantize", folder, small, "--dtype", "int8") == 0
    printed = capfd.readouterr()
    assert printed.out == ""
    assert "int8" in printed.err
    for dtype in ("auto", "int8", "float32"):
        assert run("generate", "-m", small, "--dtype", dtype, "--greedy", "-n", "8", "--quiet", "Once upon") == 0
        assert "a time" in capfd.readouterr().out
    assert run("inspect-attention", "-m", small, "--layer", "0", "--head", "0", "--dtype", "int8", "Once upon") == 0
    capfd.readouterr()
    assert run("quantize", folder, small) == 2
    assert "exists already" in capfd.readouterr().err
    assert run("inspect-model", "-m", small) == 2
    assert "llmcli quantize" in capfd.readouterr().err


def test_quantize_as_json(folder: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("quantize", folder, str(tmp_path / "small"), "--dtype", "int4", "--json") == 0
    found = json.loads(capfd.readouterr().out)
    assert found["dtype"] == "int4"
    assert found["bytes"] == (tmp_path / "small/model.safetensors").stat().st_size
    assert found["bytes"] < found["bytes_before"]
