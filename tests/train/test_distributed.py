"""Two processes that train one model give the losses of one process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import write_model

from train.conftest import Finished
from train.small import environment, log_lines, losses, train


def torchrun(*arguments: object) -> subprocess.CompletedProcess[str]:
    line = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "llmcli",
        "train",
    ]
    line += [*map(str, arguments), "--threads", "1", "--device", "cpu"]
    return subprocess.run(line, capture_output=True, text=True, timeout=300, check=False, env=environment())


def test_two_processes_equal_one(finished: Finished, tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = ("--recipe", finished.recipe, "--out", out)
    done = torchrun(finished.corpus, *arguments, "--until", "6")
    assert done.returncode == 0, done.stderr
    done = torchrun(finished.corpus, "--out", out, "--resume")
    assert done.returncode == 0, done.stderr
    assert log_lines(out, "run")[0]["processes"] == 2
    assert len(log_lines(out, "run")) == 1
    assert losses(out) == pytest.approx(losses(finished.out), abs=1e-4)
    for one, other in zip(log_lines(out, "valid"), log_lines(finished.out, "valid"), strict=True):
        assert one["bits_per_byte"] == pytest.approx(other["bits_per_byte"], abs=2e-5)
    norms = [[line["gradient_norm"] for line in log_lines(place, "step")] for place in (out, finished.out)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-3)
    # One process speaks.
    assert done.stderr.count("the model is in") == 1


def test_two_processes_begin_with_one_model(finished: Finished, tmp_path: Path) -> None:
    arguments = (finished.corpus, "--recipe", finished.recipe, "--init", write_model(tmp_path / "model"), "--until", 3)
    one, two = train(*arguments, "--out", tmp_path / "one"), torchrun(*arguments, "--out", tmp_path / "two", "--json")
    assert one.returncode == two.returncode == 0, one.stderr + two.stderr
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-4)
    assert json.loads(two.stdout)["steps"] == 3  # one process speaks


def test_a_wrong_request_ends_all_processes(tmp_path: Path) -> None:
    done = torchrun("--recipe", "smoke", "--out", tmp_path / "run", "--batch-tokens", "256")
    assert done.returncode != 0
    assert "fewer than a row for each process" in done.stderr
    assert not (tmp_path / "run").exists()
