"""Many generations in one process, and many processes on one model."""

import resource
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import llmcli

pytestmark = pytest.mark.slow


def held() -> int:
    """Memory of this process now, bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


@pytest.mark.parametrize("params", [{}, {"regex": "[a-z ]{1,8}", "ignore_eos": False}], ids=["plain", "constrained"])
def test_ten_thousand_generations_hold_no_memory(shared: Path, params: dict) -> None:
    if not Path("/proc/self/statm").exists():
        pytest.skip("needs /proc")
    model = llmcli.load(shared / "models" / "stories260K", threads=1)

    def generate(count: int) -> None:
        for seed in range(count):
            model.generate("Once upon", max_tokens=4, seed=seed, top_k=40, **({"ignore_eos": True} | params))

    generate(1000)  # what is kept for speed is there by now
    before = held()
    generate(10_000)
    assert held() <= 1.05 * before


def test_twenty_processes_share_a_model(shared: Path) -> None:
    model = shared / "models" / "stories260K"
    command = [sys.executable, "-m", "llmcli", "generate", "-q", "-m", str(model), "--greedy", "-n", "20", "Once"]

    def run(_: int) -> subprocess.CompletedProcess:
        return subprocess.run([*command, "--threads", "1"], capture_output=True, timeout=600)

    with ThreadPoolExecutor(20) as pool:
        results = list(pool.map(run, range(20)))
    assert {(each.returncode, each.stdout, each.stderr) for each in results} == {(0, results[0].stdout, b"")}
    assert results[0].stdout.startswith(b" upon a time")
