"""Memory of a load, measured in a process of its own, less what torch and our modules take by themselves."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from llmcli.model.families import translate, weight_table
from llmcli.model.families.keys import Keys
from llmcli.model.pack import lacking
from llmcli.model.quantized import quantize
from llmcli.model.transformer import CausalLM

GPT2 = {"model_type": "gpt2"}  # the defaults are the 124M model
PYTHIA = {"model_type": "gpt_neox", "vocab_size": 50_304, "hidden_size": 768, "num_hidden_layers": 12}
PYTHIA |= {"num_attention_heads": 12, "intermediate_size": 3072}
SMALL = {"model_type": "llama", "vocab_size": 49_152, "hidden_size": 576, "num_hidden_layers": 30}
SMALL |= {"num_attention_heads": 9, "num_key_value_heads": 3, "intermediate_size": 1536, "tie_word_embeddings": True}

MEASURE = """
import sys, torch
from pathlib import Path
from llmcli.model.loading import load
def memory(kind):
    # VmHWM, the peak, belongs to this program alone; ru_maxrss would also count what stood here before its start.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(kind))
torch.aminmax(torch.ones(100_000))  # the thread pool is torch's own
before = memory("VmHWM")
model, *_ = load(Path(sys.argv[1]), sys.argv[2], packed=sys.argv[3] == "packed")
print(memory("VmHWM") - before, memory("VmRSS") - before, sum(p.numel() * 4 for p in model.parameters()))
"""
FLOAT32_BYTES = 4 * 124_439_808
"""Of GPT-2 124M."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc"),
]


def measure(folder: Path, dtype: str, how: str) -> tuple[int, int, int]:
    """What a load takes at its peak and in the end, and the bytes that the model's parameters have in float32."""
    if lacking(dtype) is not None:
        pytest.skip(f"this build of PyTorch lacks {lacking(dtype)}")
    command = [sys.executable, "-c", MEASURE, folder, dtype, how]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    peak, held, parameters = map(int, done.stdout.split())
    print(f"{dtype}, {how}: peak {peak / 2**20:.0f} MiB, then {held / 2**20:.0f} MiB")
    return peak, held, parameters


def write_checkpoint(folder: Path, keys: dict[str, Any], dtype: torch.dtype) -> None:
    config = translate(Keys(keys))
    with torch.device("meta"):
        shapes = {name: tuple(p.shape) for name, p in CausalLM(config).named_parameters()}
    expected = weight_table(config).expected(config.num_layers, shapes)
    tensors = {n: torch.full(e.shape([shapes[m] for m in e.modules]), 0.01, dtype=dtype) for n, e in expected.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(keys))


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("gpt2")
    write_checkpoint(folder, GPT2, torch.float32)
    yield folder
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize(
    ("keys", "dtype"),
    [(GPT2, torch.float32), (GPT2, torch.float16), (PYTHIA, torch.float32), (SMALL, torch.bfloat16)],
    ids=["gpt2-float32", "gpt2-float16", "pythia-float32", "smollm2-bfloat16"],
)
def test_peak_is_at_most_1_2_weights(tmp_path: Path, keys: dict[str, Any], dtype: torch.dtype) -> None:
    write_checkpoint(tmp_path, keys, dtype)
    peak, _, weights = measure(tmp_path, "float32", "plain")
    assert weights > 400e6
    assert peak <= 1.2 * weights
    (tmp_path / "model.safetensors").unlink()


@pytest.mark.parametrize(
    ("dtype", "peak_share", "held_share"),
    [
        ("auto", 1.2, 1.05),  # float32 where a processor has nothing faster
        ("float32", 1.2, 1.05),
        ("bfloat16", 0.75, 0.6),
        ("float16", 0.6, 0.55),
        ("float16-packed", 0.85, 0.7),
        ("int8", 0.75, 0.34),
        ("int4", 0.75, 0.25),
    ],
)
def test_packed_matrices_leave_no_second_copy(gpt2: Path, dtype: str, peak_share: float, held_share: float) -> None:
    """The shares are of the weights in float32, as they are stored; the table of embeddings stays in the file."""
    peak, held, _ = measure(gpt2, dtype, "packed")
    assert peak <= peak_share * FLOAT32_BYTES
    assert held <= held_share * FLOAT32_BYTES


@pytest.mark.parametrize("stored_as", ["float16", "bfloat16", "int8", "int4"])
def test_a_quantized_folder_is_not_held_twice(gpt2: Path, tmp_path: Path, stored_as: str) -> None:
    if lacking(stored_as) is not None:
        pytest.skip(f"this build of PyTorch lacks {lacking(stored_as)}")
    folder = tmp_path / stored_as
    weights = quantize(gpt2, folder, stored_as)
    peak, held, _ = measure(folder, "auto", "packed")
    assert peak <= 1.2 * weights
    assert held <= 0.85 * weights  # less the table of embeddings, which stays in the file
    peak, held, _ = measure(folder, "float32", "packed")
    assert peak <= 1.3 * FLOAT32_BYTES
    assert held <= 1.05 * FLOAT32_BYTES
    (folder / "model.safetensors").unlink()
