"""`llmcli train` inside this process: what is refused before any work, and the plots."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny import write_model

from llmcli.__main__ import run


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for name in ("DEVICE", "THREADS", "SEED", "MODEL"):
        monkeypatch.delenv(f"LLMCLI_{name}", raising=False)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "no corpus given"),
        (["none.txt", "--recipe", "smoke"], "no such file or folder: none.txt"),
        (["--recipe", "nothing"], "no recipe 'nothing'"),
        (["c.txt", "--recipe", "smoke", "--steps", "0"], "schedule.steps (--steps) is 0"),
        (["c.txt", "--recipe", "smoke", "--steps", "many"], "--steps"),
        (["c.txt", "--recipe", "smoke", "--batch-tokens", "100"], "--batch-tokens"),
        (["c.txt", "--recipe", "smoke", "--learning-rate", "-1"], "--learning-rate"),
        (["c.txt", "--recipe", "smoke", "--seed", "-5"], "seed (--seed) is -5"),
        (["c.txt", "--recipe", "smoke", "--dtype", "int8"], "--dtype"),
        (["c.txt", "--set", "schedule.stepz=1"], "did you mean schedule.steps?"),
        (["c.txt", "--set", "nonsense"], "--set nonsense is no assignment"),
        (["c.txt", "--png", "a.png"], "--png is given without --plot"),
        (["--plot"], "--plot is given no logs"),
        (["--plot", "none.jsonl"], "cannot read the log none.jsonl"),
        (["--export", "there", "--out", "nowhere"], "nowhere has no checkpoint"),
        (["c.txt", "--recipe", "smoke", "--device", "tpu"], "--device"),
        (["--init", "stories"], "no corpus given"),
        (["log.jsonl", "--init", "stories", "--plot"], "--init and --plot are both given"),
        (["--init", "stories", "--export", "there"], "--init and --export are both given"),
        (["c.txt", "--init", "stories", "--tokenizer", "t"], "--init and --tokenizer are both given"),
        (["c.txt", "--init", "stories", "--steps", "9"], "schedule.warmup + schedule.decay, 20 + 250"),  # finetune
        (["c.txt", "--init", "stories", "--set", "shape.layers=3"], "shape.layers=3: the shape is that of stories"),
        (
            ["c.txt", "--recipe", "smoke", "--init", "stories", "--set", "schedule.lengths=[[0, 2048]]"],
            "schedule.lengths has rows of 2048 tokens",
        ),
        (["c.txt", "--set", "shape.norm_eps=0"], "shape.norm_eps is 0.0"),
        (["c.txt", "--recipe", "smoke"], "the corpus is one document"),
        (["c.txt", "--recipe", "smoke", "--set", "valid_share=0"], "fewer than one row of 256"),
    ],
)
def test_wrong_requests_are_two_lines_and_exit_2(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.txt").write_text("A short text.\n")
    assert run(["train", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert "Traceback" not in err


def untied(folder: Path) -> None:
    write_model(folder, tie_word_embeddings=False)


def padded(folder: Path) -> None:
    write_model(folder, vocab_size=300)


def cut(folder: Path) -> None:
    path = write_model(folder) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def another_family(folder: Path) -> None:
    config = json.loads((write_model(folder) / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "mistral", "sliding_window": None}))


def quantized(folder: Path) -> None:
    assert run(["quantize", str(write_model(folder.with_name("whole"))), str(folder), "--dtype", "int8", "-q"]) == 0


def without_tokenizer(folder: Path) -> None:
    (write_model(folder) / "tokenizer.json").unlink()


@pytest.mark.parametrize(
    ("make", "code", "said"),
    [
        (untied, 2, "the model's tied is False"),
        (padded, 2, "is 300, but its tokenizer has 259 ids"),
        (another_family, 2, "the model's family is mistral"),
        (quantized, 2, "is stored in int8"),
        (without_tokenizer, 3, "tokenizer"),
        (cut, 3, "model.safetensors"),
        (lambda _: None, 3, "there is no model 'model'"),
        (write_model, 2, "--init and --out are both model"),
    ],
)
def test_what_a_run_cannot_begin_with(
    make: Callable[[Path], object], code: int, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path / "model")
    (tmp_path / "c.txt").write_text("A short text.\n")
    more = ["--recipe", "smoke", "--set", "schedule.lengths=[[0, 64]]"]
    assert run(["train", "c.txt", "--out", "model", "--init", "model", *more]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert "Traceback" not in err


def write_log(folder: Path, parameters: int) -> Path:
    folder.mkdir()
    lines: list[dict[str, Any]] = [{"kind": "run", "step": 0, "name": folder.name, "parameters": parameters}]
    lines[0]["tokens_per_step"] = 100
    lines += [{"kind": "step", "step": i, "bits_per_byte": 30 * parameters**-0.1 / (i + 1)} for i in range(9)]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_plots_go_to_stdout_or_into_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs = [str(write_log(tmp_path / name, size)) for name, size in (("a", 1000), ("b", 20000), ("c", 300000))]
    assert run(["train", "--plot", *logs]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "\x1b" not in out
    for each in ("loss", "final loss against parameters", "final loss against compute", "x^-0.1"):
        assert each in out
    pytest.importorskip("matplotlib")
    assert run(["train", "--plot", *logs[:1], "--png", "a.png"]) == 0
    assert capsys.readouterr() == ("", "")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_help_names_every_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    from llmcli.train.recipe import builtin_recipes

    assert run(["train", "--help"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in builtin_recipes())
