"""`CausalLM` -> a folder in Hugging Face layout, under the names of the family's own weight table."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from llmcli.errors import LlmcliError
from llmcli.files import ROOM, write_whole
from llmcli.model.checkpoint import DTYPES, pack
from llmcli.model.config import FULL, ModelConfig
from llmcli.model.families import translate, weight_table
from llmcli.model.families.keys import Keys
from llmcli.model.header import SINGLE
from llmcli.model.transformer import CausalLM

ACTIVATION_NAMES = {"gelu": "gelu", "gelu_tanh": "gelu_new", "gelu_quick": "quick_gelu", "relu": "relu", "silu": "silu"}


def save_model(model: CausalLM, folder: str | Path, dtype: str = "float32") -> None:
    """Writes config.json and model.safetensors so that `transformers` loads the same model; tied heads stand once.

    Each file appears whole or not at all. Families: llama, gpt2.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = model.config
    described = json.dumps(describe(config, dtype), indent=2) + "\n"
    parameters: dict[str, nn.Parameter] = dict(model.named_parameters())
    expected = weight_table(config).expected(config.num_layers, {n: tuple(p.shape) for n, p in parameters.items()})
    tensors = {
        name: pack([parameters[ours].detach() for ours in entry.modules], entry, config).to("cpu", DTYPES[dtype])
        for name, entry in expected.items()
    }
    save_tensors(tensors, folder / SINGLE, {"format": "pt"})
    write_whole(folder / "config.json", described.encode())


def save_tensors(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str], *, remedy: str = ROOM) -> None:
    """A safetensors file, as `write_whole` writes: whole or not at all. Raises `LlmcliError`."""

    def write(part: Path) -> None:
        try:
            save_file(tensors, part, metadata=metadata)
        except SafetensorError as error:
            raise OSError(str(error)) from error

    write_whole(path, write, remedy=remedy)


def describe(config: ModelConfig, dtype: str) -> dict[str, Any]:
    """The model as its family's config.json. `transformers` fills in what is left out.

    Raises LlmcliError where the family's keys cannot say all that `config` says.
    """
    if config.family not in DESCRIBERS:
        raise LlmcliError(f"{config.family} models cannot be saved", f"families that can: {', '.join(DESCRIBERS)}")
    ends = list(config.eos_token_ids)
    keys = DESCRIBERS[config.family](config) | {
        "vocab_size": config.vocab_size,
        "tie_word_embeddings": config.tied,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": ends[0] if len(ends) == 1 else ends or None,
        "dtype": dtype,
    }
    if translate(Keys(keys)) != replace(config, dtype=dtype):
        raise LlmcliError(
            f"this model has parts that a {config.family} config.json cannot name", "save one without them"
        )
    return keys


def _llama(config: ModelConfig) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": ACTIVATION_NAMES[config.activation],
        "max_position_embeddings": config.context_length,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope[FULL].theta,
        "attention_bias": config.qkv_bias,
        "mlp_bias": config.ffn_bias,
    }


def _gpt2(config: ModelConfig) -> dict[str, Any]:
    usual = config.head_dim**-0.5
    scales = config.attention_scale or (usual,) * config.num_layers
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "n_embd": config.hidden_size,
        "n_inner": config.intermediate_size,
        "n_layer": config.num_layers,
        "n_head": config.num_heads,
        "n_positions": config.context_length,
        "activation_function": ACTIVATION_NAMES[config.activation],
        "layer_norm_epsilon": config.norm_eps,
        "scale_attn_weights": scales[0] == usual,
        "scale_attn_by_inverse_layer_idx": scales[-1] != scales[0],
    }


DESCRIBERS: dict[str, Callable[[ModelConfig], dict[str, Any]]] = {"llama": _llama, "gpt2": _gpt2}
