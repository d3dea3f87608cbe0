"""Sound inputs of every kind, and ways to damage them, for `fuzz.py`."""

import json
import os
import random
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

# A command line, what stands on its stdin, and how many bytes of input there are.
Input = tuple[list[str], bytes, int]

TEXTS = [
    "ab",
    "",
    "The old house",
    "naïve 日本 👩‍👩‍👧",
    "\x1b]52;c;aGk=\x07",
    "\u202eabc",
    "a\u0301" * 40,
    "<|eos|>",
    "[bold]x",
]
NUMBERS = ["0", "-1", "1", "3", "0.5", "nan", "inf", "-inf", "1e999", "9" * 30, "0x10", "٣", "", " ", "1,2", "2**9"]
VALUES: list[Any] = [
    None,
    True,
    0,
    -1,
    1,
    2**31,
    2**63,
    2**70,
    1e308,
    0.5,
    "",
    "a",
    "\ud800",
    "\u202e",
    [],
    {},
    [[]],
    {"a": 1},
]
VALUES += ["x" * 5000, [1] * 500, float("nan"), float("-inf"), "../../etc/passwd", "\x1b[2J", "F64", "llama"]
SCHEMA = '{"type":"object","properties":{"a":{"type":"string","maxLength":4},"b":{"enum":[1,2]}},"required":["a"]}'
LARK = 'start: "<" word+ ">"\nword: /[a-c]{1,3}/ | NUMBER\nNUMBER: /[0-9]+/\n'


class Bench:
    """A folder with a tiny sound model, split over two files, and one file of every other kind."""

    def __init__(self, folder: Path) -> None:
        os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hub"), "XDG_CONFIG_HOME": str(folder / "config")}
        from tiny import write_model

        from llmcli.__main__ import run

        self.folder = folder
        self.model = write_model(folder / "model")
        self._split()
        self._whole = {path: path.read_bytes() for path in self.model.iterdir()}
        self.record = folder / "run.json"
        run(
            [
                "generate",
                "-q",
                "-m",
                str(self.model),
                "--seed",
                "1",
                "-n",
                "4",
                "--record",
                str(self.record),
                "--json",
                "ab",
            ]
        )
        recipes = Path(__import__("llmcli").__file__).parent / "train" / "recipes"
        self.recipe = (recipes / "smoke.toml").read_bytes()
        self.sound_record = self.record.read_bytes()
        os.environ["LLMCLI_MODEL"] = str(self.model)  # where a command line names none
        self.settings = folder / "config" / "llmcli" / "config.toml"
        self.settings.parent.mkdir(parents=True)

    def _split(self) -> None:
        """Leaves the weights in two files with an index."""
        from safetensors.numpy import load_file, save_file

        path = self.model / "model.safetensors"
        tensors = load_file(path)
        path.unlink()
        names = sorted(tensors)
        parts = {"one.safetensors": names[::2], "two.safetensors": names[1::2]}
        for file, some in parts.items():
            save_file({name: tensors[name] for name in some}, self.model / file)
        weight_map = {name: file for file, some in parts.items() for name in some}
        (self.model / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))

    def write(self, path: Path, data: bytes) -> Path:
        path.write_bytes(data)
        return path

    def restore(self) -> None:
        """Everything as it was."""
        for path, data in self._whole.items():
            if not path.is_file() or path.read_bytes() != data:
                path.write_bytes(data)
        self.settings.unlink(missing_ok=True)

    def generate(self, *more: str) -> list[str]:
        return ["generate", "-m", str(self.model), "--threads", "1", "-n", "3", *more]


def damaged(data: bytes, draw: random.Random) -> bytes:
    """Bytes with one to eight places changed, repeated, cut out or swapped; now and then cut short."""
    out = bytearray(data)
    for _ in range(draw.choice([1, 1, 1, 2, 4, 8])):
        at, size = draw.randrange(len(out) + 1), draw.choice([1, 1, 2, 4, 30])
        match draw.randrange(6):
            case 0:
                out[at : at + size] = draw.randbytes(size)
            case 1:
                del out[at : at + size]
            case 2:
                out[at:at] = out[at : at + size] * draw.choice([1, 2, 50])
            case 3:
                out[at:at] = draw.choice(
                    [b"\x00", b"\xff", b'"', b"{", b"}", b"[", b",", b"\xf0\x9f", b"\xe2\x80\xae", b"-", b"9" * 400]
                )
            case 4:
                del out[at:]
            case _ if out:
                out[at % len(out)] ^= 1 << draw.randrange(8)
    return bytes(out)


