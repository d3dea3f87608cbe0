"""Where output goes: a disk without room, a terminal that can do little, a locale that is not UTF-8."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("LLMCLI_", "LC_", "LANG"))}
ENVIRONMENT |= {"OMP_NUM_THREADS": "1", "LLMCLI_THREADS": "1"}


@pytest.fixture(scope="module")
def model(shared: Path) -> Path:
    return shared / "models" / "stories260K"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 16 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("needs the right to mount a tmpfs")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def llmcli(*arguments: object, **variables: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "llmcli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, env={**ENVIRONMENT, **variables}, timeout=120)


def test_a_file_that_does_not_fit_is_said_and_leaves_nothing(model: Path, small_disk: Path) -> None:
    path = small_disk / "maps.html"
    path.write_text("as it was")
    (small_disk / "filling").write_bytes(b"x" * 8192)
    done = llmcli("inspect-attention", "-m", model, "--html", path, "Once upon a time there was a little girl")
    assert done.returncode == 1, done.stderr
    assert [line[: len("llmcli: ")] == "llmcli: " for line in done.stderr.decode().splitlines()] == [True, False]
    assert "No space left on device" in done.stderr.decode()
    assert path.read_text() == "as it was"
    assert sorted(each.name for each in small_disk.iterdir()) == ["filling", "maps.html"]


@pytest.mark.parametrize("arguments", [["tokenize", "Once upon"], ["generate", "-q", "--greedy", "-n", "3", "Once"]])
def test_a_dumb_terminal_gets_no_escapes(model: Path, arguments: list[str]) -> None:
    command = ["-m", "llmcli", arguments[0], "-m", str(model), *arguments[1:]]
    child = pexpect.spawn(sys.executable, command, env={**ENVIRONMENT, "TERM": "dumb"}, dimensions=(24, 10), timeout=60)
    data = child.read()
    child.close()
    assert (child.exitstatus, b"\x1b" in data) == (0, False), data
    assert b"Once" in data


def test_text_is_utf8_where_the_locale_is_not(model: Path) -> None:
    done = llmcli("tokenize", "--pieces", "-m", model, "naïve", LANG="C", LC_ALL="C", PYTHONCOERCECLOCALE="0")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode() == "▁n\na\n<0xC3>\n<0xAF>\nve\n"
