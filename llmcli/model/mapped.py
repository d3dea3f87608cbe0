"""Weights where they lie: a file mapped into memory, tensors as views of it."""

import mmap
from pathlib import Path

import torch
from torch import Tensor, nn

from llmcli.errors import CheckpointError
from llmcli.model.header import AGAIN, StoredTensor

STORED_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_SMALL_DTYPES = {"I8": torch.int8, "U8": torch.uint8}
"""Of quantized folders alone."""


class MappedFile:
    """A file mapped privately: tensors are views of its pages, read from disk when first touched."""

    def __init__(self, path: Path) -> None:
        try:
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path} cannot be mapped: {error}", "check its permissions") from None
        self._address = torch.frombuffer(self._map, dtype=torch.uint8, count=1).data_ptr()

    def tensor(self, stored: StoredTensor) -> Tensor:
        """A view; a copy only where the bytes do not lie on a multiple of the element's size."""
        dtype = (STORED_DTYPES | _SMALL_DTYPES)[stored.dtype]
        if stored.start % dtype.itemsize:
            data = torch.frombuffer(bytearray(self._map[stored.start : stored.start + stored.size]), dtype=dtype)
        else:
            count = stored.size // dtype.itemsize
            data = torch.frombuffer(self._map, dtype=dtype, count=count, offset=stored.start)
        return data.view(stored.shape)

    def holds(self, tensor: Tensor) -> bool:
        """Whether the tensor is a view of this mapping."""
        return 0 <= tensor.data_ptr() - self._address < len(self._map)

    def release(self, stored: StoredTensor | None = None) -> None:
        """Gives the tensor's whole pages back, or all; touched again, they are read again."""
        if hasattr(mmap, "MADV_DONTNEED"):
            first, end = (0, len(self._map)) if stored is None else (stored.start, stored.start + stored.size)
            start = -(-first // mmap.PAGESIZE) * mmap.PAGESIZE
            length = end // mmap.PAGESIZE * mmap.PAGESIZE - start
            if length > 0:
                self._map.madvise(mmap.MADV_DONTNEED, start, length)


def checked(name: str, tensor: Tensor) -> Tensor:
    """The tensor itself. Raises CheckpointError where it is not finite."""
    if tensor.is_floating_point() and not is_finite(tensor):
        raise CheckpointError(f"tensor {name} holds numbers that are not finite", AGAIN)
    return tensor


def is_finite(tensor: Tensor) -> bool:
    """One pass over a contiguous tensor, allocating nothing: NaN and infinity both reach the smallest or the largest.

    It reads the whole tensor, which the first token would do anyway: the pages are then in memory for it.
    """
    low, high = torch.aminmax(tensor)
    return bool(torch.isfinite(low) & torch.isfinite(high))


def assign(model: nn.Module, name: str, value: Tensor) -> None:
    module, _, parameter = name.rpartition(".")
    setattr(model.get_submodule(module), parameter, nn.Parameter(value, requires_grad=False))
