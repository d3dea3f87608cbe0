"""config.json in all its forms: the same description from old and new keys, and named refusals."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from llmcli.errors import ConfigError, ModelNotFoundError
from llmcli.model.checkpoint import load_model
from llmcli.model.config import FULL, SLIDING, RopeConfig
from llmcli.model.families import FAMILIES, read_config

from .conftest import Pair, assert_close, text
from .folders import copy_folder, edit_config, edit_tensors
from .variants import VARIANTS

Pairs = Callable[[str], Pair]


def config_of(tmp_path: Path, **keys: Any) -> Any:
    (tmp_path / "config.json").write_text(json.dumps(keys))
    return read_config(tmp_path)


SIZES = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4}
SIZES |= {"intermediate_size": 40, "max_position_embeddings": 64, "num_key_value_heads": 2}
LONG = {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4, "original_max_position_embeddings": 16}
YARN = {"factor": 4.0, "original_max_position_embeddings": 16}
LOCAL_GLOBAL = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}

# family, keys of the old form, keys of the new form
FORMS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("llama", {"rope_theta": 500.0}, {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}),
    (
        "llama",
        {"rope_theta": 500.0, "rope_scaling": {"type": "linear", "factor": 2.0}},
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 500.0}},
    ),
    (
        "llama",
        {"rope_scaling": {"type": "dynamic", "factor": 2.0}, "torch_dtype": "bfloat16"},
        {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}, "dtype": "bfloat16"},
    ),
    (
        "qwen2",
        {"rope_theta": 1e6, "rope_scaling": {"type": "yarn", **YARN}},
        {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6, **YARN}},
    ),
    (
        "phi3",
        {"rope_scaling": {"type": "su", **LONG}, "original_max_position_embeddings": 16},
        {
            "rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4, **LONG},
            "original_max_position_embeddings": 16,
        },
    ),
    (
        "phi3",
        {"partial_rotary_factor": 0.5, "rope_theta": 77.0},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 77.0, "partial_rotary_factor": 0.5}},
    ),
    (
        "gpt_neox",
        {"rotary_pct": 0.5, "rotary_emb_base": 500, "num_key_value_heads": None},
        {
            "rope_parameters": {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.5},
            "num_key_value_heads": None,
        },
    ),
    (
        "gemma3_text",
        {
            "sliding_window_pattern": 2,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
            "rope_local_base_freq": 1e4,
        },
        {"layer_types": [SLIDING, FULL] * 2, "rope_parameters": LOCAL_GLOBAL},
    ),
    ("gemma2", {"sliding_window_pattern": 2}, {"layer_types": [SLIDING, FULL] * 2}),
    (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 3},
        {"use_sliding_window": True, "sliding_window": 8, "layer_types": [FULL] * 3 + [SLIDING]},
    ),
    (
        "qwen3",
        {"rope_theta": 5.0, "use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2},
        {
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 5.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 5.0},
            },
            "use_sliding_window": True,
            "sliding_window": 8,
            "max_window_layers": 2,
        },
    ),
    (
        "phi3",
        {"rope_scaling": {"type": "yarn", **LONG}, "original_max_position_embeddings": 16},
        {
            "rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4, **LONG},
            "original_max_position_embeddings": 16,
        },
    ),
    (
        "smollm3",
        {"use_sliding_window": True, "sliding_window": 8, "no_rope_layers": [1, 0, 0, 1]},
        {"sliding_window": 8, "no_rope_layers": [1, 0, 0, 1], "layer_types": [FULL, SLIDING, SLIDING, FULL]},
    ),
    ("smollm3", {"no_rope_layer_interval": 2}, {"no_rope_layers": [1, 0, 1, 0]}),
    ("smollm3", {}, {"no_rope_layers": [1, 1, 1, 0], "layer_types": [FULL] * 4, "torch_dtype": "float32"}),
    ("mistral", {"sliding_window": 8}, {"sliding_window": 8, "layer_types": [SLIDING] * 4}),
]


@pytest.mark.parametrize(("family", "old", "new"), FORMS)
def test_both_forms_give_the_same_description(
    tmp_path: Path, family: str, old: dict[str, Any], new: dict[str, Any]
) -> None:
    first = config_of(tmp_path, model_type=family, **SIZES | old)
    second = config_of(tmp_path, model_type=family, **SIZES | new)
    assert first == second
    plain = config_of(
        tmp_path, model_type=family, **SIZES | {"max_position_embeddings": 63, "num_key_value_heads": None}
    )
    assert first != plain


@pytest.mark.parametrize("name", [name for name in VARIANTS if "rope_parameters" in VARIANTS[name][1]])
def test_the_old_form_of_each_saved_config(pairs: Pairs, tmp_path: Path, name: str) -> None:
    """What `transformers` saved in the new form, written back in the old one, is the same model."""
    folder = copy_folder(pairs(name).folder, tmp_path / "old")
    new = read_config(folder)
    keys = json.loads((folder / "config.json").read_text())
    rope = keys.pop("rope_parameters")
    old: dict[str, Any] = {"rope_parameters": ..., "torch_dtype": keys["dtype"], "dtype": ...}
    if "full_attention" in rope:
        old["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        rope = rope["full_attention"]
    theta, partial = ("rotary_emb_base", "rotary_pct") if "neox" in name else ("rope_theta", "partial_rotary_factor")
    old[theta] = rope.pop("rope_theta")
    if "partial_rotary_factor" in rope:
        old[partial] = rope.pop("partial_rotary_factor")
    rope["type"] = rope.pop("rope_type")
    old["rope_scaling"] = None if rope == {"type": "default"} else rope
    assert read_config(edit_config(folder, **old)) == new


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"gemma3"}))
def test_defaults_are_those_of_transformers(tmp_path: Path, family: str) -> None:
    """A config.json with no key but model_type means what `transformers` makes of it."""
    from transformers import AutoConfig

    bare = config_of(tmp_path, model_type=family)
    AutoConfig.for_model(family).save_pretrained(tmp_path)
    assert read_config(tmp_path) == bare


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("llama", {"hidden_act": "mish"}, "hidden_act"),
    ("llama", {"rope_scaling": {"type": "ntk", "factor": 2}}, "type"),
    ("llama", {"rope_parameters": {"rope_type": "proportional", "factor": 2}}, "rope_type"),
    ("llama", {"rope_scaling": {"type": "linear"}}, "factor"),
    ("llama", {"rope_scaling": {"type": "linear", "factor": -2}}, "factor"),
    ("llama", {"rope_scaling": {"type": "linear", "factor": float("nan")}}, "factor"),
    (
        "llama",
        {"rope_scaling": {"type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 1}},
        "high_freq",
    ),
    ("llama", {"rope_scaling": {"type": "default", "mrope_section": [1, 2]}}, "mrope_section"),
    ("llama", {"rope_scaling": [1]}, "rope_scaling"),
    ("llama", {"rope_theta": 0}, "rope_theta"),
    ("llama", {"rope_theta": 10**400}, "rope_theta"),
    ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    ("llama", {"layer_types": [SLIDING] * 4}, "layer_types"),
    ("llama", {"layer_types": [FULL]}, "layer_types"),
    ("llama", {"sliding_window": 4096}, "sliding_window"),
    ("llama", {"quantization_config": {"bits": 4}}, "quantization_config"),
    ("llama", {"num_hidden_layers": 0}, "num_hidden_layers"),
    ("llama", {"num_hidden_layers": 10**9}, "num_hidden_layers"),
    ("llama", {"vocab_size": -1}, "vocab_size"),
    ("llama", {"hidden_size": 2**40}, "hidden_size"),
    ("llama", {"hidden_size": 1.5}, "hidden_size"),
    ("llama", {"hidden_size": "64"}, "hidden_size"),
    ("llama", {"num_hidden_layers": True}, "num_hidden_layers"),
    ("llama", {"hidden_size": 33}, "hidden_size"),
    ("llama", {"num_key_value_heads": 3}, "num_key_value_heads"),
    ("llama", {"rms_norm_eps": 0}, "rms_norm_eps"),
    ("llama", {"tie_word_embeddings": "yes"}, "tie_word_embeddings"),
    ("llama", {"eos_token_id": "</s>"}, "eos_token_id"),
    ("llama", {"is_encoder_decoder": True}, "is_encoder_decoder"),
    ("gpt2", {"add_cross_attention": True}, "add_cross_attention"),
    ("gpt2", {"n_head": 5}, "n_embd"),
    ("gpt2", {"activation_function": "tanh"}, "activation_function"),
    ("qwen2", {"layer_types": [FULL] * 3 + ["chunked_attention"]}, "layer_types"),
    ("qwen2", {"layer_types": [FULL] * 3 + [SLIDING]}, "sliding_window"),
    ("qwen2", {"layer_types": [FULL, FULL, FULL, 7]}, "layer_types"),
    ("mistral", {"sliding_window": 0}, "sliding_window"),
    ("mistral", {"sliding_window": 8, "layer_types": [FULL, SLIDING] * 2}, "layer_types"),
    ("gemma2", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
    ("gemma2", {"sliding_window": None}, "sliding_window"),
    ("gemma3_text", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
    ("gemma3_text", {"rope_parameters": {"rope_type": "default"}}, "rope_type"),
    ("phi3", {"rope_scaling": {"type": "longrope", **LONG, "long_factor": [1.0]}}, "long_factor"),
    ("phi3", {"partial_rotary_factor": 0.01}, "partial_rotary_factor"),
    ("smollm3", {"no_rope_layers": [1, 2, 1, 1]}, "no_rope_layers"),
    ("granite", {}, "model_type"),
]


@pytest.mark.parametrize(("family", "keys", "named"), REFUSED)
def test_refused_by_name(tmp_path: Path, family: str, keys: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named) as refusal:
        config_of(tmp_path, model_type=family, **SIZES | keys)
    assert refusal.value.remedy
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "keys",
    [
        {"attention_dropout": 0.1, "use_cache": False, "pretraining_tp": 2, "initializer_range": 1.0},
        {"unknown_to_all": {"a": 1}, "_name_or_path": "x", "transformers_version": "4.30.0", "auto_map": {}},
        {"rope_scaling": {}, "rope_interleaved": False, "quantization_config": None, "partial_rotary_factor": 1.0},
    ],
)
def test_harmless_keys_change_nothing(tmp_path: Path, keys: dict[str, Any]) -> None:
    assert config_of(tmp_path, model_type="llama", **SIZES | keys) == config_of(tmp_path, model_type="llama", **SIZES)


def test_token_ids(tmp_path: Path) -> None:
    config = config_of(tmp_path, model_type="llama", **SIZES, eos_token_id=[3, 4, -1], bos_token_id=None)
    assert (config.bos_token_id, config.eos_token_ids) == (None, (3, 4))
    assert config_of(tmp_path, model_type="llama", **SIZES).eos_token_ids == (2,)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"a": ' + b"[" * 100_000, b"null", b"9" * 5000])
def test_not_a_config(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ConfigError):
        read_config(tmp_path)


def test_no_folder_and_no_config(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="is not a folder"):
        read_config(tmp_path / "nothing")
    with pytest.raises(ModelNotFoundError, match=r"no config\.json"):
        read_config(tmp_path)


def test_reading_a_config_imports_no_torch(shared: Path) -> None:
    code = (
        "import sys; from llmcli.model.families import read_config; from llmcli.model.header import read_headers;"
        f"read_config({str(shared / 'models' / 'stories260K')!r});"
        f"read_headers({str(shared / 'models' / 'stories260K')!r});"
        "assert 'torch' not in sys.modules and 'safetensors' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@torch.inference_mode()
def test_gemma3_with_images_runs_its_text_part(pairs: Pairs, tmp_path: Path) -> None:
    """Both layouts of the names in real files, and sizes under `text_config`."""
    pair = pairs("gemma3")
    ids = text(20)
    for number, base in enumerate(("language_model.model.", "model.language_model.")):
        folder = copy_folder(pair.folder, tmp_path / str(number))
        keys = json.loads((folder / "config.json").read_text())
        ends = {"eos_token_id": [1, 106], "model_type": "gemma3", "text_config": keys, "vision_config": {"a": 1}}
        (folder / "config.json").write_text(json.dumps(ends))

        def rename(tensors: dict[str, torch.Tensor], base: str = base) -> None:
            for name in list(tensors):
                tensors[base + name.removeprefix("model.")] = tensors.pop(name)
            tensors["vision_tower.patch.weight"] = torch.zeros(3)
            tensors["model.multi_modal_projector.weight"] = torch.zeros(3)

        model = load_model(edit_tensors(folder, rename))
        assert_close(model(ids), pair.theirs(ids).logits, 1e-4)
        assert model.config.eos_token_ids == (1, 106)


@torch.inference_mode()
@pytest.mark.parametrize("name", ["gpt2", "gpt2-untied", "gpt_neox", "llama", "llama-tied-mqa"])
def test_names_without_the_prefix_and_of_old(pairs: Pairs, tmp_path: Path, name: str) -> None:
    pair = pairs(name)
    folder = copy_folder(pair.folder, tmp_path / "bare")

    def rename(tensors: dict[str, torch.Tensor]) -> None:
        for full in list(tensors):
            bare = full
            for prefix in ("transformer.", "gpt_neox.", "model."):
                bare = bare.removeprefix(prefix)
            tensors[bare] = tensors.pop(full)
        if name.startswith("gpt2"):
            tensors["h.0.attn.bias"] = torch.ones(1, 1, 8, 8)
            tensors["h.0.attn.masked_bias"] = torch.tensor(-1e4)
        if name == "gpt_neox":
            head = "lm_head.weight" if "lm_head.weight" in tensors else "embed_out.weight"
            tensors["embed_out.weight"] = tensors.pop(head)
            tensors["layers.0.attention.rotary_emb.inv_freq"] = torch.ones(3)
            tensors["layers.0.attention.bias"] = torch.ones(1, 1, 8, 8, dtype=torch.bool)
        if name == "llama":
            tensors["layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(3)

    ids = text(20)
    assert torch.equal(load_model(edit_tensors(folder, rename))(ids), pair.ours(ids))


# config.json of published models, shortened to the keys that matter, with the odd ones that they carry
PUBLISHED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "gpt2": (
        {"model_type": "gpt2", "n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12, "n_positions": 1024}
        | {"summary_type": "cls_index", "task_specific_params": {"text-generation": {"do_sample": True}}},
        {"context_length": 1024, "vocab_size": 50_257, "tied": True, "intermediate_size": 3072, "bos_token_id": 50_256},
    ),
    "pythia-70m": (
        {"model_type": "gpt_neox", "hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8}
        | {"num_hidden_layers": 6, "rotary_emb_base": 10_000, "rotary_pct": 0.25, "vocab_size": 50_304}
        | {
            "tie_word_embeddings": False,
            "use_parallel_residual": True,
            "layer_norm_eps": 1e-5,
            "torch_dtype": "float16",
        },
        {"head_dim": 64, "parallel_residual": True, "dtype": "float16", "rope": {FULL: RopeConfig(16)}},
    ),
    "smollm2-135m": (
        {"model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9}
        | {"num_hidden_layers": 30, "num_key_value_heads": 3, "rope_theta": 100_000, "rope_scaling": None}
        | {"rope_interleaved": False, "is_llama_config": True, "tie_word_embeddings": True, "vocab_size": 49_152},
        {"head_dim": 64, "num_kv_heads": 3, "rope": {FULL: RopeConfig(64, 100_000)}},
    ),
    "mistral-7b-v0.3": (
        {"model_type": "mistral", "sliding_window": None, "rope_theta": 1e6, "max_position_embeddings": 32_768},
        {"sliding_window": 0, "layer_types": (), "num_kv_heads": 8},
    ),
    "qwen2.5-0.5b": (
        {"model_type": "qwen2", "hidden_size": 896, "num_attention_heads": 14, "num_key_value_heads": 2}
        | {"sliding_window": 32_768, "max_window_layers": 24, "use_sliding_window": False, "use_mrope": False},
        {"sliding_window": 0, "qkv_bias": True, "attention_out_bias": False, "head_dim": 64},
    ),
    "phi-3-mini-4k": (
        {"model_type": "phi3", "sliding_window": 2047, "original_max_position_embeddings": 4096, "rope_scaling": None},
        {"sliding_window": 2047, "head_dim": 96, "eos_token_ids": (32_000,)},
    ),
    "phi-4-mini": (
        {"model_type": "phi3", "hidden_size": 3072, "num_attention_heads": 24, "num_key_value_heads": 8}
        | {"partial_rotary_factor": 0.75, "max_position_embeddings": 131_072, "full_attn_mod": 1, "lm_head_bias": False}
        | {"rope_scaling": {"type": "longrope", "long_factor": [2.0] * 48, "short_factor": [1.0] * 48}},
        {"head_dim": 128, "context_length": 131_072},
    ),
    "gemma-2-2b": (
        {"model_type": "gemma2", "hidden_act": "gelu_pytorch_tanh", "cache_implementation": "hybrid"},
        {"attention_softcap": 50.0, "final_softcap": 30.0, "embedding_scale": 48.0, "activation": "gelu_tanh"},
    ),
    "gemma-3-1b": (
        {"model_type": "gemma3_text", "hidden_size": 1152, "num_attention_heads": 4, "num_key_value_heads": 1}
        | {"sliding_window": 512, "sliding_window_pattern": 6, "rope_local_base_freq": 10_000, "rope_theta": 1_000_000}
        | {"attn_logit_softcapping": None, "final_logit_softcapping": None, "eos_token_id": [1, 106]},
        {
            "rope": {FULL: RopeConfig(256, 1e6), SLIDING: RopeConfig(256, 1e4)},
            "layer_types": tuple([*[SLIDING] * 5, FULL] * 5)[:26],
            "eos_token_ids": (1, 106),
        },
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs(tmp_path: Path, name: str) -> None:
    keys, expected = PUBLISHED[name]
    config = config_of(tmp_path, **keys)
    assert {key: getattr(config, key) for key in expected} == expected
