"""GGUF files to safetensors files."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from . import _core
from ._file import PathLike, load_options
from ._formats import find_dtype
from ._progress import Progress, reporting

_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
          "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40}  # fmt: skip


def convert(
    src: PathLike,
    dst: PathLike,
    dtype: Any = "float16",
    *,
    cast_all: bool = False,
    like: Any = None,
    include: str = "",
    exclude: str = "",
    max_shard_size: int | str = 0,
    force: bool = False,
    threads: int | None = None,
    progress: Progress = None,
    dtype_for: Mapping[str, Any] | None = None,
    fold: bool = True,
    sync: bool = False,
    strict: bool = False,
) -> dict[str, Any]:
    """Writes a GGUF model as safetensors, every tensor dense and in its true shape.
    Memory does not grow with the model.

    dtype: of what was quantized; with cast_all plain float tensors become it too.
    like, progress, dtype_for, fold: as for load().
    include, exclude: regular expressions that a name must, must not contain.
    max_shard_size: splits the output; bytes, or "5GB".
    force: overwrites what is there.
    sync: waits until the output is on the disk; without it, as with `cp`, a power
        failure soon after may lose data.
    strict: raises Error for what "warnings" would hold.

    Returns a summary: "outputs" (paths), "tensors", "types", "shapes" (how many
    from which source), "skipped" (unknown types), "folded" (NVFP4 weights and their
    scales), "input_scales", "bytes_in", "bytes_out", "seconds", "warnings". Raises
    Error; then nothing is left behind.
    """
    target = find_dtype(dtype)
    options = load_options(
        target, cast_all, dtype_for, fold, threads, False, like, include, exclude
    )
    size = _size(max_shard_size)
    with reporting(progress) as report:
        return _core.convert(
            os.fsencode(src),
            os.fsencode(dst),
            options,
            size,
            force,
            sync,
            strict,
            report,
        )


def _size(value: int | str) -> int:
    if isinstance(value, int):
        if value < 0:
            raise ValueError(f"max_shard_size: expected 0 or more, got {value}")
        return value
    match = re.fullmatch(r"\s*(\d+)\s*([KMGT]I?B)?\s*", value, re.IGNORECASE)
    if match is None:
        raise ValueError(f"max_shard_size: expected bytes or '5GB', got {value!r}")
    return int(match[1]) * _UNITS[(match[2] or "").upper()]
