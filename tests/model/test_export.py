"""What `save_model` writes is the same model for `transformers` and for us."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from llmcli.errors import LlmcliError
from llmcli.model.checkpoint import load_model
from llmcli.model.export import save_model
from llmcli.model.transformer import CausalLM

from .conftest import Pair, assert_close, text

Pairs = Callable[[str], Pair]
SAVABLE = ["llama", "llama-mha-biases", "llama-tied-mqa", "llama-head-dim", "gpt2", "gpt2-untied"]
SAVABLE += ["gpt2-inverse-layer", "gpt2-unscaled-relu"]


@pytest.mark.parametrize("name", SAVABLE)
@torch.inference_mode()
def test_transformers_loads_the_same_logits(pairs: Pairs, tmp_path: Path, name: str) -> None:
    from transformers import AutoModelForCausalLM

    pair = pairs(name)
    save_model(pair.ours, tmp_path / "saved")
    ids = text(30)
    theirs, report = AutoModelForCausalLM.from_pretrained(
        tmp_path / "saved", attn_implementation="eager", output_loading_info=True
    )
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert_close(theirs(ids).logits, pair.theirs(ids).logits, 1e-6)
    again = load_model(tmp_path / "saved")
    assert torch.equal(again(ids), pair.ours(ids))
    assert again.config == pair.ours.config
    with safe_open(tmp_path / "saved" / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert ("lm_head.weight" in file.keys()) != pair.ours.config.tied  # noqa: SIM118 (not a dict)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_smaller_dtypes(pairs: Pairs, tmp_path: Path, dtype: str) -> None:
    save_model(pairs("llama").ours, tmp_path, dtype)
    model = load_model(tmp_path, dtype="stored")
    assert model.config.dtype == dtype
    assert model.embedding.weight.dtype == getattr(torch, dtype)


def test_a_model_that_its_config_cannot_describe_is_not_saved(pairs: Pairs, tmp_path: Path) -> None:
    for name in ("llama-yarn", "qwen2"):
        with pytest.raises(LlmcliError, match="cannot"):
            save_model(pairs(name).ours, tmp_path)
    odd = CausalLM(replace(pairs("llama").ours.config, qk_norm="head"))
    with pytest.raises(LlmcliError, match="cannot name"):
        save_model(odd, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_save_leaves_the_old_model(
    pairs: Pairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(pairs("llama").ours, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def cut_off(_: object, path: Path, **__: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("llmcli.model.export.save_file", cut_off)
    with pytest.raises(LlmcliError, match="No space left"):
        save_model(pairs("llama-mha-biases").ours, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