def damaged_json(data: bytes, draw: random.Random) -> bytes:
    """JSON with values of a few places replaced, removed, repeated or nested; half the time damaged as bytes."""
    if draw.random() < 0.4:
        return damaged(data, draw)
    tree = json.loads(data)
    for _ in range(draw.choice([1, 1, 2, 5])):
        _change(tree, draw)
    if draw.random() < 0.02:
        return b"[" * 100_000
    return json.dumps(tree, ensure_ascii=draw.random() < 0.5).encode("utf-8", "surrogatepass")


def _change(tree: Any, draw: random.Random) -> None:
    places: list[tuple[Any, Any]] = []
    todo = [tree]
    while todo and len(places) < 3000:
        node = todo.pop()
        pairs = (
            list(node.items()) if isinstance(node, dict) else list(enumerate(node)) if isinstance(node, list) else []
        )
        places += [(node, key) for key, _ in pairs]
        todo += [value for _, value in pairs if isinstance(value, dict | list)]
    if not places:
        return
    # Few of the places of a large vocabulary, so that the others are reached too.
    node, key = draw.choice([each for each in places if len(each[0]) < 40] or places)
    match draw.randrange(5):
        case 0:
            del node[key]
        case 1 if isinstance(node, dict):
            node[draw.choice(["", "a", "type", "\x1b[31m", str(key) + "x"])] = deepcopy(draw.choice(VALUES))
        case 2 if isinstance(node[key], int | float) and not isinstance(node[key], bool):
            node[key] = draw.choice([node[key] * 2, -node[key], node[key] + 1, node[key] * 1e9, str(node[key])])
        case 3:
            node[key] = [node[key]]
        case _:
            node[key] = deepcopy(draw.choice(VALUES))


def header(bench: Bench, draw: random.Random) -> Input:
    path = bench.model / draw.choice(["one.safetensors", "two.safetensors"])
    blob = path.read_bytes()
    size = int.from_bytes(blob[:8], "little")
    text = damaged_json(blob[8 : 8 + size], draw)
    told = (
        len(text) if draw.random() < 0.8 else draw.choice([0, len(text) + 1, 2**63, 2**64 - 1, draw.randrange(10**6)])
    )
    return _whole_model(bench, draw, path, told.to_bytes(8, "little") + text + blob[8 + size :])


def _file_of_the_model(name: str) -> Callable[[Bench, random.Random], Input]:
    def make(bench: Bench, draw: random.Random) -> Input:
        path = bench.model / name
        return _whole_model(bench, draw, path, damaged_json(path.read_bytes(), draw))

    return make


def _whole_model(bench: Bench, draw: random.Random, path: Path, data: bytes) -> Input:
    bench.write(path, data)
    command = draw.choice(
        [bench.generate("ab"), ["inspect-model", "-m", str(bench.model)], ["tokenize", "-m", str(bench.model), "ab"]]
    )
    return command, b"", len(data)


def ids(bench: Bench, draw: random.Random) -> Input:
    words = [
        draw.choice([*NUMBERS, str(draw.randrange(300)), "[1, 2]", "\x1b[31m"]) for _ in range(draw.randrange(1, 6))
    ]
    command = draw.choice(
        [["decode", "-m", str(bench.model)], ["explain", "-m", str(bench.model), "--only", "embedding", "--ids"]]
    )
    if draw.random() < 0.5:
        return [*command, "--", *words], b"", 0
    data = damaged(" ".join(words).encode(), draw)
    return command, data, len(data)


_FLAGS = [
    "--temperature", "--top-k", "--top-p", "--min-p", "--typical-p", "--seed", "--max-tokens", "--stop", "--logit-bias",
    "--ban", "--mirostat", "--samplers", "--logprobs", "--context", "--truncate", "--device", "--color", "--regex",
    "--choice", "--json-schema", "--grammar", "--no-repeat-ngram", "--dry-multiplier", "--xtc-probability", "--system",
    "--repetition-penalty", "--penalty-window", "--min-tokens", "--file", "--model", "--nonsense", "-n", "-", "--",
]  # fmt: skip
_SWITCHES = [
    "--json",
    "--jsonl",
    "--events",
    "--trace",
    "--greedy",
    "--echo",
    "--show-tokens",
    "--chat",
    "--stats",
    "-q",
]
_COMMANDS = [
    "generate",
    "tokenize",
    "decode",
    "inspect-logits",
    "inspect-attention",
    "inspect-cache",
    "inspect-positions",
]
_COMMANDS += ["explain", "perplexity", "models", "config", "completions", "replay", "nonsense"]


