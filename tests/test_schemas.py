"""Every document that a command writes has a schema in the package, and real ones are as their schemas say."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from tiny import write_model
from train.small import write_corpus, write_recipe

from llmcli.__main__ import run
from llmcli.cli.app import COMMANDS, load_command

# Commands with --json, and the schemas of what they write.
SCHEMAS = {
    "generate": ("generate", "generate-batch", "generate-events", "record"),
    "replay": ("replay",),
    "tokenize": ("tokenize",),
    "decode": ("decode",),
    "explain": ("explain",),
    "inspect-logits": ("inspect-logits",),
    "inspect-model": ("inspect-model",),
    "inspect-positions": ("inspect-positions",),
    "inspect-cache": ("inspect-cache",),
    "inspect-attention": ("inspect-attention",),
    "perplexity": ("perplexity",),
    "bench": ("bench",),
    "quantize": ("quantize",),
    "train": ("train", "train-export", "train-plot"),
    "models": ("models",),
    "config show": ("config",),
}
OTHERS = {"train-log"}
FOLDER = files("llmcli").joinpath("schemas")
NAMES = sorted(each.name.removesuffix(".json") for each in FOLDER.iterdir() if each.name.endswith(".json"))


def schema(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(FOLDER.joinpath(f"{name}.json").read_text("utf-8"))
    return found


def parsed(text: str) -> Any:
    """JSON as the standard has it: without NaN and Infinity."""

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


def with_json() -> set[str]:
    """The commands, and commands of commands, that take --json."""
    found = {}
    for name in COMMANDS:
        command = load_command(name)
        found |= {name: command} | {f"{name} {inner}": each for inner, each in getattr(command, "commands", {}).items()}
    return {name for name, each in found.items() if any("--json" in option.opts for option in each.params)}


def test_every_document_has_a_schema() -> None:
    assert with_json() == set(SCHEMAS)
    assert set(NAMES) == {each for names in SCHEMAS.values() for each in names} | OTHERS


@pytest.mark.parametrize("name", NAMES)
def test_a_schema_is_one_and_asks_for_its_version(name: str) -> None:
    found = schema(name)
    jsonschema.Draft202012Validator.check_schema(found)
    forms = found.get("oneOf", [found])
    if name == "train-log":
        forms = forms[:1]  # the first line speaks for the file
    for form in forms:
        merged = {"required": [], "properties": {}} | found | form
        assert "schema_version" in merged["required"]
        assert merged["properties"]["schema_version"] == {"const": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(autouse=True)
def _no_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("LLMCLI_MODEL", raising=False)


def validated(capfdbinary: Any, name: str, *arguments: object, code: int = 0) -> dict[str, Any]:
    capfdbinary.readouterr()
    assert run(list(map(str, arguments))) == code
    found: dict[str, Any] = parsed(capfdbinary.readouterr().out.decode())
    jsonschema.validate(found, schema(name))
    return found


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        ((), "tokens"),
        (("--special",), "tokens"),
        (("--count",), "counts"),
        (("--per-line",), "lines"),
        (("--check",), "same"),
    ],
    ids=str,
)
def test_tokenize(capfdbinary: Any, folder: Path, arguments: tuple[str, ...], key: str) -> None:
    assert key in validated(capfdbinary, "tokenize", "tokenize", "-m", folder, "--json", "né\nb", *arguments)
    assert key in validated(capfdbinary, "tokenize", "tokenize", "-m", folder, "--json", "", *arguments)


def test_decode(capfdbinary: Any, folder: Path) -> None:
    found = validated(capfdbinary, "decode", "decode", "-m", folder, "--json", "97,195,169", "256")
    assert (found["ids"], found["text"]) == ([97, 195, 169, 256], "aé<|bos|>")
    found = validated(capfdbinary, "decode", "decode", "-m", folder, "--json", "--skip-special", "195", "256")
    assert (found["ids"], found["text"]) == ([195], "\ufffd")


def test_tokenize_files_and_models(capfdbinary: Any, folder: Path, tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).write_text(name)
    names = [tmp_path / "a", tmp_path / "b"]
    found = validated(capfdbinary, "tokenize", "tokenize", "-m", folder, "--json", "--count", "--file", *names)
    assert [each["file"] for each in found["files"]] == list(map(str, names))
    found = validated(capfdbinary, "tokenize", "tokenize", "-m", folder, "--json", "--compare", folder, "né")
    assert len(found["models"]) == 2


@pytest.mark.parametrize("text", ["One two three.\n", "", "x", "\n"])
def test_perplexity(capfdbinary: Any, folder: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "a.txt").write_text(text)
    arguments = ("perplexity", tmp_path / "a.txt", "-m", folder, "--json", "--threads", 1, "--device", "cpu")
    if text:
        assert validated(capfdbinary, "perplexity", *arguments)["documents"] == 1
    else:
        assert run(list(map(str, arguments))) == 2


def test_speed_and_storage(capfdbinary: Any, folder: Path, tmp_path: Path) -> None:
    lengths = ("--prefill", "4", "--context", "6", "--rounds", 1, "--threads", 1, "--device", "cpu", "--no-cold")
    found = validated(capfdbinary, "bench", "bench", folder, "--json", *lengths)
    assert [len(found[each]) for each in ("prefill", "decode")] == [1, 1]
    assert validated(capfdbinary, "quantize", "quantize", folder, tmp_path / "out", "--json")["bytes"] > 0


def test_training(capfdbinary: Any, folder: Path, tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus.jsonl")
    write_recipe(tmp_path / "small.toml")
    begin = ("train", tmp_path / "corpus.jsonl", "--recipe", tmp_path / "small.toml", "--out", tmp_path / "run")
    more = ("--json", "--quiet", "--threads", 1, "--device", "cpu")
    found = validated(capfdbinary, "train", *begin, *more, "--until", 2)
    assert (found["init"], found["steps"], found["planned_steps"], found["tokens_seen"]) == ("", 2, 12, 512)
    assert (found["valid_step"], found["valid_bits_per_byte"]) == (None, None)
    found = validated(capfdbinary, "train", *begin, *more, "--resume", "--until", 6)
    assert (found["steps"], found["valid_step"]) == (6, 4)
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert (found["loss"], found["bits_per_byte"]) == (lines[-1]["loss"], lines[-1]["bits_per_byte"])
    assert [line["bits_per_byte"] for line in lines if line["kind"] == "valid"] == [found["valid_bits_per_byte"]]
    # Nothing is left to do: the log still says how it went.
    again = validated(capfdbinary, "train", *begin, *more, "--resume", "--until", 6)
    assert again | {"seconds": found["seconds"]} == found
    export = ("train", "--out", tmp_path / "run", "--export", tmp_path / "model", "--json")
    assert validated(capfdbinary, "train-export", *export) == {
        "schema_version": 1,
        "folder": str(tmp_path / "model"),
        "steps": 6,
    }
    found = validated(capfdbinary, "train", *begin[:-1], tmp_path / "tuned", *more, "--until", 1, "--init", folder)
    assert found["init"] == str(folder)


def test_training_curves(capfdbinary: Any, tmp_path: Path) -> None:
    names = []
    for size in (1000, 2000, 4000):
        lines: list[dict[str, Any]] = [{"kind": "run", "step": 0, "parameters": size, "tokens_per_step": 9}]
        lines += [{"kind": "step", "step": step, "bits_per_byte": 900 / size + step} for step in (0, 1)]
        names.append(tmp_path / f"{size}.jsonl")
        names[-1].write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = validated(capfdbinary, "train-plot", "train", "--plot", *names, "--json")
    assert [len(found["runs"]), len(found["laws"])] == [3, 2]
    names[0].write_text('{"kind": "step", "step": 0, "bits_per_byte": Infinity}\n')
    found = validated(capfdbinary, "train-plot", "train", "--plot", *names, "--json")
    assert found["laws"] == []
    assert found["runs"][0]["training"] == [[0, None]]


def test_models_and_settings(capfdbinary: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert validated(capfdbinary, "models", "models", "--json")["models"]
    monkeypatch.setenv("LLMCLI_TOP_K", "9")
    found = validated(capfdbinary, "config", "config", "show", "--json")
    assert found["settings"]["top_k"] == {"value": "9", "source": "LLMCLI_TOP_K"}


def test_a_schema_refuses_what_is_not_so(capfdbinary: Any, folder: Path) -> None:
    found = validated(capfdbinary, "tokenize", "tokenize", "-m", folder, "--json", "ab")
    for damage in ({"schema_version": 2}, {"model": None}, {"more": 1}, {"tokens": [{"id": -1}]}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(found | damage, schema("tokenize"))
    with pytest.raises(ValueError, match="NaN"):
        parsed('{"a": NaN}')
