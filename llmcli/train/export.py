"""The finished model: a Hugging Face folder that llmcli and `transformers` read."""

import json
from pathlib import Path

from llmcli.errors import LlmcliError
from llmcli.files import write_whole
from llmcli.model.export import save_model
from llmcli.model.transformer import CausalLM
from llmcli.sampling_params import DEFAULT_TEMPERATURE, DEFAULT_TOP_P
from llmcli.tokenizer import Tokenizer
from llmcli.tokenizer_engine import load_engine, read_json

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")


def export_model(model: CausalLM, tokenizer: Path, folder: Path, dtype: str) -> None:
    """config.json, generation_config.json, model.safetensors in `dtype`, and the tokenizer of that folder.

    Each file appears whole or not at all. Raises LlmcliError where the disk does not take it.
    """
    config = model.config
    defaults = {
        "do_sample": True,
        "temperature": DEFAULT_TEMPERATURE,
        "top_p": DEFAULT_TOP_P,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": list(config.eos_token_ids),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        copy_tokenizer(tokenizer, folder)
        save_model(model, folder, dtype)
        write_whole(folder / "generation_config.json", json.dumps(defaults, indent=2).encode() + b"\n")
    except OSError as error:
        raise LlmcliError(
            f"the model cannot be written to {folder}: {error}", "make room, then use --export"
        ) from error


def copy_tokenizer(source: Path, folder: Path) -> None:
    """The tokenizer's files; one in an older layout is written as tokenizer.json. Raises TokenizerError."""
    if source.resolve() == folder.resolve():
        return
    folder.mkdir(parents=True, exist_ok=True)
    if not (source / "tokenizer.json").is_file():
        load_engine(source).save(str(folder / "tokenizer.json"))
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            write_whole(folder / name, (source / name).read_bytes())


def take_tokenizer(source: Path, folder: Path) -> None:
    """`copy_tokenizer`, and the beginning-of-text token is named where only the model's config.json says it, which is
    not copied. Raises TokenizerError."""
    copy_tokenizer(source, folder)
    tokenizer = Tokenizer.from_folder(source)
    if tokenizer.bos_id is None or Tokenizer.from_folder(folder).bos_id == tokenizer.bos_id:
        return
    path = folder / "tokenizer_config.json"
    settings = read_json(path) | {"bos_token": tokenizer.piece(tokenizer.bos_id)}
    write_whole(path, json.dumps(settings, indent=2).encode() + b"\n")