def options(bench: Bench, draw: random.Random) -> Input:
    command = draw.choice(["generate"] * 8 + _COMMANDS)
    words = [command, *(["-m", str(bench.model), "-n", "3"] if command == "generate" else [])]
    for _ in range(draw.randrange(1, 5)):
        if draw.random() < 0.3:
            words.append(draw.choice(_SWITCHES))
        else:
            words += [draw.choice(_FLAGS), draw.choice([*NUMBERS, *TEXTS, "temperature,top-k", "65=1", "auto"])]
    words.append(draw.choice([*TEXTS, "--", "-x"]))
    return [each.replace("\0", "") for each in words], b"ab", 0


def recipe(bench: Bench, draw: random.Random) -> Input:
    data = damaged(bench.recipe, draw)
    if draw.random() < 0.6:
        lines = bench.recipe.decode().splitlines()
        settable = [index for index, line in enumerate(lines) if " = " in line]
        for _ in range(draw.choice([1, 2])):
            index = draw.choice(settable)
            value = draw.choice(
                ['""', "0", "-1", "nan", "inf", "1e400", "[]", "{}", "true", '"x"', "9" * 40, "1979-05-27", "'\\x1b'"]
            )
            lines[index] = lines[index].partition(" = ")[0] + " = " + value
        data = "\n".join(lines).encode()
    path = bench.write(bench.folder / "recipe.toml", data)
    return (
        ["train", str(bench.folder / "absent.txt"), "--recipe", str(path), "--out", str(bench.folder / "out")],
        b"",
        len(data),
    )


def prompt(bench: Bench, draw: random.Random) -> Input:
    data = damaged("".join(draw.choice(TEXTS) for _ in range(draw.randrange(1, 6))).encode(), draw)
    model = ["-m", str(bench.model)]
    commands = [bench.generate(), bench.generate("--chat"), bench.generate("--parse-special"), ["tokenize", *model]]
    commands += [["tokenize", "--json", "--per-line", *model], ["perplexity", *model, "-"]]
    commands += [["inspect-logits", *model], ["inspect-attention", *model]]
    command = draw.choice(commands)
    return command, data, len(data)


def record(bench: Bench, draw: random.Random) -> Input:
    data = damaged_json(bench.sound_record, draw)
    return ["replay", "-m", str(bench.model), str(bench.write(bench.folder / "broken.json", data))], b"", len(data)


def constraint(bench: Bench, draw: random.Random) -> Input:
    name = draw.choice(["--json-schema", "--grammar", "--regex"])
    if name == "--regex":
        pattern = damaged(b"(ab|[c-f]{2,3})+\\d?(?i:x)", draw).decode("utf-8", "replace").replace("\0", "")
        return bench.generate(name, pattern, "ab"), b"", len(pattern)
    data = damaged_json(SCHEMA.encode(), draw) if name == "--json-schema" else damaged(LARK.encode(), draw)
    return bench.generate(name, str(bench.write(bench.folder / "constraint", data)), "ab"), b"", len(data)


def settings(bench: Bench, draw: random.Random) -> Input:
    data = damaged(b'model = "stories"\nseed = 3\ntemperature = 0.5\ncolor = "never"\n', draw)
    bench.write(bench.settings, data)
    return draw.choice([["config", "show"], bench.generate("ab")]), b"", len(data)


KINDS: dict[str, Callable[[Bench, random.Random], Input]] = {
    "header": header,
    "config.json": _file_of_the_model("config.json"),
    "tokenizer.json": _file_of_the_model("tokenizer.json"),
    "tokenizer_config.json": _file_of_the_model("tokenizer_config.json"),
    "index": _file_of_the_model("model.safetensors.index.json"),
    "ids": ids,
    "options": options,
    "recipe": recipe,
    "prompt": prompt,
    "record": record,
    "constraint": constraint,
    "settings": settings,
}
