"""`llmcli generate` as a process, in pipes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

LLMCLI = [sys.executable, "-m", "llmcli"]
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("LLMCLI_")}
ENVIRONMENT |= {"OMP_NUM_THREADS": "1", "LLMCLI_THREADS": "1"}


@pytest.fixture(scope="module")
def model(shared: Path) -> Path:
    return shared / "models" / "stories260K"


def shell(script: str, model: Path, **options) -> subprocess.CompletedProcess:
    environment = {**ENVIRONMENT, "LLMCLI_MODEL": str(model), "LLMCLI": " ".join(LLMCLI)}
    return subprocess.run(["bash", "-c", script], capture_output=True, env=environment, timeout=120, **options)


def test_the_published_text_and_one_newline(model):
    result = shell('$LLMCLI generate --greedy -n 200 ""', model)
    golden = json.loads((model / "golden.json").read_text())["text"]
    assert result.returncode == 0
    assert result.stdout == golden.encode() + b"\n"
    assert result.stderr == b""


def test_a_reader_that_leaves_is_no_error_under_pipefail(model):
    script = 'set -o pipefail; $LLMCLI generate --greedy --ignore-eos -n 400 "" | head -n 1'
    result = shell(script, model)
    assert (result.returncode, result.stderr) == (0, b"")
    assert result.stdout.count(b"\n") == 1
    assert result.stdout.startswith(b"Once upon a time")


def test_while_read_keeps_its_input(model):
    script = 'printf "One\\nTwo\\n" | while read -r line; do $LLMCLI generate --greedy -n 2 --echo "$line"; done'
    result = shell(script, model)
    assert [line[:3] for line in result.stdout.decode().splitlines()] == ["One", "Two"]


def test_pieces_arrive_as_they_are_made(model):
    """The first bytes come while the process still runs, and an interrupt leaves a whole line and exit code 130."""
    command = [*LLMCLI, "generate", "-m", str(model), "--greedy", "--ignore-eos", "-n", "100000", "--context", "100001"]
    with subprocess.Popen([*command, ""], stdout=-1, stderr=-1, env=ENVIRONMENT) as process:
        first = process.stdout.read(4)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 130
    assert first == b"Once"
    assert out.endswith(b"\n")
    assert b"Traceback" not in err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_other_signals(model, number, code):
    command = [*LLMCLI, "generate", "-m", str(model), "--greedy", "--ignore-eos", "-n", "100000", "--context", "100001"]
    with subprocess.Popen([*command, "", "--json"], stdout=-1, stderr=-1, env=ENVIRONMENT) as process:
        deadline = time.monotonic() + 60
        while b"note:" not in (line := process.stderr.readline()) and time.monotonic() < deadline:
            assert line
        time.sleep(0.3)
        process.send_signal(number)
        out, _ = process.communicate(timeout=60)
        assert process.returncode == code
    assert json.loads(out)["finish_reason"] == "interrupt"


def test_a_full_disk_is_said(model):
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full, which is absent here")
    result = shell('$LLMCLI generate --greedy -n 5 "" > /dev/full', model)
    assert result.returncode == 1
    assert b"cannot write to stdout" in result.stderr
    assert b"Traceback" not in result.stderr


def test_raw_bytes_pass_into_a_pipe(model, tmp_path):
    (tmp_path / "prompt").write_bytes(b"a\x1b[31mb")
    result = shell("$LLMCLI generate -n 2 --greedy --echo --file prompt", model, cwd=tmp_path)
    assert result.stdout.startswith(b"a\x1b[31mb")


# --- several texts ---


def test_the_lines_of_a_batch_are_read_one_by_one(model):
    script = (
        "printf 'Once\\nTom\\n' | $LLMCLI generate --batch - --greedy -n 4 --jsonl"
        ' | while IFS= read -r line; do echo "$line" | grep -o \'"prompt": "[^"]*"\'; done'
    )
    result = shell(script, model)
    assert (result.returncode, result.stderr) == (0, b"")
    assert result.stdout.decode().splitlines() == ['"prompt": "Once"', '"prompt": "Tom"']


def test_texts_ended_by_nul_are_read_one_by_one(model):
    script = (
        "$LLMCLI generate --num-samples 3 --seed 4 -n 30 Once -0 --quiet"
        " | while IFS= read -r -d '' text; do printf '<%s>' \"$text\"; done"
    )
    result = shell(script, model)
    assert result.returncode == 0
    assert result.stdout.count(b"<") == result.stdout.count(b">") == 3


def test_a_reader_that_leaves_a_batch_is_no_error(model):
    script = (
        "set -o pipefail; for i in {1..200}; do echo Once; done"
        " | $LLMCLI generate --batch - --greedy -n 20 --jsonl | head -n 1 | wc -l"
    )
    result = shell(script, model)
    assert (result.returncode, result.stdout.strip(), result.stderr) == (0, b"1", b"")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_whole_texts(model, number, code):
    command = [*LLMCLI, "generate", "-m", str(model), "--greedy", "--ignore-eos", "-n", "50"]
    command += ["--num-samples", "5000", "--batch-size", "2", "--jsonl", "Once"]
    with subprocess.Popen(command, stdout=-1, stderr=-1, env=ENVIRONMENT, bufsize=0) as process:
        first = process.stdout.readline()
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
        assert process.returncode == code
    samples = [json.loads(line)["sample"] for line in [first, *out.splitlines()]]
    assert samples == list(range(len(samples)))
    assert 1 <= len(samples) < 5000
    assert f"{len(samples)} of 5000 texts were finished".encode() in err
    assert b"Traceback" not in err
