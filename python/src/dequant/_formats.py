"""The types that GGUF tensors have, and those that values are written as."""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

import numpy as np

from . import _core


class Format(NamedTuple):
    """A ggml tensor type."""

    name: str
    id: int
    elements: int  #: of a block
    bytes: int  #: of a block
    kind: str  #: "quantized", "float", or "copied" (F64 and integers)

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.bytes / self.elements


class DType(NamedTuple):
    """A type that values are written as."""

    name: str  #: as numpy and torch spell it
    id: int  #: ggml's
    size: int  #: bytes of a value
    storage: np.dtype[Any]  #: what numpy allocates
    is_torch: bool  #: asked for as a torch.dtype


_FORMATS = tuple(Format(*row) for row in _core.types())
_FORMAT_OF: dict[Any, Format] = {
    key: f for f in _FORMATS for key in (f.id, f.name, f.name.lower())
}

_F32 = DType("float32", 0, 4, np.dtype(np.float32), False)
_F16 = DType("float16", 1, 2, np.dtype(np.float16), False)
_BF16 = DType("bfloat16", 30, 2, np.dtype(np.uint16), False)
_NAMES = {
    "float32": _F32, "f32": _F32, "float": _F32,
    "float16": _F16, "f16": _F16, "half": _F16,
    "bfloat16": _BF16, "bf16": _BF16,
}  # fmt: skip
_DTYPE_OF: dict[Any, DType] = dict(_NAMES)  # and whatever else was asked for


def formats() -> tuple[Format, ...]:
    """Every known type, in the order of its id."""
    return _FORMATS


def target() -> str:
    """The SIMD target in use, such as "AVX2". DEQUANT_TARGET=NAME forces one."""
    return _core.target()


def find_format(qtype: Any) -> Format:
    """The type with that id, name or `gguf.GGMLQuantizationType`."""
    try:
        found = _FORMAT_OF.get(qtype)
        if found is None and isinstance(qtype, str):
            found = _FORMAT_OF.get(qtype.upper())
    except TypeError:  # not hashable
        found = None
    if found is not None:
        return found
    if isinstance(qtype, (str, int)):
        known = ", ".join(f.name for f in _FORMATS)
        raise ValueError(f"unknown tensor type {qtype!r}; known are {known}")
    raise TypeError(
        "qtype: expected a name such as 'Q4_K', an id or a gguf.GGMLQuantizationType, "
        f"got {type(qtype).__name__}"
    )


def find_dtype(dtype: Any) -> DType:
    """The output type of a name, numpy dtype or torch dtype."""
    try:
        return _DTYPE_OF[dtype]
    except (KeyError, TypeError):
        pass
    torch = sys.modules.get("torch")
    is_torch = torch is not None and isinstance(dtype, torch.dtype)
    if is_torch:
        name = str(dtype).removeprefix("torch.")
    elif isinstance(dtype, str):
        name = dtype.lower()
    else:
        try:
            name = np.dtype(dtype).name
        except TypeError:
            name = ""
    found = _NAMES.get(name)
    if found is None:
        raise TypeError(f"dtype: expected float16, bfloat16 or float32, got {dtype!r}")
    if is_torch:
        found = found._replace(is_torch=True)
    _DTYPE_OF[dtype] = found
    return found
