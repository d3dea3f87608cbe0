"""Tiny models for tests: a random one on disk with a byte-level tokenizer, and one that says what it is told to."""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer as Engine
from tokenizers import decoders, models, pre_tokenizers, processors
from torch import Tensor, nn

from llmcli.model.cache import KVCache
from llmcli.model.config import ModelConfig
from llmcli.pipeline import Pipeline
from llmcli.tokenizer import Tokenizer

BOS, EOS, USER = 256, 257, 258
SPECIALS = ("<|bos|>", "<|eos|>", "<|user|>")
VOCAB = 259
LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCAB,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
    "initializer_range": 0.6,
}
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|user|>' + message['role'] + ':' + message['content'] }}"
    "{% endfor %}{% if add_generation_prompt %}<|eos|>{% endif %}"
)


def write_tokenizer(folder: Path, *, bos: bool = True, template: str | None = None) -> None:
    """One id a byte, and three special tokens; with `bos` one is added to every text."""
    # Ids are the bytes themselves, so that tests can spell them. GPT-2 writes the 68 bytes that are no visible Latin-1
    # character with the characters from 256 on.
    own = [byte for byte in range(256) if chr(byte) in pre_tokenizers.ByteLevel.alphabet()]
    others = (byte for byte in range(256) if byte not in own)
    vocab = {chr(byte): byte for byte in own} | {chr(256 + i): byte for i, byte in enumerate(others)}
    engine = Engine(models.BPE(vocab=vocab, merges=[]))
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    engine.decoder = decoders.ByteLevel()
    engine.add_special_tokens(list(SPECIALS))
    if bos:
        engine.post_processor = processors.TemplateProcessing(
            single=f"{SPECIALS[0]} $A", special_tokens=[(SPECIALS[0], BOS)]
        )
    engine.save(str(folder / "tokenizer.json"))
    settings = {"bos_token": SPECIALS[0], "eos_token": SPECIALS[1]} if bos else {}
    if template is not None:
        settings["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def write_model(folder: Path, *, seed: int = 0, generation: dict[str, Any] | None = None, **changes: Any) -> Path:
    """A random Llama saved by `transformers`, tokenizer and all."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(**{**LLAMA, **changes}))
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    write_tokenizer(folder)
    return folder


class Scripted(nn.Module):
    """Predicts the bytes of a text, one after the other, whatever it reads; counts what it is asked."""

    def __init__(self, script: list[int], *, start: int = 1, context: int = 64, vocab: int = VOCAB) -> None:
        super().__init__()
        self.config = ModelConfig(
            family="scripted",
            vocab_size=vocab,
            hidden_size=4,
            num_layers=1,
            num_heads=1,
            num_kv_heads=1,
            head_dim=4,
            intermediate_size=4,
            context_length=context,
            eos_token_ids=(EOS,),
        )
        self.place = nn.Parameter(torch.zeros(1))
        self.kv_dtype: torch.dtype | None = None
        self.script, self.start = script, start
        self.calls: list[tuple[int, bool]] = []

    def must_recompute(self, *_lengths: int) -> bool:
        return False

    def new_cache(self) -> KVCache:
        return KVCache(self.config)

    def forward(self, ids: Tensor, cache: Any = None, *, tap: None = None, last_only: bool = False) -> Tensor:
        assert tap is None
        self.calls.append((ids.shape[1], last_only))
        if cache is not None:
            cache.length += ids.shape[1]
        logits = torch.zeros(1, 1 if last_only else ids.shape[1], self.config.vocab_size)
        at = (ids.shape[1] if cache is None else cache.length) - self.start
        logits[0, -1, self.script[at]] = 30.0
        return logits


def scripted(folder: Path, script: bytes | list[int], *, start: int = 1, context: int = 64) -> Pipeline:
    """A pipeline that generates `script` after a prompt of `start` tokens."""
    write_tokenizer(folder)
    model: Any = Scripted(list(script), start=start, context=context)
    return Pipeline(model, Tokenizer.from_folder(folder), folder, "scripted", "float32")
