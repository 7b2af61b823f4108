"""For those who hold packed tensors in torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ._dequantize import dequantize

__all__ = ["dequantize_tensor"]


def dequantize_tensor(
    raw: Any,
    tensor_type: Any,
    shape: Sequence[int] | None,
    dtype: torch.dtype = torch.float16,
) -> torch.Tensor:
    """A dense CPU tensor of the packed bytes `raw`.

    raw: a CPU tensor, or whatever else dequantize() takes.
    tensor_type: a `gguf.GGMLQuantizationType`, its name or its number.
    shape: of the model's tensor; None if the rows of `raw` tell.
    dtype: torch.float16, torch.bfloat16 or torch.float32.

    Runs on torch.get_num_threads() threads. Raises ValueError or TypeError.
    """
    if not isinstance(dtype, torch.dtype):
        raise TypeError(f"dtype: expected a torch.dtype, got {dtype!r}")
    return dequantize(raw, tensor_type, shape, dtype)
