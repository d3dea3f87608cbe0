"""The tree of modules beside the loaded model, and a folder of a hundred gigabytes that is only headers."""

import json
import subprocess
import sys
from math import prod

import pytest
import torch
from model.folders import edit_config, edit_tensors, shard
from model.variants import VARIANTS
from tiny_families import EVERY, pair, some_ids
from torch.utils.flop_counter import FlopCounterMode

from llmcli.errors import CheckpointError
from llmcli.inspect.model_tree import cache_bytes, model_shape
from llmcli.model.cache import KVCache
from llmcli.model.checkpoint import load_model
from llmcli.model.config import ModelConfig

NAMES = (*EVERY, "gpt2-untied", "gpt_neox-quarter", "llama-mha-biases", "llama-tied-mqa", "phi3-partial-sliding")


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_has_its_place_and_shape(name):
    shape = model_shape(pair(name).folder)
    model = load_model(pair(name).folder)
    assert {w.name: w.shape for w in shape.weights} == {n: tuple(p.shape) for n, p in model.named_parameters()}
    assert shape.parameters == pair(name).reference.num_parameters()
    assert sum(shape.bytes.values()) == 4 * shape.parameters
    assert shape.groups["other"] == 0
    assert shape.unknown == []
    assert shape.tied == model.config.tied == (shape.groups["lm_head"] == 0)


def test_groups_are_what_their_names_say():
    groups = model_shape(pair("gemma3").folder).groups
    model = load_model(pair("gemma3").folder)
    norms = sum(p.numel() for n, p in model.named_parameters() if p.dim() == 1)
    assert groups["norms"] == norms  # q_norm and k_norm among them
    ffn = sum(p.numel() for n, p in model.named_parameters() if ".ffn." in n)
    assert groups["feed-forward"] == ffn
    assert groups["embedding"] == model.embedding.weight.numel()


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "gpt_neox", "qwen3"])
def test_operations_equal_those_that_torch_counts(name):
    model = load_model(pair(name).folder)  # its matrices as plain parameters, whose products torch counts
    shape = model_shape(pair(name).folder)

    def counted(tokens: int) -> int:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(torch.tensor([some_ids(tokens)]))
        counts = counter.get_flop_counts()["Global"]
        return sum(int(counts.get(each, 0)) for each in (torch.ops.aten.mm, torch.ops.aten.addmm))

    # Attention's own products are batched ones, bmm, and are not among these.
    assert counted(6) - counted(5) == shape.operations.weights


def test_operations_of_attention():
    shape = model_shape(pair("gemma2").folder)  # 4 layers, two of them see 9 keys; 4 heads of 16
    assert shape.operations.per_key == 4 * 4 * 4 * 16
    assert shape.operations.first - shape.operations.weights == 4 * (4 * 4 * 16)
    assert shape.operations.last - shape.operations.weights == (4 * 4 * 16) * (2 * 128 + 2 * 9)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "mistral", "qwen2-layer-types"])
def test_cache_bytes_are_those_of_the_keys_that_can_be_seen(name):
    pipeline = pair(name).pipeline
    config = pipeline.model.config
    seen = []

    class Keys:
        def __call__(self, point, layer, value):  # noqa: ARG002
            if point == "weights":
                seen.append(int((value[0, :, -1] > 0).any(0).sum()))  # keys in the last query's sight
            return value

        def heads(self, layer):  # noqa: ARG002
            return range(config.num_heads)

    for length in (1, 7, 40):
        seen.clear()
        with torch.no_grad():
            pipeline.model(torch.tensor([some_ids(length)]), KVCache(config), tap=Keys())
        assert cache_bytes(config, length, 4) == sum(seen) * 2 * config.num_kv_heads * config.head_dim * 4
    shape = model_shape(pair(name).folder)
    assert shape.cache[0].dtype == "float32"
    assert shape.cache[0].per_token == cache_bytes(config, 1, 4)
    assert shape.cache[0].context == cache_bytes(config, 128, 4)


def test_runs_of_blocks_that_are_alike(tmp_path):
    assert [(run.first, run.last) for run in model_shape(pair("gemma2").folder).blocks] == [(0, 3)]

    def half(tensors):
        name = "model.layers.1.mlp.up_proj.weight"
        tensors[name] = tensors[name].bfloat16()

    runs = model_shape(edit_tensors(copied("llama", tmp_path / "x"), half)).blocks
    assert [(run.first, run.last) for run in runs] == [(0, 0), (1, 1), (2, 2)]
    shape = model_shape(pair("llama").folder)
    assert [run.parameters for run in shape.blocks] == [
        sum(weight.count for weight in shape.weights if weight.name.startswith("blocks.0."))
    ]


def copied(name, folder):
    import shutil

    return shutil.copytree(pair(name).folder, folder)


