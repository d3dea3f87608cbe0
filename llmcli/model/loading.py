"""A folder, a dtype and a device -> a model that is held as it is used."""

from pathlib import Path

from llmcli.errors import UsageError
from llmcli.model.checkpoint import load_model, load_packed
from llmcli.model.header import quantized_dtype
from llmcli.model.pack import PACKED16, auto_dtype, held_for
from llmcli.model.quantized import load_quantized
from llmcli.model.transformer import CausalLM

DTYPES = ("auto", "float32", "bfloat16", "float16", PACKED16, "int8", "int4", "stored")


def load(
    folder: Path, dtype: str, *, device: str = "cpu", packed: bool = True, texts: int = 1, drafts: bool = False
) -> tuple[CausalLM, str, list[str]]:
    """The model, the dtype that `auto` and `stored` turned out to be, and what a user should know.

    `packed` holds the matrices in the form that a decode step reads fastest (`model.forms`); without, float32 is read
    where it lies in the file, which starts sooner and is as good for one pass. `texts` are decoded together, or one is
    with `drafts`: what is fastest to read for a row need not be for several. Off the CPU matrices are plain. Raises
    `ModelError`, `UsageError`.
    """
    if dtype not in DTYPES:
        raise UsageError(f"dtype {dtype!r} is not known", f"use one of {', '.join(DTYPES)}")
    small = quantized_dtype(folder)
    if device != "cpu" and (small is not None or dtype in (PACKED16, "int8", "int4")):
        raise UsageError(
            f"{small or dtype} weights are multiplied on the CPU alone, not on {device}",
            "add --device cpu, or choose another --dtype",
        )
    if small is not None:
        dtype = small if dtype == "auto" else dtype
        model, notes = load_quantized(folder, held_for(dtype, texts))
        return model, dtype, notes
    if dtype == "auto":
        dtype = auto_dtype(device, many_rows=drafts or texts > 1)
    if device != "cpu" or dtype == "stored" or (dtype == "float32" and not packed):
        model = load_model(folder, dtype=dtype, device=device)
        return model, str(model.norm.weight.dtype).removeprefix("torch."), []
    model, notes = load_packed(folder, held_for(dtype, texts))
    return model, dtype, notes
