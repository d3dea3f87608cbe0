"""`llmcli perplexity` inside this process: input of every kind, and what is printed."""

import gzip
import io
import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest

from llmcli.__main__ import run

TEXT = "Once upon a time, there was a little girl named Lily. She loved to play outside.\n"


@pytest.fixture
def perplexity(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Any:
    for name in ("DEVICE", "THREADS", "SEED", "MODEL"):
        monkeypatch.delenv(f"LLMCLI_{name}", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    model = str(shared / "models" / "stories260K")

    def command(*arguments: object, code: int = 0) -> tuple[str, str]:
        assert run(["perplexity", *map(str, arguments), "-m", model, "--threads", "1", "--device", "cpu"]) == code
        captured = capsys.readouterr()
        assert "\x1b" not in captured.out + captured.err
        return captured.out, captured.err

    return command


def figures(output: tuple[str, str]) -> dict[str, Any]:
    assert output[1] == ""
    found: dict[str, Any] = json.loads(output[0])
    return found


def test_json_holds_all_figures(perplexity: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text(TEXT * 20)
    found = figures(perplexity(path, "--json"))
    assert set(found) == {
        *("schema_version", "file", "model", "dtype", "context", "stride", "documents", "bytes", "tokens"),
        *("nats_per_token", "perplexity", "bits_per_byte", "seconds"),
    }
    assert (found["schema_version"], found["file"], found["dtype"]) == (1, str(path), "float32")
    assert (found["context"], found["stride"], found["documents"]) == (512, 256, 1)
    assert found["bytes"] == 20 * len(TEXT)
    assert found["perplexity"] == pytest.approx(math.exp(found["nats_per_token"]))
    bits = found["nats_per_token"] * found["tokens"] / math.log(2) / found["bytes"]
    assert found["bits_per_byte"] == pytest.approx(bits)
    assert found["bits_per_byte"] < 1.5  # a model of such stories knows them


def test_plain_output(perplexity: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text(TEXT)
    out, err = perplexity(path, "--context", "32")
    assert err == ""
    assert [line.split("  ")[0] for line in out.splitlines()] == [
        *("bits per byte", "perplexity", "nats per token", "tokens", "bytes", "documents", "context", "dtype")
    ]
    assert "32, stride 16" in out


def test_documents_of_json_lines_stand_apart(perplexity: Any, tmp_path: Path) -> None:
    texts = [TEXT, TEXT[:30], TEXT[5:]]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress((tmp_path / "a.jsonl").read_bytes()))
    one, other = (figures(perplexity(tmp_path / name, "--json")) for name in ("a.jsonl", "b.jsonl.gz"))
    assert one["nats_per_token"] == other["nats_per_token"]
    assert one["documents"] == 3
    alone = []
    for text in texts:
        (tmp_path / "c.txt").write_text(text)
        alone.append(figures(perplexity(tmp_path / "c.txt", "--json")))
    assert one["tokens"] == sum(each["tokens"] for each in alone)
    nats = sum(each["nats_per_token"] * each["tokens"] for each in alone)
    assert one["nats_per_token"] * one["tokens"] == pytest.approx(nats, rel=1e-5)


def test_a_limit_and_stdin(perplexity: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text(TEXT * 3)
    limited = figures(perplexity(tmp_path / "a.txt", "--json", "--limit-bytes", len(TEXT)))
    assert limited["bytes"] == len(TEXT)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(TEXT.encode()), "utf-8"))
    piped = figures(perplexity("-", "--json"))
    assert piped["file"] == "-"
    assert piped["nats_per_token"] == limited["nats_per_token"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["none.txt"], "no such file or folder"),
        (["empty.txt"], "no token that could be predicted"),
        (["a.txt", "--stride", "600"], "--stride is 600"),
        (["a.txt", "--stride", "0"], "--stride"),
        (["a.txt", "--context", "0"], "--context"),
        (["bad.txt"], "cannot read bad.txt"),
        (["bad.jsonl"], "bad.jsonl, line 1"),
    ],
)
def test_wrong_requests(
    perplexity: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text(TEXT)
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe")
    (tmp_path / "bad.jsonl").write_text("[]\n")
    out, err = perplexity(*arguments, code=2)
    assert out == ""
    assert said in err
    assert "Traceback" not in err
