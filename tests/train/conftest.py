"""A finished small run, made once."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from train.small import train, write_corpus, write_recipe


@dataclass(frozen=True)
class Finished:
    corpus: Path
    recipe: Path
    out: Path
    stderr: str


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("finished")
    corpus = write_corpus(folder / "corpus.jsonl")
    recipe = write_recipe(folder / "small.toml")
    done = train(corpus, "--recipe", recipe, "--out", folder / "run")
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    return Finished(corpus, recipe, folder / "run", done.stderr)
