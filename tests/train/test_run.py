"""Whole runs: what they leave behind, and that none is lost when they are killed, stopped or out of space."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.resources import files
from pathlib import Path

import jsonschema
import pytest
import torch
from safetensors.torch import load_file

import llmcli
from llmcli.errors import CheckpointError, LlmcliError
from llmcli.train.state import load_state, read_facts, save_state
from train.conftest import Finished
from train.small import command, environment, log_lines, losses, train, write_corpus, write_recipe


def test_a_run_leaves_a_model_a_log_and_nothing_half_done(finished: Finished) -> None:
    names = {path.name for path in finished.out.iterdir() if not path.name.startswith("tokens-")}
    assert names == {
        *("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
        *("checkpoint.safetensors", "log.jsonl", "vocabulary.json"),
    }
    assert all(path.stat().st_mode & 0o077 == 0o044 for path in finished.out.iterdir())
    facts = json.loads((finished.out / "log.jsonl").read_text().splitlines()[0])
    assert facts["kind"] == "run"
    assert (facts["name"], facts["tokens_per_step"], facts["steps"]) == ("small", 256, 12)
    weights = load_file(finished.out / "model.safetensors")
    assert facts["parameters"] == sum(tensor.numel() for tensor in weights.values())
    steps = log_lines(finished.out, "step")
    assert [line["step"] for line in steps] == list(range(12))
    assert [line["length"] for line in steps] == [16] * 6 + [32] * 6
    assert losses(finished.out)[-1] < losses(finished.out)[0]
    assert [line["step"] for line in log_lines(finished.out, "valid")] == [4, 8, 12]
    assert [line["step"] for line in log_lines(finished.out, "sample")] == [8]
    assert "validation" in finished.stderr
    assert "\x1b" not in finished.stderr


def test_every_line_of_the_log_is_as_its_schema_says(finished: Finished) -> None:
    schema = json.loads(files("llmcli").joinpath("schemas/train-log.json").read_text("utf-8"))
    text = (finished.out / "log.jsonl").read_text("utf-8")
    lines = [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]
    for line in lines:
        jsonschema.validate(line, schema)
    assert {line["kind"] for line in lines} == {"run", "step", "valid", "sample"}


def test_the_model_is_read_by_llmcli_and_by_transformers(finished: Finished) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    pipeline = llmcli.load(finished.out)
    theirs = AutoModelForCausalLM.from_pretrained(finished.out)
    ids = pipeline.encode("The old dog ran")
    assert AutoTokenizer.from_pretrained(finished.out)("The old dog ran")["input_ids"] == ids
    with torch.no_grad():
        wanted = theirs(torch.tensor([ids])).logits[0]
    torch.testing.assert_close(torch.from_numpy(pipeline.logits(ids)), wanted, atol=1e-4, rtol=1e-4)
    assert pipeline.defaults == {"temperature": 0.8, "top_p": 0.95}
    assert pipeline.eos_ids == {0}
    assert theirs.generation_config.eos_token_id in (0, [0])


def test_a_gpt2_run_under_adamw_too(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    corpus = write_corpus(tmp_path / "corpus.jsonl")
    recipe = write_recipe(
        tmp_path / "small.toml", family="gpt2", optimizer="adamw", top="gradient_checkpointing = true"
    )
    done = train(corpus, "--recipe", recipe, "--out", tmp_path / "run", "--set", "stored_dtype=float16", "--until", 6)
    assert done.returncode == 0, done.stderr
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run")
    assert model.dtype == torch.float16
    ids = llmcli.load(tmp_path / "run").encode("The old dog ran")
    with torch.no_grad():
        wanted = model.float()(torch.tensor([ids])).logits[0]
    found = torch.from_numpy(llmcli.load(tmp_path / "run").logits(ids))
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_killed_and_resumed_equals_unbroken(finished: Finished, tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = (finished.corpus, "--recipe", finished.recipe, "--out", out)
    process = subprocess.Popen(command(*arguments), env=environment(), stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 200
        while not (out / "checkpoint.safetensors").exists() or len(losses(out)) < 6:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert len(losses(out)) < 12
    with (out / "log.jsonl").open("a") as log:
        log.write('{"kind": "step", "st')  # a kill may tear the last line
    again = train(finished.corpus, "--out", out, "--resume")
    assert again.returncode == 0, again.stderr
    assert "going on after" in again.stderr
    assert losses(out) == pytest.approx(losses(finished.out), abs=1e-6)
    assert log_lines(out, "valid") == log_lines(finished.out, "valid")
    assert [line["step"] for line in log_lines(out, "step")] == list(range(12))
    one, other = (load_file(place / "model.safetensors") for place in (out, finished.out))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_after_the_step_with_a_checkpoint(
    finished: Finished, tmp_path: Path, number: signal.Signals
) -> None:
    out = tmp_path / "run"
    more = ("--set", "checkpoint_every=1000", "--steps", 5000, "--until", 5000, "--json")
    arguments = (finished.corpus, "--recipe", finished.recipe, "--out", out, *more)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command(*arguments), env=environment(), text=True, **pipes)
    while not (out / "log.jsonl").exists() or len(losses(out)) < 2:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert stdout == ""
    assert "Traceback" not in stderr
    assert read_facts(out / "checkpoint.safetensors")["step"] == len(losses(out))


def test_stopping_on_the_way_changes_nothing(finished: Finished, tmp_path: Path) -> None:
    out = tmp_path / "run"
    for arguments in (
        (finished.corpus, "--recipe", finished.recipe, "--until", 5),
        ("--resume", "--until", 9),
        ("--resume",),
    ):
        done = train(*arguments, "--out", out)
        assert done.returncode == 0, done.stderr
    assert losses(out) == pytest.approx(losses(finished.out), abs=1e-6)


def test_a_finished_run_is_exported_again_without_training(finished: Finished, tmp_path: Path) -> None:
    before = losses(finished.out)
    done = train("--out", finished.out, "--export", tmp_path / "model")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "model").iterdir()} == {
        *("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    }
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (tmp_path / "model" / name).read_bytes() == (finished.out / name).read_bytes()
    (finished.out / "model.safetensors").unlink()
    assert train("--out", finished.out, "--resume").returncode == 0
    assert (finished.out / "model.safetensors").read_bytes() == (tmp_path / "model" / "model.safetensors").read_bytes()
    assert losses(finished.out) == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "holds a run already"),
        (["--resume", "--set", "shape.layers=3"], "holds another model"),
        (["--resume", "--set", "optimizer.kind=adamw"], "under another optimizer"),
        (["--resume", "--set", "limit_bytes=5000"], "the corpus has"),
    ],
)
def test_a_run_is_not_continued_as_another(finished: Finished, arguments: list[str], said: str) -> None:
    done = train(finished.corpus, "--recipe", finished.recipe, "--out", finished.out, *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()[-2:]) == 2
    assert "Traceback" not in done.stderr


def test_a_tokenizer_of_another_model_may_be_used(finished: Finished, tmp_path: Path, shared: Path) -> None:
    out = tmp_path / "run"
    gpt2 = shared / "tokenizers" / "gpt2"
    done = train(
        finished.corpus,
        "--recipe",
        finished.recipe,
        "--out",
        out,
        "--tokenizer",
        gpt2,
        "--until",
        1,
        "--valid",
        finished.corpus,
    )
    assert done.returncode == 0, done.stderr
    assert "the vocabulary has 50257 ids, not 300" in done.stderr
    assert llmcli.load(out).encode("The old dog ran") == [464, 1468, 3290, 4966]


def small_state(folder: Path) -> tuple[Path, torch.nn.Module, list[torch.optim.Optimizer]]:
    model = torch.nn.Linear(4, 4)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    model(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    return folder / "checkpoint.safetensors", model, [optimizer]


def test_state_comes_back_as_it_was(tmp_path: Path) -> None:
    path, model, optimizers = small_state(tmp_path)
    save_state(path, model, optimizers, {"step": 7, "name": "é"})  # type: ignore[arg-type]
    _, other, again = small_state(tmp_path)
    assert load_state(path, other, again) == {"step": 7, "name": "é"}  # type: ignore[arg-type]
    assert torch.equal(other.weight, model.weight)  # type: ignore[arg-type]
    for one, two in zip(optimizers[0].state.values(), again[0].state.values(), strict=True):
        assert all(torch.equal(one[key], two[key]) for key in one)
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_full_disk_leaves_the_last_checkpoint_whole(tmp_path: Path) -> None:
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("needs root, to mount a small file system")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", disk], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("cannot mount a file system here")
    try:
        path, model, optimizers = small_state(disk)
        save_state(path, model, optimizers, {"step": 1})  # type: ignore[arg-type]
        (disk / "filler").write_bytes(bytes(48_000))
        large = torch.nn.Linear(100, 100)
        with pytest.raises(LlmcliError, match="cannot be written"):
            save_state(path, large, [], {"step": 2})  # type: ignore[arg-type]
        assert load_state(path, model, optimizers)["step"] == 1  # type: ignore[arg-type]
        assert {each.name for each in disk.iterdir()} == {path.name, "filler"}
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def test_a_checkpoint_that_cannot_be_put_in_place_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, model, optimizers = small_state(tmp_path)
    save_state(path, model, optimizers, {"step": 1})  # type: ignore[arg-type]

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("llmcli.model.export.save_file", full)
    with pytest.raises(LlmcliError, match="No space left"):
        save_state(path, model, optimizers, {"step": 2})  # type: ignore[arg-type]
    assert read_facts(path)["step"] == 1


@pytest.mark.parametrize("damage", [b"", b"x" * 100, None])
def test_a_broken_checkpoint_is_named(tmp_path: Path, damage: bytes | None) -> None:
    path, model, optimizers = small_state(tmp_path)
    save_state(path, model, optimizers, {"step": 1})  # type: ignore[arg-type]
    path.write_bytes(path.read_bytes()[:-9] if damage is None else damage)
    with pytest.raises(CheckpointError, match="cannot read the checkpoint"):
        load_state(path, model, optimizers)  # type: ignore[arg-type]


SAVING = """
import sys, torch
from pathlib import Path
from llmcli.train.state import save_state
model = torch.nn.Linear(1000, 1000)
for step in range(10_000):
    save_state(Path(sys.argv[1]), model, [], {"step": step})
    print(step, flush=True)
"""


def test_a_kill_while_saving_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    code = [sys.executable, "-c", SAVING, path]
    with subprocess.Popen(code, stdout=subprocess.PIPE, text=True, env=environment()) as process:
        assert process.stdout is not None
        for _ in range(3):
            process.stdout.readline()
        time.sleep(0.004)
        process.kill()
    model = torch.nn.Linear(1000, 1000)
    assert load_state(path, model, [])["step"] >= 2  # type: ignore[arg-type]


def test_a_checkpoint_is_replaced_and_never_written_over(tmp_path: Path) -> None:
    path, model, optimizers = small_state(tmp_path)
    save_state(path, model, optimizers, {"step": 1})  # type: ignore[arg-type]
    before = path.read_bytes()
    with path.open("rb") as old:
        save_state(path, model, optimizers, {"step": 2})  # type: ignore[arg-type]
        assert old.read() == before
    assert read_facts(path)["step"] == 2
