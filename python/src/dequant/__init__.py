"""GGUF files back into dense tensors, at the speed of memory.

    dequant.dequantize(data, "Q4_K", (3072, 3072))    one tensor's bytes
    dequant.load("model.gguf")                        a whole model, as a state dict
    dequant.GGUFFile("model.gguf")                    its metadata, tensors and rows
    dequant.convert("model.gguf", "model.safetensors")
    dequant.patch("gguf")                             speeds up other packages

F32 values equal ggml's bit for bit; F16 and BF16 are that value rounded once.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from . import _core
from ._convert import convert
from ._dequantize import dequantize
from ._error import Error
from ._file import GGUFFile, GGUFTensor, load
from ._formats import Format, formats, target
from ._patch import Patch, patch

__all__ = [
    "Error",
    "Format",
    "GGUFFile",
    "GGUFTensor",
    "Patch",
    "__version__",
    "convert",
    "dequantize",
    "formats",
    "load",
    "patch",
    "target",
]

__version__: str = _core.version


def __getattr__(name: str) -> ModuleType:
    if name == "torch":  # needs PyTorch, so it is imported on first use
        return importlib.import_module(".torch", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
