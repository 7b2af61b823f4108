"""Speeds up packages that dequantize on the CPU in Python: gguf, ComfyUI-GGUF,
diffusers. Whatever dequant does not know, and tensors on an accelerator, keep the
package's own path."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from ._dequantize import dequantize
from ._formats import _FORMAT_OF


class Patch:
    """What patch() has replaced. undo() puts it back; so does the end of a `with`."""

    def __init__(self, name: str, places: list[tuple[ModuleType, str, Any]]) -> None:
        self.name = name
        self._places = places  # module, attribute, what was there

    @property
    def active(self) -> bool:
        """Whether it is in force."""
        return _ACTIVE.get(self.name) is self

    def undo(self) -> None:
        """Puts back what was there; calling it again does nothing."""
        if not self.active:
            return
        for module, attribute, original in self._places:
            setattr(module, attribute, original)
        del _ACTIVE[self.name]

    def __enter__(self) -> Patch:
        return self

    def __exit__(self, *_: object) -> None:
        self.undo()

    def __repr__(self) -> str:
        places = ", ".join(f"{m.__name__}.{a}" for m, a, _ in self._places)
        return f"<Patch {self.name!r} of {places}{'' if self.active else ', undone'}>"


_ACTIVE: dict[str, Patch] = {}


def patch(name: str) -> Patch:
    """Replaces the slow CPU path of a package.

    "gguf": `gguf.dequantize` and `gguf.quants.dequantize`, and with them whatever
        calls these, such as transformers' loading of GGUF files.
    "comfyui_gguf": `dequantize_tensor` of ComfyUI-GGUF, wherever it was imported
        from; tensors that it would dequantize with numpy come in their true shape.
    "diffusers": `dequantize_gguf_tensor`.

    Returns a handle with undo(), usable with `with`. Patching what is patched
    returns the handle that is in force. Raises ImportError if the package is not
    there (ComfyUI-GGUF: not loaded yet), ValueError for another name.
    """
    if name not in _PATCHES:
        raise ValueError(f"patch: expected one of {', '.join(_PATCHES)}; got {name!r}")
    if name not in _ACTIVE:
        _ACTIVE[name] = Patch(name, _PATCHES[name]())
    return _ACTIVE[name]


def _replace(attribute: str, original: Any, replacement: Any) -> list:
    """Sets `attribute` in every module where it is `original`."""
    places = []
    for module in list(sys.modules.values()):
        if getattr(module, "__dict__", {}).get(attribute) is original:
            setattr(module, attribute, replacement)
            places.append((module, attribute, original))
    return places


def _patch_gguf() -> list:
    import gguf

    original = gguf.quants.dequantize

    @functools.wraps(original)
    def replacement(data: Any, qtype: Any) -> Any:
        form = _FORMAT_OF.get(qtype)
        # F32 is only a view there, and a lazy tensor is no array.
        if form is None or form.kind == "copied" or form.name == "F32":
            return original(data, qtype)
        if not isinstance(data, np.ndarray) or data.ndim == 0:
            return original(data, qtype)
        return dequantize(np.asarray(data), form.id, dtype="float32")

    return _replace("dequantize", original, replacement)


def _patch_comfyui_gguf() -> list:
    modules = [
        m
        for m in list(sys.modules.values())
        if {"dequantize_tensor", "dequantize_functions", "dequantize"}
        <= getattr(m, "__dict__", {}).keys()
    ]
    if not modules:
        raise ImportError("ComfyUI-GGUF is not loaded: no module has its functions")
    places = []
    for module in modules:
        original = module.dequantize_tensor
        replacement = _comfyui_dequantize_tensor(original, module.dequantize_functions)
        places += _replace("dequantize_tensor", original, replacement)
    return places


def _comfyui_dequantize_tensor(original: Callable, functions: dict) -> Callable:
    import torch

    result_dtype = _native_dtypes(functions)

    @functools.wraps(original)
    def dequantize_tensor(
        tensor: Any, dtype: Any = None, dequant_dtype: Any = None, **options: Any
    ) -> Any:
        qtype = getattr(tensor, "tensor_type", None)
        if not _ours(tensor, qtype) or _FORMAT_OF[qtype].name in ("F32", "F16"):
            return original(tensor, dtype, dequant_dtype, **options)
        if isinstance(dtype, torch.dtype):
            wanted = dtype
        elif isinstance(dequant_dtype, torch.dtype):
            wanted = dequant_dtype
        else:
            wanted = result_dtype(qtype)
        shape = getattr(tensor, "tensor_shape", None)
        return _to(tensor, qtype, shape, wanted)

    return dequantize_tensor


def _patch_diffusers() -> list:
    from diffusers.quantizers.gguf import utils

    original = utils.dequantize_gguf_tensor
    result_dtype = _native_dtypes(utils.dequantize_functions)

    @functools.wraps(original)
    def dequantize_gguf_tensor(tensor: Any) -> Any:
        qtype = getattr(tensor, "quant_type", None)
        if not _ours(tensor, qtype):
            return original(tensor)
        return _to(tensor, qtype, None, result_dtype(qtype))

    return _replace("dequantize_gguf_tensor", original, dequantize_gguf_tensor)


def _ours(tensor: Any, qtype: Any) -> bool:
    form = _FORMAT_OF.get(qtype) if qtype is not None else None
    return form is not None and form.kind != "copied" and tensor.device.type == "cpu"


def _to(tensor: Any, qtype: Any, shape: Any, dtype: Any) -> Any:
    """A plain dense tensor of any float dtype."""
    import torch

    direct = dtype in (torch.float16, torch.bfloat16, torch.float32)
    raw = torch.Tensor._make_subclass(torch.Tensor, tensor)  # a plain one, no copy
    dense = dequantize(raw, int(qtype), shape, dtype if direct else torch.float32)
    return dense if direct else dense.to(dtype)


def _native_dtypes(functions: dict) -> Callable:
    """Which dtype a package's own functions give if none is asked for: they are run
    on one block of zeros. What they lack goes through numpy there: float32."""
    import torch

    @functools.cache
    def dtype_of(qtype: Any) -> Any:
        if qtype not in functions:
            return torch.float32
        form = _FORMAT_OF[qtype]
        block = torch.zeros((1, form.bytes), dtype=torch.uint8)
        return functions[qtype](block, form.elements, form.bytes).dtype

    return dtype_of


_PATCHES = {
    "gguf": _patch_gguf,
    "comfyui_gguf": _patch_comfyui_gguf,
    "diffusers": _patch_diffusers,
}
