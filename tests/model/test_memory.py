"""Peak memory of a load, measured in a process of its own, less what torch and our modules take by themselves."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from llmcli.model.families import translate, weight_table
from llmcli.model.families.keys import Keys
from llmcli.model.transformer import CausalLM

GPT2 = {"model_type": "gpt2"}  # the defaults are the 124M model
PYTHIA = {"model_type": "gpt_neox", "vocab_size": 50_304, "hidden_size": 768, "num_hidden_layers": 12}
PYTHIA |= {"num_attention_heads": 12, "intermediate_size": 3072}
SMALL = {"model_type": "llama", "vocab_size": 49_152, "hidden_size": 576, "num_hidden_layers": 30}
SMALL |= {"num_attention_heads": 9, "num_key_value_heads": 3, "intermediate_size": 1536, "tie_word_embeddings": True}

MEASURE = """
import sys, torch
from pathlib import Path
from llmcli.model.checkpoint import load_model
def peak():
    # VmHWM belongs to this program alone; ru_maxrss would also count what stood here before it was started.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
torch.aminmax(torch.ones(100_000))  # the thread pool is torch's own
before = peak()
model = load_model(sys.argv[1])
after = peak()
weights = sum(p.numel() * p.element_size() for p in model.parameters())
print(weights, after - before)
"""


def write_checkpoint(folder: Path, keys: dict[str, Any], dtype: torch.dtype) -> None:
    config = translate(Keys(keys))
    with torch.device("meta"):
        shapes = {name: tuple(p.shape) for name, p in CausalLM(config).named_parameters()}
    expected = weight_table(config).expected(config.num_layers, shapes)
    tensors = {n: torch.full(e.shape([shapes[m] for m in e.modules]), 0.01, dtype=dtype) for n, e in expected.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(keys))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
@pytest.mark.parametrize(
    ("keys", "dtype"),
    [(GPT2, torch.float32), (GPT2, torch.float16), (PYTHIA, torch.float32), (SMALL, torch.bfloat16)],
    ids=["gpt2-float32", "gpt2-float16", "pythia-float32", "smollm2-bfloat16"],
)
def test_peak_is_at_most_1_2_weights(tmp_path: Path, keys: dict[str, Any], dtype: torch.dtype) -> None:
    write_checkpoint(tmp_path, keys, dtype)
    command = [sys.executable, "-c", MEASURE, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    weights, taken = map(int, done.stdout.split())
    print(f"weights {weights / 2**20:.0f} MiB, peak {taken / weights:.3f} of them")
    assert weights > 400e6
    assert taken <= 1.2 * weights
    (tmp_path / "model.safetensors").unlink()
