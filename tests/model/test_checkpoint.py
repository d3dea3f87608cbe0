"""Loading: single and sharded files, no copies, dtypes, and a named error for everything that is wrong."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from llmcli.errors import CheckpointError, ModelError, ModelNotFoundError, UsageError
from llmcli.model.checkpoint import load_model
from llmcli.model.header import read_header, read_headers

from .conftest import Pair, assert_close, text
from .folders import copy_folder, edit_config, edit_tensors, read_raw_header, shard, write_raw_header

Pairs = Callable[[str], Pair]
NORM = "model.layers.1.input_layernorm.weight"


@pytest.fixture
def folder(pairs: Pairs, tmp_path: Path) -> Path:
    """A tiny llama checkpoint to damage."""
    return copy_folder(pairs("llama").folder, tmp_path / "llama")


@pytest.fixture
def sharded(folder: Path) -> Path:
    return shard(folder)


def refused(folder: Path, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as error:
        load_model(folder)
    assert "\n" not in str(error.value)
    assert error.value.remedy


@torch.inference_mode()
def test_sharded_equals_single(pairs: Pairs, sharded: Path) -> None:
    ids = text(20)
    assert torch.equal(load_model(sharded)(ids), pairs("llama").ours(ids))
    single = read_headers(pairs("llama").folder)
    assert {n: (t.shape, t.dtype, t.size) for n, t in read_headers(sharded).items()} == {
        n: (t.shape, t.dtype, t.size) for n, t in single.items()
    }


def test_the_model_is_ready_to_run(pairs: Pairs) -> None:
    model = pairs("llama-tied-mqa").ours
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    assert model.lm_head.weight is model.embedding.weight


@pytest.mark.parametrize("name", ["llama", "gpt2", "phi3"])
def test_weights_of_the_right_dtype_are_not_copied(pairs: Pairs, name: str) -> None:
    """Every parameter lies in a mapping of the file: fused and transposed weights are views, too."""
    pair = pairs(name)
    model = load_model(pair.folder)
    maps = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if str(pair.folder) in line]
    ranges = [tuple(int(end, 16) for end in fields[0].split("-")) for fields in maps]
    for parameter in model.parameters():
        assert any(low <= parameter.data_ptr() < high for low, high in ranges)


def test_loading_imports_nothing_heavy(folder: Path) -> None:
    """Without an initialiser on the meta device, sympy and 800 other modules stay out: more than a second."""
    code = "import sys; from llmcli.model.checkpoint import load_model; load_model(sys.argv[1]);"
    code += "assert not {'sympy', 'torch._dynamo', 'transformers', 'safetensors'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code, folder], check=True, timeout=60)


def test_weights_may_be_written_without_changing_the_file(folder: Path) -> None:
    before = (folder / "model.safetensors").read_bytes()
    load_model(folder).embedding.weight.zero_()
    assert (folder / "model.safetensors").read_bytes() == before


@torch.inference_mode()
@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16, torch.float64])
def test_dtypes(pairs: Pairs, folder: Path, stored: torch.dtype) -> None:
    """Converted to float32 the model is the one whose weights were rounded once; `stored` keeps what is there."""
    edit_tensors(folder, lambda t: t.update({k: v.to(stored) for k, v in t.items()}))
    ids = text(20)
    model = load_model(folder)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    rounded = load_model(pairs("llama").folder)
    for parameter in rounded.parameters():
        parameter.copy_(parameter.to(stored).float())
    assert torch.equal(model(ids), rounded(ids))
    kept = torch.float32 if stored == torch.float64 else stored
    as_stored = load_model(folder, dtype="stored")
    assert {p.dtype for p in as_stored.parameters()} == {kept}
    assert_close(as_stored(ids), model(ids), 0.1)


def test_mixed_dtypes_are_run_in_float32(folder: Path) -> None:
    edit_tensors(folder, lambda t: t.update({NORM: t[NORM].bfloat16()}))
    assert {p.dtype for p in load_model(folder, dtype="stored").parameters()} == {torch.float32}
    with pytest.raises(UsageError, match="int3"):
        load_model(folder, dtype="int3")


@torch.inference_mode()
def test_a_data_section_off_its_alignment(pairs: Pairs, folder: Path) -> None:
    path = folder / "model.safetensors"
    header, data = read_raw_header(path)
    padded = json.dumps(header).encode()
    padded += b" " * (1 - len(padded) % 8)
    write_raw_header(path, padded, data)
    assert (8 + len(padded)) % 4
    model, ids = load_model(folder), text(9)
    assert all(p.data_ptr() % p.element_size() == 0 for p in model.parameters())
    assert torch.equal(model(ids), pairs("llama").ours(ids))


@torch.inference_mode()
def test_a_stored_head_of_a_tied_model(pairs: Pairs, tmp_path: Path) -> None:
    """Equal to the embedding table it is the same one; different, it counts, as in `transformers`."""
    from transformers import AutoModelForCausalLM

    folder = copy_folder(pairs("llama-tied-mqa").folder, tmp_path / "tied")
    edit_tensors(folder, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()}))
    model = load_model(folder)
    assert model.lm_head.weight is model.embedding.weight
    edit_tensors(folder, lambda t: t.update({"lm_head.weight": t["lm_head.weight"] * 2}))
    theirs = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    assert_close(load_model(folder)(text(9)), theirs(text(9)).logits, 1e-4)


def test_missing(folder: Path) -> None:
    edit_tensors(folder, lambda t: t.__delitem__(NORM))
    refused(folder, f"tensor {NORM} is missing")


def test_unexpected(folder: Path) -> None:
    edit_tensors(folder, lambda t: t.update({"model.layers.0.self_attn.q_proj.bias": torch.zeros(48)}))
    refused(folder, r"tensor 'model.layers.0.self_attn.q_proj.bias' is unexpected")


def test_hostile_names_are_escaped(folder: Path) -> None:
    edit_tensors(folder, lambda t: t.update({"\x1b[2Jx": torch.zeros(1)}))
    refused(folder, r"'\\x1b\[2Jx' is unexpected")


def test_misshapen(folder: Path) -> None:
    edit_tensors(folder, lambda t: t.update({NORM: torch.zeros(47)}))
    refused(folder, rf"tensor {NORM} is misshapen: \(47,\), but config.json asks for \(48,\)")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_not_finite(folder: Path, value: float, dtype: torch.dtype) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        tensors[NORM][7] = value
        tensors[NORM] = tensors[NORM].to(dtype)

    edit_tensors(folder, spoil)
    refused(folder, f"tensor {NORM} holds numbers that are not finite")


def test_too_large_for_the_dtype_asked_for(folder: Path) -> None:
    edit_tensors(folder, lambda t: t.update({NORM: t[NORM].fill_(1e6)}))
    load_model(folder)
    with pytest.raises(CheckpointError, match=f"tensor {NORM} holds numbers too large for float16"):
        load_model(folder, dtype="float16")


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool, torch.float8_e4m3fn])
def test_wrong_dtype(folder: Path, dtype: torch.dtype) -> None:
    edit_tensors(folder, lambda t: t.update({NORM: t[NORM].to(dtype)}))
    refused(folder, f"tensor {NORM} has dtype")


def test_stored_twice(pairs: Pairs, tmp_path: Path) -> None:
    folder = copy_folder(pairs("gpt_neox").folder, tmp_path / "neox")
    both = {"lm_head.weight": torch.zeros(101, 48), "embed_out.weight": torch.zeros(101, 48)}
    refused(edit_tensors(folder, lambda t: t.update(both)), "stored twice")


def test_more_layers_than_the_file_could_hold(folder: Path) -> None:
    refused(edit_config(folder, num_hidden_layers=4000), "4000 layers")


def test_sizes_beyond_memory_are_refused_before_it_is_taken(folder: Path) -> None:
    sizes = {"vocab_size": 2**31 - 1, "hidden_size": 2**20, "head_dim": 2**20, "num_attention_heads": 2**20}
    sizes |= {"num_key_value_heads": 2**20, "intermediate_size": 2**26}
    refused(edit_config(folder, **sizes), "misshapen")


@pytest.mark.parametrize("other", ["pytorch_model.bin", "model.gguf", "consolidated.00.pth", "model.ckpt"])
def test_other_formats_are_refused_naming_safetensors(folder: Path, other: str) -> None:
    (folder / "model.safetensors").rename(folder / other)
    refused(folder, other)
    with pytest.raises(CheckpointError) as error:
        load_model(folder)
    assert "safetensors" in error.value.remedy


def test_no_weights_and_no_folder(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    refused(folder, r"no model\.safetensors")
    with pytest.raises(ModelNotFoundError):
        load_model(folder / "nothing")


# --- the header -------------------------------------------------------------------------------------------------------


def lie(header: dict[str, Any], **changes: Any) -> dict[str, Any]:
    header[NORM] |= changes
    return header


HEADERS: list[tuple[str, Callable[[dict[str, Any]], Any], str]] = [
    ("shape", lambda h: lie(h, shape=[2**40, 2**40]), "cannot lie"),
    ("negative", lambda h: lie(h, shape=[-48]), "not whole numbers"),
    ("float", lambda h: lie(h, shape=[48.0]), "not whole numbers"),
    ("bool", lambda h: lie(h, shape=[True]), "not whole numbers"),
    ("huge", lambda h: lie(h, shape=[10**30]), "not whole numbers"),
    ("no list", lambda h: lie(h, shape=None), "not whole numbers"),
    ("dtype", lambda h: lie(h, dtype="F31"), "dtype"),
    ("dtype list", lambda h: lie(h, dtype=["F32"]), "dtype"),
    ("narrow", lambda h: lie(h, dtype="F16"), "cannot lie"),
    ("backwards", lambda h: lie(h, data_offsets=h[NORM]["data_offsets"][::-1]), "cannot lie"),
    ("three", lambda h: lie(h, data_offsets=[0, 1, 2]), "not whole numbers"),
    ("overlap", lambda h: lie(h, data_offsets=[0, 192]), "overlaps"),
    ("beyond", lambda h: lie(h, data_offsets=[2**40, 2**40 + 192]), "hole"),
    ("hole", lambda h: {k: v for k, v in h.items() if k != NORM}, "hole"),
    ("no entry", lambda h: h | {NORM: [1]}, "has no dtype"),
    ("metadata", lambda h: h | {"__metadata__": 3}, "__metadata__"),
    ("list", lambda _: [1, 2], "not a JSON object"),
    ("not json", lambda _: b"{" * 40, "not valid JSON"),
    ("deep", lambda _: b'{"a":' + b"[" * 200_000, "not valid JSON"),
    ("not utf-8", lambda _: b'{"\xff": 1}', "not valid JSON"),
    ("twins", lambda h: json.dumps(h)[:-1].encode() + b', "a": {}, "a": {}}', "stands twice"),
]


@pytest.mark.parametrize(("edit", "message"), [h[1:] for h in HEADERS], ids=[h[0] for h in HEADERS])
def test_headers_that_lie(folder: Path, edit: Callable[[dict[str, Any]], Any], message: str) -> None:
    path = folder / "model.safetensors"
    header, data = read_raw_header(path)
    write_raw_header(path, edit(header), data)
    refused(folder, message)


@pytest.mark.parametrize("keep", [0, 1, 7, 8, 9, 40, -1, -200])
def test_truncated(folder: Path, keep: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    refused(folder, "not a safetensors file|cut off")


def test_extra_bytes(folder: Path) -> None:
    with (folder / "model.safetensors").open("ab") as file:
        file.write(b"\0" * 5)
    refused(folder, "belong to no tensor")


@pytest.mark.parametrize("length", [0, 1, 2**63, 2**64 - 1, 100_000_001])
def test_header_lengths(folder: Path, length: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + path.read_bytes()[8:])
    if length == 100_000_001:
        os.truncate(path, 2 * length)  # sparse: the length is possible, and yet too large
    refused(folder, "cannot hold a header")


def test_header_gives_names_shapes_and_bytes(folder: Path) -> None:
    tensors = read_header(folder / "model.safetensors")
    norm = tensors[NORM]
    assert (norm.dtype, norm.shape, norm.size) == ("F32", (48,), 192)
    data = (folder / "model.safetensors").read_bytes()[norm.start : norm.start + norm.size]
    value = torch.frombuffer(bytearray(data), dtype=torch.float32)
    assert torch.equal(value, load_model(folder).blocks[1].attention_norm.weight)


# --- the index --------------------------------------------------------------------------------------------------------


def edit_index(folder: Path, edit: Callable[[dict[str, str]], Any]) -> None:
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    path.write_text(json.dumps({"weight_map": edit(index["weight_map"])}))


@pytest.mark.parametrize(
    "target",
    [
        "../other.safetensors",
        "/etc/passwd",
        "/tmp/x.safetensors",
        "sub/x.safetensors",
        "..",
        "",
        "x.bin",
        "a\0.safetensors",
        "..\\x.safetensors",
        "n" * 5000 + ".safetensors",
        "\ud800.safetensors",
    ],
)
def test_an_index_that_leaves_the_folder(sharded: Path, target: str) -> None:
    (sharded.parent / "other.safetensors").write_bytes((sharded / "model-00001-of-00003.safetensors").read_bytes())
    edit_index(sharded, lambda m: dict.fromkeys(m, target))
    with pytest.raises(CheckpointError, match=r"which is not one of this folder|which is missing"):
        load_model(sharded)


def test_a_shard_that_is_a_link(sharded: Path) -> None:
    """Into the hub cache's blobs it may lead; anywhere else it leaves the folder."""
    path = sharded / "model-00002-of-00003.safetensors"
    outside = path.rename(sharded.parent / "elsewhere.safetensors")
    path.symlink_to(outside)
    refused(sharded, "is a link that leaves the folder")
    snapshot = sharded.parent / "repo" / "snapshots" / "abc"
    snapshot.parent.mkdir(parents=True)
    sharded.rename(snapshot)
    blobs = sharded.parent / "repo" / "blobs"
    blobs.mkdir()
    linked = snapshot / path.name
    linked.unlink()
    linked.symlink_to(Path("..") / ".." / "blobs" / "1234")
    outside.rename(blobs / "1234")
    load_model(snapshot)


INDEXES: list[tuple[Callable[[dict[str, str]], Any], str]] = [
    (lambda m: {k: v for k, v in m.items() if k != NORM}, "does not place tensor"),
    (lambda m: m | {"extra.weight": "model-00001-of-00003.safetensors"}, "does not hold it"),
    (lambda m: m | {NORM: "model-00004-of-00003.safetensors"}, "is missing"),
    (lambda m: m | {NORM: 3}, "does not map"),
    (lambda m: list(m), "does not map"),
    (lambda _: None, "does not map"),
    (lambda _: {}, "missing|0 tensors"),
]


@pytest.mark.parametrize(("edit", "message"), INDEXES)
def test_an_index_that_is_wrong(sharded: Path, edit: Callable[[dict[str, str]], Any], message: str) -> None:
    edit_index(sharded, edit)
    refused(sharded, message)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff", b"[" * 100_000])
def test_not_an_index(sharded: Path, content: bytes) -> None:
    (sharded / "model.safetensors.index.json").write_bytes(content)
    with pytest.raises(ModelError):
        load_model(sharded)
