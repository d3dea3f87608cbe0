"""The recipe `smoke`: its first losses are those of the log beside this file, and it ends where it should."""

import json
from pathlib import Path

import pytest

from train.small import log_lines, losses, train

LOG = Path(__file__).parent / "smoke.log.jsonl"


@pytest.mark.slow
def test_the_first_steps_are_those_of_the_log(shared: Path, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in LOG.read_text(encoding="utf-8").splitlines()]
    corpus = shared / "corpus" / "train.jsonl.xz"
    done = train(corpus, "--recipe", "smoke", "--out", tmp_path, "--until", 50, timeout=1500)
    assert done.returncode == 0, done.stderr
    found = log_lines(tmp_path, "run")[0]
    for key in ("parameters", "tokens", "bytes_per_token", "tokens_per_step"):
        assert found[key] == lines[0][key]
    assert losses(tmp_path) == pytest.approx([line["loss"] for line in lines[1:]], abs=1e-3)


@pytest.mark.slow
def test_a_minute_of_training_ends_below_2_6_bits_per_byte(shared: Path, tmp_path: Path) -> None:
    corpus = shared / "corpus" / "train.jsonl.xz"
    done = train(corpus, "--recipe", "smoke", "--out", tmp_path, timeout=1500)
    assert done.returncode == 0, done.stderr
    assert log_lines(tmp_path, "valid")[-1]["bits_per_byte"] < 2.6
