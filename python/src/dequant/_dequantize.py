"""One tensor's bytes to values."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from . import _arrays, _core
from ._formats import _DTYPE_OF, _FORMAT_OF, Format, find_dtype, find_format


def dequantize(
    data: Any,
    qtype: Any,
    shape: Sequence[int] | None = None,
    dtype: Any = "float16",
    *,
    out: Any = None,
    threads: int | None = None,
) -> Any:
    """Dequantizes the blocks in `data`.

    data: bytes, memoryview, mmap, numpy array, CPU tensor, `gguf.ReaderTensor`, or
        anything with DLPack or the buffer protocol. It may be strided; then it is
        copied first.
    qtype: "Q4_K", its id, or a `gguf.GGMLQuantizationType`.
    shape: of the result, outermost first. Default: that of `data` with its last
        dimension, which counts bytes, turned into elements.
    dtype: float16, bfloat16 or float32, as a name, numpy dtype or torch dtype.
    out: writes here instead of into new memory, and returns it: writable and
        contiguous, of type `dtype` or of bytes (bfloat16: also of uint16).
    threads: 0 or None for all; where torch is involved, None means as many as torch
        uses.

    Returns a torch tensor if `data` is one or `dtype` is torch's, else a numpy
    array. bfloat16 is `ml_dtypes.bfloat16` in numpy if that is installed, else
    uint16: `(a.astype(np.uint32) << 16).view(np.float32)` gives the values.

    Raises ValueError for sizes and shapes that do not fit, TypeError for types.
    """
    # The usual keys first; the functions know the rest and raise.
    try:
        form = _FORMAT_OF.get(qtype) or find_format(qtype)
        target = _DTYPE_OF.get(dtype) or find_dtype(dtype)
    except TypeError:  # not hashable
        form, target = find_format(qtype), find_dtype(dtype)

    as_torch = target.is_torch
    if type(data) is not np.ndarray:
        as_torch = as_torch or _arrays.is_tensor(data)
        source = _arrays.source_memory(data)
    elif data.flags.c_contiguous:
        source = data
    else:
        source = np.ascontiguousarray(data)
    if form.kind == "copied":
        raise TypeError(
            f"{form.name} values are copied, there is nothing to dequantize"
        )

    shape = _result_shape(data, source, form, shape)
    if out is None:
        memory = _arrays.empty(shape, target)
        result = _arrays.finish(memory, target, as_torch)
    else:
        memory, result = _arrays.out_memory(out, target), out
        as_torch = as_torch or _arrays.is_tensor(out)
        want = source.nbytes // form.bytes * form.elements * target.size
        if memory.nbytes != want:
            raise ValueError(
                f"out: expected {want} bytes for {form.name} of shape {shape}, "
                f"got {memory.nbytes}"
            )
    _core.run(
        form.id,
        source,
        target.id,
        memory,
        0
        if threads is None and not as_torch
        else _arrays.default_threads(threads, as_torch),
    )
    return result


def _result_shape(
    data: Any, source: np.ndarray, form: Format, shape: Sequence[int] | None
) -> tuple[int, ...]:
    size = source.nbytes
    if shape is None:
        row = source.shape[-1] * source.itemsize if source.ndim > 1 else size
        if row % form.bytes:
            raise ValueError(
                f"{_subject(data, form)}: expected a multiple of {form.bytes} bytes "
                f"(a block of {form.elements} elements)"
                f"{' per row' if source.ndim > 1 else ''}, got {row}"
            )
        return (*source.shape[:-1], row // form.bytes * form.elements)
    try:
        shape = tuple(map(operator.index, shape))
    except TypeError:
        raise TypeError(f"shape: expected integers, got {shape!r}") from None
    n = _arrays.elements(shape)
    if n % form.elements:
        raise ValueError(
            f"{_subject(data, form)}: shape {shape} has {n} elements, expected a "
            f"multiple of the block's {form.elements}"
        )
    if n // form.elements * form.bytes != size:
        raise ValueError(
            f"{_subject(data, form)}: shape {shape} expects "
            f"{n // form.elements * form.bytes} bytes, got {size}"
        )
    return shape


def _subject(data: Any, form: Format) -> str:
    name = getattr(data, "name", None)
    return f"tensor {name!r} ({form.name})" if isinstance(name, str) else form.name
