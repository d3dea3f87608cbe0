"""Downloads, against a real HTTP server on loopback. Each run is its own process: the library reads the environment
while it is imported."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest
from hub_server import COMMIT, Hub, serve

from llmcli.hub import explain

SECRET = "hf_secret_that_must_not_be_seen"


@pytest.fixture(scope="module")
def hub(shared: Path) -> Iterator[Hub]:
    with serve(shared / "models" / "stories260K") as server:
        yield server


def llmcli(home: Path, endpoint: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
        "HF_HOME": str(home),
        "HF_ENDPOINT": endpoint,
        "HF_TOKEN": SECRET,
        "NO_PROXY": "127.0.0.1",
        **variables,
    }
    command = [sys.executable, "-m", "llmcli", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert SECRET not in done.stdout + done.stderr
    return done


def path_of(home: Path, hub: Hub, name: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return llmcli(home, hub.url, "models", "path", f"org/{name}", **variables)


def test_only_the_needed_files_come_and_then_the_cache_serves(hub: Hub, shared: Path, tmp_path: Path) -> None:
    hub.requests.clear()
    done = path_of(tmp_path, hub, "name")
    assert (done.returncode, done.stderr) == (0, "")
    folder = Path(done.stdout.strip())
    assert folder == tmp_path / "hub" / "models--org--name" / "snapshots" / COMMIT
    assert {each.name for each in folder.iterdir()} == {"config.json", "tokenizer.json", "model.safetensors"}
    for each in folder.iterdir():
        assert each.read_bytes() == (shared / "models" / "stories260K" / each.name).read_bytes()
    fetched = [each.rpartition("/")[2] for each in hub.requests if each.startswith("GET /org")]
    assert fetched == ["tokenizer.json", "config.json", "model.safetensors"]  # weights last
    assert f"Bearer {SECRET}" in hub.tokens

    hub.requests.clear()
    again = path_of(tmp_path, hub, "name", HF_HUB_OFFLINE="1")
    assert (again.returncode, again.stdout) == (0, done.stdout)
    assert path_of(tmp_path, hub, "name").stdout == done.stdout
    assert hub.requests == []
    listed = llmcli(tmp_path, hub.url, "models", "--names")
    assert "org/name" in listed.stdout.splitlines()


@pytest.mark.parametrize("quiet", [False, True])
def test_a_terminal_sees_the_progress_and_then_the_text(hub: Hub, tmp_path: Path, quiet: bool) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "LLMCLI_"))}
    environment |= {"HF_HOME": str(tmp_path), "HF_ENDPOINT": hub.url, "NO_PROXY": "127.0.0.1", "LLMCLI_THREADS": "1"}
    command = [
        "-m",
        "llmcli",
        "generate",
        "-m",
        "org/name",
        "--greedy",
        "-n",
        "4",
        *(["--quiet"] if quiet else []),
        "Once",
    ]
    child = pexpect.spawn(sys.executable, command, env=environment, dimensions=(40, 100), timeout=60, encoding="utf-8")
    shown = child.read()
    child.close()
    assert child.exitstatus == 0
    assert "Once" in shown
    assert "upon a time," in shown
    assert ("model.safetensors: 100%" in shown) is not quiet


@pytest.mark.parametrize(
    ("name", "said", "advice"),
    [
        ("gated", "org/gated is gated", "HF_TOKEN"),
        ("missing", "missing on the hub, or private", "HF_TOKEN"),
        ("gone", "missing on the hub, or private", "HF_TOKEN"),
        ("badtoken", "refuses the token (401)", "HF_TOKEN"),
        ("forbidden", "forbids org/forbidden (403)", "HF_TOKEN"),
        ("limited", "too many requests (429)", "wait"),
        ("failing", "a failure of its own (500)", "later"),
        ("slow", "did not answer in time", "later"),
        ("pickled", "has no model.safetensors, only .bin", "safetensors"),
        ("damaged", "model.safetensors arrived damaged", "again"),
        ("longer", "wrong size", "again"),
    ],
)
def test_each_refusal_has_its_own_words(hub: Hub, tmp_path: Path, name: str, said: str, advice: str) -> None:
    done = path_of(tmp_path, hub, name, HF_HUB_ETAG_TIMEOUT="1")
    assert done.returncode == 3
    assert done.stdout == ""
    what, remedy = done.stderr.splitlines()
    assert said in what
    assert advice in remedy
    assert not list(tmp_path.rglob("model.safetensors"))  # never used


def test_a_model_that_cannot_be_run_is_refused_before_its_weights_are_fetched(tmp_path: Path) -> None:
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "bert"}')
    for name in ("tokenizer.json", "model.safetensors"):
        (folder / name).write_text("{}")
    with serve(folder) as hub:
        done = path_of(tmp_path, hub, "name")
        assert done.returncode == 3
        assert "bert" in done.stderr
        assert not [each for each in hub.requests if each.endswith(".safetensors")]


def test_a_connection_that_breaks_is_resumed_within_the_run(shared: Path, tmp_path: Path) -> None:
    folder = tmp_path / "served"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (folder / name).write_bytes((shared / "models" / "stories260K" / name).read_bytes())
    weights = os.urandom(24_000_000)  # the library keeps what came in steps of ten megabytes
    (folder / "model.safetensors").write_bytes(weights)
    with serve(folder) as hub:
        done = path_of(tmp_path, hub, "breaking")
        assert (done.returncode, done.stderr) == (0, "")
        assert hub.broken_off == 1
        assert hub.ranges
    assert (Path(done.stdout.strip()) / "model.safetensors").read_bytes() == weights


def test_two_processes_may_download_the_same_model_at_once(hub: Hub, tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: path_of(tmp_path, hub, "name"), range(2))
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert first.stdout == second.stdout


def test_offline_and_not_cached_names_the_variable(tmp_path: Path) -> None:
    done = llmcli(tmp_path, "http://127.0.0.1:9", "models", "path", "org/name", HF_HUB_OFFLINE="1")
    assert done.returncode == 3
    assert "HF_HUB_OFFLINE" in done.stderr
    assert "not in the cache" in done.stderr


def test_no_server_names_the_endpoint_but_not_its_password(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    done = llmcli(tmp_path, f"http://me:pass@127.0.0.1:{port}", "models", "path", "org/name")
    assert done.returncode == 3
    assert f"no connection to 127.0.0.1:{port}" in done.stderr
    assert "pass" not in done.stderr


def test_a_cache_that_cannot_be_written_is_named(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "hub").write_text("a file where the cache should be")
    done = path_of(tmp_path, hub, "name")
    assert done.returncode == 3
    assert len(done.stderr.splitlines()) == 2


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(28, "No space"), "no space"),
        (PermissionError(13, "no"), "read-only"),
        (RuntimeError("x"), "RuntimeError"),
    ],
)
def test_trouble_with_the_disk_is_told_apart(error: Exception, said: str) -> None:
    assert said in str(explain("org/name", error))
