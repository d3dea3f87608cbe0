"""Folders of `llmcli quantize`: a model's matrices in their small form, so that a start neither rounds nor stacks them.

Such a folder has the model's config.json with the key `llmcli_dtype` added, and one model.safetensors whose tensors
carry the names of this package's own modules: those of `pack.rounded` for each of `pack.matrices`, and all parameters
that are no matrix's.
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from llmcli.errors import CheckpointError, LlmcliError, UsageError
from llmcli.files import ROOM
from llmcli.model.checkpoint import check_count, stored_model
from llmcli.model.families import read_config
from llmcli.model.forms import Float16
from llmcli.model.header import (
    AGAIN,
    INDEX,
    QUANTIZED_KEY,
    SINGLE,
    StoredTensor,
    quantized_dtype,
    read_headers,
)
from llmcli.model.heap import Heap, trim
from llmcli.model.int4 import Int4
from llmcli.model.mapped import MappedFile, assign, checked
from llmcli.model.pack import (
    INT8_ROWS,
    PACKED16,
    Matrix,
    finish,
    form_of,
    hold,
    lacking,
    lacking_note,
    matrices,
    rounded,
)
from llmcli.model.transformer import CausalLM


def small_tensors(model: CausalLM, dtype: str, done: Callable[[], None]) -> dict[str, Tensor]:
    """All that a quantized folder stores of a model, whose matrices are let go of on the way; `done` after each."""
    found: dict[str, Tensor] = {}
    for matrix in matrices(model):
        found |= {f"{matrix.name}.{kind}": value.contiguous() for kind, value in rounded(matrix, dtype).items()}
        for part in (*matrix.parts, matrix.target):
            part.hold(None)
        done()
    taken = {value.data_ptr() for value in found.values()}
    for name, value in model.named_parameters():
        # A table in float32 is stored in 16 bits as well: its rows are only looked up.
        small = value.dtype == torch.float32 and name in ("embedding.weight", "positions.weight")
        half = value.to(torch.float16) if small else value
        stored = (half if bool(half.isfinite().all()) else value).detach().contiguous()
        # A tied lm_head that has its dtype already is the table itself, and safetensors takes no tensor twice.
        found[name] = stored.clone() if stored.data_ptr() in taken else stored
    return found


def load_quantized(folder: Path, dtype: str) -> tuple[CausalLM, list[str]]:
    """The model of a quantized folder, for the CPU. `dtype`: `auto` or the folder's own for the stored form, `PACKED16`
    and `INT8_ROWS` for float16 and int8 that are held in another, `float32` for the same numbers as plain float32
    matrices. Raises CheckpointError, ConfigError, UsageError."""
    stored_as = quantized_dtype(folder)
    otherwise = (dtype, stored_as) in ((PACKED16, "float16"), (INT8_ROWS, "int8"))
    if dtype not in ("auto", "float32", stored_as) and not otherwise:
        raise UsageError(
            f"--dtype {dtype}: the weights of {folder} are stored in {stored_as}",
            f"choose auto, {stored_as} or float32, or the model that it was made from",
        )
    reader = _Reader(folder)
    held_as = dtype if otherwise else stored_as or ""
    missing = lacking(held_as) is not None
    notes = [lacking_note(held_as)] if missing else []
    plain = dtype == "float32" or missing
    heap = Heap()
    for matrix in matrices(reader.model):
        form = form_of(reader.parts(matrix), matrix.target.out_features, "" if missing else held_as)
        hold(matrix, form)
        if plain:
            matrix.target.hold(None)
            matrix.target.weight = nn.Parameter(form.dense(), requires_grad=False)
            bias = reader.optional(f"{matrix.name}.bias")
            matrix.target.bias = None if bias is None else nn.Parameter(bias.float(), requires_grad=False)
        if plain or not isinstance(form, (Float16, Int4)):  # these are multiplied where they lie in the file
            reader.release(matrix)
        elif isinstance(form, Int4):
            reader.release(matrix, "scales")  # of which it has a copy, unless they lie well
        del form
        heap.worked(matrix.size())
    reader.rest()
    trim()
    finish(reader.model)
    return reader.model.eval().requires_grad_(False), notes


class _Reader:
    """A quantized folder's tensors, by name, each checked."""

    def __init__(self, folder: Path) -> None:
        self._stored: dict[str, StoredTensor] = read_headers(folder)
        config = read_config(folder)
        check_count(config, len(self._stored), folder)
        self._files = {each.file: MappedFile(each.file) for each in self._stored.values()}
        with torch.device("meta"):
            self.model = CausalLM(config)

    def tensor(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Raises CheckpointError for one that is missing, misshapen, or not finite."""
        value = self.optional(name)
        if value is None:
            raise CheckpointError(f"tensor {name} is missing", AGAIN)
        if value.shape != shape:
            raise CheckpointError(f"tensor {name} is misshapen: {tuple(value.shape)} instead of {shape}", AGAIN)
        return value

    def optional(self, name: str) -> Tensor | None:
        stored = self._stored.get(name)
        return None if stored is None else checked(name, self._files[stored.file].tensor(stored))

    def parts(self, matrix: Matrix) -> dict[str, Tensor]:
        """What `pack.rounded` gave for a matrix."""
        rows, columns, name = matrix.target.out_features, matrix.target.in_features, matrix.name
        shapes: dict[str, tuple[int, ...]] = {"weight": (rows, columns)}
        if f"{name}.packed" in self._stored:
            padded = self._stored[f"{name}.packed"].shape[0]
            groups = self._stored[f"{name}.scales"].shape[:1] if f"{name}.scales" in self._stored else (0,)
            if padded < rows or columns % max(1, *groups):
                raise CheckpointError(f"tensor {name}.packed is misshapen", AGAIN)
            shapes = {"packed": (padded, columns // 2), "scales": (*groups, padded, 2)}
        elif f"{name}.scales" in self._stored:
            shapes["scales"] = (rows,)
        for kind, shape in (("bias", (rows,)), ("channels", (columns,))):
            if f"{name}.{kind}" in self._stored:
                shapes[kind] = shape
        if ("bias" in shapes) != (matrix.target.bias is not None):
            raise CheckpointError(f"tensor {name}.bias does not belong to this config.json", AGAIN)
        found = {kind: self.tensor(f"{name}.{kind}", shape) for kind, shape in shapes.items()}
        _check_kinds(name, found)
        return found

    def release(self, matrix: Matrix, *kinds: str) -> None:
        """Gives the pages of a matrix back; what is still a view of them reads them again when it is looked at."""
        for kind in kinds or ("weight", "packed", "scales"):
            self._release(f"{matrix.name}.{kind}")

    def _release(self, name: str) -> None:
        if name in self._stored:
            self._files[self._stored[name].file].release(self._stored[name])

    def rest(self) -> None:
        """The parameters that are no matrix's: norms in float32; tables as they are stored, out of memory until their
        rows are looked up."""
        for name, parameter in list(self.model.named_parameters()):
            if parameter.is_meta:
                value = self.tensor(name, tuple(parameter.shape))
                table = name in ("embedding.weight", "positions.weight")
                assign(self.model, name, value if table else value.float())
                if table:
                    self._release(name)


def _check_kinds(name: str, found: dict[str, Any]) -> None:
    """Raises CheckpointError for a dtype that no form is made of."""
    wanted: dict[str, tuple[torch.dtype, ...]] = {
        "packed": (torch.uint8,),
        "weight": (torch.float16, torch.bfloat16, torch.float32, torch.int8),
        "scales": (torch.bfloat16,) if "packed" in found else (torch.float32,),
        "channels": (torch.float32,),
        "bias": (torch.float32,),
    }
    for kind, value in found.items():
        if value.dtype not in wanted[kind]:
            raise CheckpointError(f"tensor {name}.{kind} has dtype {value.dtype}, which is not one of its own", AGAIN)
    if ("weight" in found and found["weight"].dtype == torch.int8) != ("scales" in found and "packed" not in found):
        raise CheckpointError(f"tensor {name}.scales does not fit its weight", AGAIN)


def quantize(folder: Path, out: Path, dtype: str) -> int:
    """Writes the model of a folder to `out`, an absent or empty folder, with its matrices in `dtype`; the bytes of its
    weights. Everything beside the weights is copied. The folder is there whole or not at all.

    Raises ModelError, UsageError for a folder that is quantized already, LlmcliError where `out` cannot be written.
    """
    if quantized_dtype(folder) is not None:
        raise UsageError(f"{folder} is quantized already", "give the model that it was made from")
    model, source = stored_model(folder)
    tensors = small_tensors(model, dtype, source.release)
    keys = json.loads((folder / "config.json").read_bytes()) | {QUANTIZED_KEY: dtype}
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        for path in sorted(folder.iterdir()):
            if path.is_file() and path.suffix in _BESIDE and path.name not in ("config.json", INDEX):
                shutil.copyfile(path, part / path.name)
        (part / "config.json").write_text(json.dumps(keys, indent=2) + "\n", "utf-8")
        save_file(tensors, part / SINGLE, metadata={"format": "llmcli", "dtype": dtype})
        (part / SINGLE).chmod((part / "config.json").stat().st_mode)  # safetensors lets the owner alone read it
        size = (part / SINGLE).stat().st_size
        part.replace(out)
    except (OSError, SafetensorError) as error:
        raise LlmcliError(f"{out} cannot be written: {getattr(error, 'strerror', None) or error}", ROOM) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return size


_BESIDE = (".json", ".txt", ".model", ".jinja", ".md")
"""The kinds of files that stand beside weights: tokenizer, generation settings, chat template, model card."""