def test_shards_are_the_same_as_one_file(tmp_path):
    whole, parts = model_shape(pair("llama").folder), model_shape(shard(copied("llama", tmp_path / "x")))
    assert [(w.name, w.shape) for w in whole.weights] == [(w.name, w.shape) for w in parts.weights]
    assert (whole.files, parts.files) == (1, 3)


def test_dtypes_are_told_apart(tmp_path):
    def half(tensors):
        for name in tensors:
            if "norm" not in name:
                tensors[name] = tensors[name].bfloat16()

    shape = model_shape(edit_tensors(copied("llama", tmp_path / "x"), half))
    norms = shape.groups["norms"]
    assert shape.bytes == {"BF16": 2 * (shape.parameters - norms), "F32": 4 * norms}


def test_a_tied_head_that_is_stored_is_counted_once_and_said(tmp_path):
    def store(tensors):
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()

    shape = model_shape(edit_tensors(copied("llama-tied-mqa", tmp_path / "x"), store))
    assert shape.stored_twice
    assert shape.tied
    assert shape.parameters == model_shape(pair("llama-tied-mqa").folder).parameters


def test_tensors_of_no_module_are_named(tmp_path):
    def add(tensors):
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(6)
        tensors["model.other.weight"] = torch.zeros(6)

    shape = model_shape(edit_tensors(copied("llama", tmp_path / "x"), add))
    assert shape.unknown == ["model.layers.0.self_attn.rotary_emb.inv_freq", "model.other.weight"]


def test_files_that_do_not_fit_the_config(tmp_path):
    with pytest.raises(CheckpointError, match="names 4 layers"):
        model_shape(edit_config(copied("llama", tmp_path / "a"), num_hidden_layers=4, layer_types=...))
    with pytest.raises(CheckpointError, match=r"no tensor holds lm_head\.weight"):
        model_shape(edit_config(copied("llama-tied-mqa", tmp_path / "b"), tie_word_embeddings=False))
    with pytest.raises(CheckpointError, match="misshapen"):
        model_shape(edit_config(copied("phi3", tmp_path / "c"), num_key_value_heads=1))


LARGE = {
    "model_type": "llama",
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 60,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}


def large_folder(folder):
    """A model of more than 100 GB in shards that are one header and a hole each."""
    (folder / "config.json").write_text(json.dumps(LARGE))
    hidden, inner, kv = LARGE["hidden_size"], LARGE["intermediate_size"], 1024
    layer = {
        "input_layernorm": (hidden,),
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (kv, hidden),
        "self_attn.v_proj": (kv, hidden),
        "self_attn.o_proj": (hidden, hidden),
        "post_attention_layernorm": (hidden,),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    parts = [
        {f"model.layers.{i}.{n}.weight": shape for n, shape in layer.items()} for i in range(LARGE["num_hidden_layers"])
    ]
    ends = {"model.embed_tokens.weight": (LARGE["vocab_size"], hidden), "lm_head.weight": (LARGE["vocab_size"], hidden)}
    parts.append(ends | {"model.norm.weight": (hidden,)})
    weight_map, total = {}, 0
    for i, part in enumerate(parts):
        file, header, end = f"model-{i:05d}.safetensors", {}, 0
        for name, shape in part.items():
            size = 2 * prod(shape)
            header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + size]}
            weight_map[name] = file
            end += size
        text = json.dumps(header).encode()
        with (folder / file).open("wb") as out:
            out.write(len(text).to_bytes(8, "little") + text)
            out.truncate(8 + len(text) + end)
        total += end
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return total


def test_a_folder_of_a_hundred_gigabytes_is_read_by_its_headers_alone(tmp_path):
    total = large_folder(tmp_path)
    assert total > 100e9
    code = """
import sys
from pathlib import Path
from llmcli.__main__ import run
code = run(["inspect-model", "-m", sys.argv[1], "--json"])
status = Path("/proc/self/status")
peak = status.read_text().split("VmHWM:")[1].split()[0] if status.exists() else 0  # KiB
print(code, "torch" in sys.modules, peak, file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True, timeout=120
    )
    exit_code, torch_loaded, peak = done.stderr.split()
    assert (exit_code, torch_loaded) == ("0", "False")
    assert int(peak) < 200_000  # the interpreter and numpy among them
    data = json.loads(done.stdout)
    assert data["bytes"] == {"BF16": total}
    assert data["parameters"] == total // 2
    assert data["files"] == 61
    assert [(run["first"], run["last"]) for run in data["blocks"]] == [(0, 59)]
    inside = sum(data["groups"][part] for part in ("attention", "feed-forward", "norms"))
    assert 60 * data["blocks"][0]["parameters"] == inside - data["config"]["hidden_size"]  # but for the final norm
    assert data["cache"][0] == {"dtype": "bfloat16", "per_token": 245760, "context": 245760 * 131072}


def test_the_variants_of_the_families_are_known_here():
    assert set(NAMES) <= set(VARIANTS)
    assert isinstance(model_shape(pair("llama").folder).config, ModelConfig)
