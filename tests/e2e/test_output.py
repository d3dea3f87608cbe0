"""Where output goes: a disk without room, a terminal that can do little, a locale that is not UTF-8."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest
from hub_server import serve
from tiny import write_model

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


@pytest.mark.parametrize(("how", "said"), [(None, "no space"), ("ro", "read-only")])
def test_a_download_without_room_or_rights_is_said(model: Path, small_disk: Path, how: str | None, said: str) -> None:
    if how is not None:
        subprocess.run(["mount", "-o", f"remount,{how}", str(small_disk)], check=True)
    with serve(model) as hub:
        places = {"HF_HOME": str(small_disk), "HF_ENDPOINT": hub.url, "NO_PROXY": "127.0.0.1"}
        done = llmcli("models", "path", "org/name", **places)
    assert (done.returncode, done.stdout) == (3, b"")
    what, remedy = done.stderr.decode().splitlines()
    assert said in what
    assert "HF_HOME" in remedy
    assert not list(small_disk.rglob("*.safetensors"))


# Runs its arguments as command lines, each written as JSON, and tells what came of each.
SEVERAL = """
import json, sys
from llmcli.__main__ import run
for line in sys.argv[1:]:
    code = run(json.loads(line))
    sys.stdout.flush()
    print(f"=={code}==", flush=True)
"""
TEXT = "Once upon a time"
VIEWS: list[list[str]] = [
    ["generate", "-q", "--greedy", "-n", "3", TEXT],
    ["generate", "-q", "--greedy", "-n", "2", "--show-tokens", TEXT],
    ["generate", "-q", "--num-samples", "2", "--seed", "1", "-n", "2", TEXT],
    ["tokenize", TEXT],
    ["explain", TEXT],
    ["inspect-model"],
    ["inspect-logits", TEXT],
    ["inspect-logits", "--funnel", "--top-k", "9", TEXT],
    ["inspect-positions", TEXT],
    ["inspect-cache", TEXT],
    ["inspect-attention", TEXT],
    ["perplexity", __file__],
]


@pytest.mark.parametrize("term", ["dumb", "xterm-256color"])
def test_no_view_breaks_at_ten_columns(model: Path, term: str) -> None:
    """In a locale that is not UTF-8, too; and a dumb terminal gets no escape."""
    lines = [json.dumps([each[0], "-m", str(model), *each[1:]]) for each in VIEWS]
    environment = {**ENVIRONMENT, "TERM": term, "LC_ALL": "C"}
    child = pexpect.spawn(
        sys.executable, ["-c", SEVERAL, *lines], env=environment, dimensions=(24, 10), timeout=240, encoding="utf-8"
    )
    shown = child.read()
    child.close()
    parts = re.split(r"==(\d)==\r\n", shown)
    assert parts[1::2] == ["0"] * len(VIEWS), shown[-2000:]
    for view, part in zip(VIEWS, parts[::2], strict=False):
        assert "Traceback" not in part, view
        assert term != "dumb" or "\x1b" not in part, view


HOSTILE = "\x1b]52;c;aGk=\x07\x1b[2J[red]\u202e\u200b" + "a" + "\u0301" * 40


def test_hostile_names_and_metadata_never_steer_the_terminal(tmp_path: Path) -> None:
    """Of folders, of files, and in a model's own configuration."""
    folder = write_model(tmp_path / HOSTILE, max_position_embeddings=512)
    odd = write_model(tmp_path / "odd")
    config = json.loads((odd / "config.json").read_text())
    (odd / "config.json").write_text(json.dumps(config | {"model_type": HOSTILE, HOSTILE: HOSTILE}))
    absent = str(tmp_path / f"no{HOSTILE}")
    commands = {
        "0": [
            ["inspect-model", "-m", str(folder)],
            ["inspect-logits", "-m", str(folder), HOSTILE],
            ["tokenize", "-m", str(folder), HOSTILE],
            ["generate", "-m", str(folder), "-n", "2", "--greedy", "--stats", HOSTILE],
            ["models", "path", str(folder)],
        ],
        "3": [["inspect-model", "-m", str(odd)], ["generate", "-m", absent, "a"]],
        "2": [["generate", "-m", str(folder), "--file", absent], ["generate", HOSTILE, f"--{HOSTILE}"]],
    }
    lines = [json.dumps(each) for some in commands.values() for each in some]
    environment = {**ENVIRONMENT, "NO_COLOR": "1", "TERM": "xterm"}
    child = pexpect.spawn(
        sys.executable, ["-c", SEVERAL, *lines], env=environment, dimensions=(24, 80), timeout=240, encoding="utf-8"
    )
    shown = child.read()
    child.close()
    assert re.findall(r"==(\d)==", shown) == [code for code, some in commands.items() for _ in some], shown
    # Rich draws bold and dim without colour: sequences that change how the next characters look, and nothing else.
    text = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    assert not {c for c in text if not c.isprintable()} - set("\r\n\t"), ascii(text)
    assert "[red]" in text
    assert "\u0301" * 20 not in text
