"""The two shapes that speed is measured on, with random weights: speed does not depend on their values."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

SHAPES: dict[str, dict[str, Any]] = {
    "gpt2": {"model_type": "gpt2"},
    "smollm2": {
        "model_type": "llama",
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "head_dim": 64,
        "vocab_size": 49152,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": True,
    },
}
"""GPT-2 124M, and SmolLM2-135M: many thin layers, grouped key/value heads."""


def make(name: str, folder: Path) -> Path:
    """The checkpoint of a shape in float32, as `transformers` saves it, with a byte-level tokenizer; made once."""
    target = folder / name
    if (target / "tokenizer.json").is_file():
        return target
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    keys = dict(SHAPES[name])
    config = AutoConfig.for_model(keys.pop("model_type"), **keys)
    AutoModelForCausalLM.from_config(config).float().save_pretrained(target)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: i for i, letter in enumerate(letters)}
    # As many tokens as the model has: reading them is a part of starting up.
    vocabulary |= {f"{letters[i % 256]}{i}": i for i in range(256, config.vocab_size)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = {f"{name}_token": letters[0] for name in ("bos", "eos", "unk")}  # some converters want all three
    (target / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **special}))
    tokenizer.save(str(target / "tokenizer.json"))
    return target


def quantized(source: Path, dtype: str) -> Path:
    """The checkpoint as `llmcli quantize` stores it; made once."""
    target = source.with_name(f"{source.name}-{dtype}")
    if not target.is_dir():
        command = [sys.executable, "-m", "llmcli", "quantize", "--quiet", str(source), str(target), "--dtype", dtype]
        subprocess.run(command, check=True)
    return target


def gguf(source: Path, kind: str) -> Path:
    """The checkpoint as llama.cpp reads it, in `F16`, `Q8_0` or `Q4_0`; made once. Needs gguf and llama-cpp-python."""
    target = source.with_name(f"{source.name}-{kind}.gguf")
    if target.is_file():
        return target
    if kind == "F16":
        _write_f16(source, target)
    else:
        import llama_cpp

        params = llama_cpp.llama_model_quantize_default_params()
        params.ftype = {"Q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0, "Q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0}[kind]
        params.nthread = 2
        llama_cpp.llama_model_quantize(str(gguf(source, "F16")).encode(), str(target).encode(), params)
    return target


def _write_f16(source: Path, target: Path) -> None:
    import gguf as library
    import numpy as np
    from safetensors.numpy import load_file

    keys, tensors = json.loads((source / "config.json").read_text()), load_file(source / "model.safetensors")
    family = "gpt2" if keys["model_type"] == "gpt2" else "llama"
    writer = library.GGUFWriter(str(target), family)
    read = {"context": "n_positions", "width": "n_embd", "layers": "n_layer", "heads": "n_head"}
    if family == "llama":
        read = {"context": "max_position_embeddings", "width": "hidden_size", "layers": "num_hidden_layers"}
        read["heads"] = "num_attention_heads"
        writer.add_head_count_kv(keys["num_key_value_heads"])
        writer.add_layer_norm_rms_eps(1e-5)
        writer.add_rope_dimension_count(keys["head_dim"])
    else:
        writer.add_layer_norm_eps(1e-5)
    writer.add_context_length(keys[read["context"]])
    writer.add_embedding_length(keys[read["width"]])
    writer.add_block_count(keys[read["layers"]])
    writer.add_head_count(keys[read["heads"]])
    writer.add_feed_forward_length(keys.get("intermediate_size", 4 * keys[read["width"]]))
    vocabulary = json.loads((source / "tokenizer.json").read_text())["model"]["vocab"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([each for each, _ in sorted(vocabulary.items(), key=lambda item: item[1])])
    writer.add_token_merges(["a b"])
    names = library.get_tensor_name_map(library.MODEL_ARCH[family.upper()], keys[read["layers"]])
    for name, value in tensors.items():
        ours = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if ours is None:
            continue
        if name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")):
            value = np.ascontiguousarray(value.T)
        writer.add_tensor(ours, value.astype(np.float16) if value.ndim == 2 and "wpe" not in name else value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
