"""A recipe that goes on from another: the same as two runs made by hand, also when it is stopped between them."""

from pathlib import Path
from typing import Any

import pytest

from llmcli.errors import UsageError
from llmcli.resolve import resolve
from llmcli.tokenizer import Tokenizer
from llmcli.train.parts import parts_before
from llmcli.train.plan import Asked, plan
from llmcli.train.recipe import as_table, read_recipe
from train.small import log_lines, losses, train, write_corpus, write_recipe

NARROW = {"hidden_size = 32": "hidden_size = 16", 'name = "small"': 'name = "early"', "steps = 12": "steps = 8"}


def write_parts(folder: Path) -> tuple[Path, Path]:
    """Recipes of two parts; the second tells another shape than the first, which does not count."""
    early = write_recipe(folder / "early.toml")
    text = early.read_text(encoding="utf-8")
    for old, new in NARROW.items():
        text = text.replace(old, new)
    early.write_text(text, encoding="utf-8")
    return early, write_recipe(folder / "late.toml", top=f'after = "{early}"')


def test_the_parts_are_two_runs_one_after_the_other(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus.jsonl")
    early, late = write_parts(tmp_path)
    done = train(corpus, "--recipe", late, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert "part 1 of 2: early" in done.stderr
    assert "part 2 of 2: small" in done.stderr
    train(corpus, "--recipe", early, "--out", tmp_path / "first")
    train(corpus, "--recipe", late, "--init", tmp_path / "first", "--out", tmp_path / "second")
    assert losses(tmp_path / "run" / "early") == losses(tmp_path / "first")
    assert losses(tmp_path / "run") == losses(tmp_path / "second")
    assert len(losses(tmp_path / "run")) == 12
    assert log_lines(tmp_path / "run", "run")[0]["recipe"]["shape"]["hidden_size"] == 16
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == (
        tmp_path / "second" / "model.safetensors"
    ).read_bytes()


def test_a_run_that_was_stopped_in_a_part_goes_on_there(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus.jsonl")
    early, late = write_parts(tmp_path)
    train(corpus, "--recipe", late, "--out", tmp_path / "whole")
    run = tmp_path / "run"
    train(corpus, "--recipe", early, "--out", run / "early", "--until", 5)
    again = train(corpus, "--recipe", late, "--out", run)
    assert (again.returncode, again.stdout) == (2, "")
    assert "holds a run already" in again.stderr
    nameless = train(corpus, "--resume", "--out", run)
    assert (nameless.returncode, nameless.stdout) == (2, "")
    assert "holds earlier parts of a run alone" in nameless.stderr
    first = train(corpus, "--recipe", late, "--out", run, "--resume", "--until", 3)
    assert first.returncode == 0, first.stderr
    assert "going on after 5 steps" in first.stderr
    (run / "checkpoint.safetensors").unlink()  # as if it had been killed between the parts,
    (run / "early" / "model.safetensors").write_bytes((run / "model.safetensors").read_bytes())  # its model not written
    again = train(corpus, "--recipe", late, "--out", run, "--resume", "--until", 3)
    assert again.returncode == 0, again.stderr
    assert "part 1" not in again.stderr
    last = train("--out", run, "--resume")
    assert last.returncode == 0, last.stderr
    assert "part 1" not in last.stderr
    assert losses(run / "early") == losses(tmp_path / "whole" / "early")
    assert losses(run) == losses(tmp_path / "whole")


def test_a_given_tokenizer_is_that_of_all_parts(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus.jsonl")
    _, late = write_parts(tmp_path)
    text = ("--set", "schedule.warmup=1", "--set", "schedule.decay=0", "--steps", 1, "--tokenizer", resolve("stories"))
    done = train(corpus, "--recipe", late, "--out", tmp_path / "run", *text)
    assert done.returncode == 0, done.stderr
    for folder in (tmp_path / "run", tmp_path / "run" / "early"):
        assert Tokenizer.from_folder(folder).vocab_size == 4096


@pytest.mark.parametrize(
    ("assignment", "message"),
    [("shape.heads=2", "the shape is that of the recipe early"), ("after=nowhere", "no recipe 'nowhere'")],
)
def test_what_does_not_fit_is_refused_before_any_work(tmp_path: Path, assignment: str, message: str) -> None:
    _, late = write_parts(tmp_path)
    done = train(tmp_path, "--recipe", late, "--out", tmp_path / "run", "--set", assignment)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_recipe_that_goes_on_from_itself_is_refused(tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "a.toml", top=f'after = "{tmp_path / "b.toml"}"')
    write_recipe(tmp_path / "b.toml", top=f'after = "{path}"')
    with pytest.raises(UsageError, match="goes on from itself"):
        parts_before(str(path))


def test_the_built_in_model_is_made_in_three_parts() -> None:
    parts = parts_before(read_recipe("stories").after)
    assert [part.name for part in parts] == ["stories-first", "stories-second"]
    whole: dict[str, Any] = as_table(plan(Asked(corpus=(Path("c.txt"),), recipe="stories")).recipe)
    assert whole["shape"] == as_table(parts[0])["shape"] == as_table(parts[1])["shape"]
    assert whole["shape"]["kv_heads"] == 2
