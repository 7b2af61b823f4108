"""Memory of other packages as numpy arrays and back, without copies.

torch is never imported here: an object can only be a tensor if the caller has.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from . import _core
from ._formats import DType

try:
    from ml_dtypes import bfloat16 as _ml_bfloat16
except ImportError:
    _ml_bfloat16 = None

#: What a bfloat16 result is in numpy.
BFLOAT16 = np.dtype(np.uint16 if _ml_bfloat16 is None else _ml_bfloat16)

#: From this size on memory is used again, bytes.
_LARGE = 4 << 20


def is_tensor(x: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


def tensor_memory(x: Any, what: str) -> np.ndarray:
    """The memory of a contiguous CPU tensor; writes go to the tensor. The last
    dimension is that of the tensor, or counts bytes."""
    if not x.is_cpu:
        raise ValueError(f"{what}: expected a CPU tensor, got one on {x.device}")
    try:
        return x.numpy()
    except (RuntimeError, TypeError):
        pass  # it needs a gradient, or numpy has no such type
    import torch

    x = x.detach()
    return (x if x.dim() else x.reshape(1)).view(torch.uint8).numpy()


def source_memory(data: Any) -> np.ndarray:
    """`data`, which is no numpy array, as one; contiguous."""
    if is_tensor(data):
        return tensor_memory(
            data if data.is_contiguous() else data.contiguous(), "data"
        )
    if hasattr(data, "tensor_type") and isinstance(
        getattr(data, "data", None), np.ndarray
    ):  # gguf.ReaderTensor
        return np.ascontiguousarray(data.data)
    try:
        view = memoryview(data)
    except TypeError:
        pass
    else:
        if view.ndim == 1 and view.c_contiguous:
            return np.frombuffer(view, np.uint8)
        return np.ascontiguousarray(view)
    if hasattr(data, "__dlpack__"):
        return np.ascontiguousarray(np.from_dlpack(data))
    raise TypeError(
        "data: expected bytes, a memoryview, an array, a CPU tensor or a "
        f"gguf.ReaderTensor, got {type(data).__name__}"
    )


def out_memory(out: Any, dtype: DType) -> np.ndarray:
    """The writable, contiguous memory of `out`, whose type must be `dtype` (or
    plain bytes)."""
    if type(out) is np.ndarray:
        array = out
    elif is_tensor(out):
        if not out.is_contiguous():
            raise ValueError("out: expected a contiguous tensor, got a strided one")
        name = str(out.dtype).removeprefix("torch.")
        if name not in (dtype.name, "uint8"):
            raise _wrong_type(name, dtype)
        return tensor_memory(out, "out")
    else:
        array = _as_array(out)
    if not array.flags.writeable:
        raise ValueError("out: expected writable memory, got read-only")
    if not array.flags.c_contiguous:
        raise ValueError("out: expected contiguous memory, got strided")
    # uint8 are bytes, and uint16 is what numpy stores bfloat16 as
    have = array.dtype
    if have != dtype.storage and have != np.uint8 and have.name != dtype.name:
        raise _wrong_type(have.name, dtype)
    return array


def _as_array(out: Any) -> np.ndarray:
    """An object with the buffer protocol or DLPack."""
    try:
        return np.asarray(memoryview(out))
    except TypeError:
        pass
    if hasattr(out, "__dlpack__"):
        return np.from_dlpack(out)
    raise TypeError(
        "out: expected a writable array, CPU tensor or buffer, "
        f"got {type(out).__name__}"
    )


def _wrong_type(name: str, dtype: DType) -> TypeError:
    return TypeError(
        f"out: expected {dtype.name}, got {name}; pass dtype={name!r} if that is meant"
    )


def empty(shape: Sequence[int], dtype: DType) -> np.ndarray:
    """Memory for values of `dtype`, of any content."""
    n = math.prod(shape) * dtype.size
    if n < _LARGE:
        return np.empty(shape, dtype.storage)
    return _core.allocate(n).view(dtype.storage).reshape(shape)


def finish(array: np.ndarray, dtype: DType, as_torch: bool) -> Any:
    """What the caller gets for the memory of empty()."""
    if as_torch:
        import torch

        if dtype.name == "bfloat16":
            return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(array)
    if dtype.name == "bfloat16":
        return array.view(BFLOAT16)
    return array


def default_threads(threads: int | None, as_torch: bool) -> int:
    """None: all, or with torch as many as torch uses (1 in a DataLoader worker)."""
    if threads is not None:
        if isinstance(threads, bool) or not isinstance(threads, int):
            raise TypeError(f"threads: expected an int, got {type(threads).__name__}")
        if threads < 0:
            raise ValueError(f"threads: expected 0 (all) or more, got {threads}")
        return threads
    if as_torch:
        return sys.modules["torch"].get_num_threads()
    return 0


def elements(shape: Sequence[int]) -> int:
    """The number of elements; ValueError for a negative dimension."""
    if min(shape, default=0) < 0:
        raise ValueError(f"shape: expected dimensions of 0 or more, got {tuple(shape)}")
    return math.prod(shape)
