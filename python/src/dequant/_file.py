"""GGUF files: metadata, tensors, and whole models as state dicts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from . import _arrays, _core
from ._formats import _FORMAT_OF, DType, Format, find_dtype
from ._progress import reporting

PathLike = str | bytes | os.PathLike
_COPIED = {
    "I8": "int8",
    "I16": "int16",
    "I32": "int32",
    "I64": "int64",
    "F64": "float64",
}


@dataclass(frozen=True, slots=True)
class GGUFTensor:
    """A tensor of an open GGUFFile."""

    name: str
    type: str  #: "Q4_K"; "unknown(43)" for a type that we do not know
    type_id: int
    shape: tuple[int, ...]  #: the model's, outermost first
    shape_source: str  #: where it came from: "dims", "orig_shape" or "reference"
    offset: int  #: of the data, in bytes from the start of the file
    nbytes: int  #: of the data; 0 if the type is unknown
    file: str  #: the shard that holds it
    _owner: GGUFFile = field(repr=False, compare=False)
    _index: int = field(repr=False, compare=False)

    @property
    def data(self) -> np.ndarray:
        """The bytes as they stand in the file: a read-only view of the mapped file,
        which stays mapped as long as the view lives, also after close(). A file
        that another program cuts short meanwhile kills the process, as with any
        mapping; dequantize() reads and is safe from that."""
        return self._owner._open().data(self._index)

    def dequantize(
        self,
        rows: slice | int | None = None,
        dtype: Any = "float16",
        *,
        out: Any = None,
        threads: int | None = None,
        framework: str | None = None,
    ) -> Any:
        """The values, or those of some rows; only the blocks needed are read.

        rows: a slice of the first dimension with step 1, or one index, which drops
            the dimension as in numpy.
        dtype, out, threads: as for dequantize(). Integers and F64 keep their type.
        framework: "numpy" (default) or "torch"; a torch dtype means torch too.

        Raises ValueError or TypeError for wrong arguments, Error for a bad file.
        """
        form = self._format()
        copied = form.kind == "copied"
        target = _copied_dtype(form) if copied else find_dtype(dtype)
        begin, end, shape = self._rows(rows)
        as_torch = _wants_torch(framework, target)
        per_row = _arrays.elements(self.shape[1:])
        first, count = begin * per_row, (end - begin) * per_row  # elements
        first_block = first // form.elements
        blocks = -(-(first + count) // form.elements) - first_block if count else 0
        inside = first - first_block * form.elements  # where the rows begin
        if out is None:
            memory = _arrays.empty(shape, target)
            result = _arrays.finish(memory, target, as_torch)
        else:
            memory, result = _arrays.out_memory(out, target), out
            as_torch = as_torch or _arrays.is_tensor(out)
            if memory.nbytes != count * target.size:
                raise ValueError(
                    f"{self._subject()}: out: expected {count * target.size} "
                    f"bytes for shape {shape}, got {memory.nbytes}"
                )
        whole = blocks * form.elements == count
        into = memory if whole else np.empty(blocks * form.elements, target.storage)
        job = (self._index, first_block, blocks, None if copied else target.id, into)
        n = _arrays.default_threads(threads, as_torch)
        self._owner._open().read([job], n, None)
        if not whole:
            flat = memory.reshape(-1).view(target.storage)
            flat[:] = into[inside : inside + count]
        return result

    def _rows(self, rows: slice | int | None) -> tuple[int, int, tuple[int, ...]]:
        """First row, end, and the shape of the result."""
        if rows is None:
            return 0, self.shape[0] if self.shape else 1, self.shape
        if not self.shape:
            raise ValueError(f"{self._subject()}: has no rows, its shape is ()")
        count = self.shape[0]
        if isinstance(rows, slice):
            begin, end, step = rows.indices(count)
            if step != 1:
                raise ValueError(
                    f"{self._subject()}: rows: expected step 1, got {step}"
                )
            end = max(begin, end)
            return begin, end, (end - begin, *self.shape[1:])
        if isinstance(rows, bool) or not hasattr(rows, "__index__"):
            raise TypeError(
                f"{self._subject()}: rows: expected a slice or an int, "
                f"got {type(rows).__name__}"
            )
        index = rows.__index__()
        if not -count <= index < count:
            raise IndexError(f"{self._subject()}: row {index} of {count}")
        index %= count
        return index, index + 1, self.shape[1:]

    def _format(self) -> Format:
        form = _FORMAT_OF.get(self.type_id)
        if form is None:
            raise ValueError(f"{self._subject()}: its type, {self.type}, is not known")
        return form

    def _subject(self) -> str:
        return f"tensor {self.name!r}"


class Metadata(Mapping[str, Any]):
    """Metadata of a GGUFFile. A value is decoded when it is asked for: int, float,
    bool, str, or a list of them."""

    def __init__(self, owner: GGUFFile) -> None:
        self._owner = owner
        self._keys = dict.fromkeys(owner._open().keys())

    def __getitem__(self, key: str) -> Any:
        if key not in self._keys:
            raise KeyError(key)
        return self._owner._open().value(key)

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, key: object) -> bool:
        return key in self._keys

    def __repr__(self) -> str:
        return f"<Metadata of {len(self)} keys>"


class GGUFFile(Mapping[str, GGUFTensor]):
    """An open GGUF file, or a whole set of shards: a mapping of names to tensors.

    path: a file, any shard `NAME-00001-of-0000N.gguf`, or a folder with one model.
    like: true shapes, see load().

    The file is checked in full before anything is handed out; Error otherwise.
    Close it with close() or `with`; whatever was handed out stays valid.
    """

    def __init__(self, path: PathLike, *, like: Any = None) -> None:
        self.path = os.fspath(path)
        self._model: _core.Model | None = _core.Model(
            os.fsencode(path), shape_reference(like)
        )
        #: Every tensor, in the order of the file.
        self.tensors: tuple[GGUFTensor, ...] = tuple(
            GGUFTensor(*(*row, self, i)) for i, row in enumerate(self._model.tensors())
        )
        self._by_name = {t.name: t for t in self.tensors}
        self.metadata = Metadata(self)
        #: Oddities that do not matter, one line each.
        self.warnings: tuple[str, ...] = tuple(self._model.warnings())

    def _open(self) -> _core.Model:
        if self._model is None:
            raise ValueError(f"{self.path!r} is closed")
        return self._model

    @property
    def closed(self) -> bool:
        return self._model is None

    def close(self) -> None:
        """Closes the file; calling it again does nothing."""
        self._model = None

    def __enter__(self) -> GGUFFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getitem__(self, name: str) -> GGUFTensor:
        return self._by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)

    def __repr__(self) -> str:
        return (
            f"<GGUFFile {self.path!r}, {len(self)} tensors{', closed' * self.closed}>"
        )


def load(
    path: PathLike,
    dtype: Any = "float16",
    *,
    framework: str = "torch",
    like: Any = None,
    threads: int | None = None,
    progress: bool | Callable[[int, int], object] | None = None,
    cast_all: bool = True,
    dtype_for: Mapping[str, Any] | None = None,
    fold: bool = True,
    include: str = "",
    exclude: str = "",
) -> dict[str, Any]:
    """A whole model: names to dense tensors in their true shapes, as
    `load_state_dict` takes them.

    path: a file, any shard of a set, or a folder with one model.
    dtype: of the values; integers and F64 keep theirs. With cast_all=False plain
        F32, F16 and BF16 tensors keep theirs too, as in convert().
    framework: "torch" or "numpy".
    like: true shapes where the file has lost them: a safetensors file or its
        .index.json, a .json file of names and shapes, or a mapping of names to
        shapes or to anything with a shape, such as `module.state_dict()`.
    progress: True for a tqdm bar, or a function of bytes done and bytes in all
        that may return False to stop (then Error is raised).
    dtype_for: regular expressions and the dtype of the tensors whose name contains
        a match, such as {"norm|bias": "float32"}; the first match counts.
    fold: multiply the scales of NVFP4 weights in (NAME.scale, NAME.weight.scale);
        False keeps both apart.
    include, exclude: regular expressions that a name must, must not contain.

    Every tensor owns its memory. Ctrl-C stops it. Tensors of unknown type are left
    out, with a warning. Raises Error for a bad file.
    """
    import warnings

    target = find_dtype(dtype)
    as_torch = _wants_torch(framework, None)
    options = load_options(
        target, cast_all, dtype_for, fold, threads, as_torch, like, include, exclude
    )
    with reporting(progress) as report:
        tensors, oddities = _core.load(os.fsencode(path), options, report)
    for text in oddities:
        warnings.warn(text, stacklevel=2)
    result: dict[str, Any] = {}
    for name, kind, shape, memory in tensors:
        copied = kind in _COPIED
        to = _copied_dtype(_FORMAT_OF[kind]) if copied else find_dtype(kind)
        array = memory.view(to.storage).reshape(shape)
        result[name] = _arrays.finish(array, to, as_torch)
    return result


def load_options(
    dtype: DType,
    cast_all: bool,
    dtype_for: Mapping[str, Any] | None,
    fold: bool,
    threads: int | None,
    as_torch: bool,
    like: Any,
    include: str,
    exclude: str,
) -> tuple[Any, ...]:
    """What load() and convert() share, as the extension takes it."""
    rules = [(text, find_dtype(d).id) for text, d in (dtype_for or {}).items()]
    n = _arrays.default_threads(threads, as_torch)
    shapes = shape_reference(like)
    return (dtype.id, cast_all, rules, fold, n, shapes, include, exclude)


def shape_reference(like: Any) -> _core.ShapeReference | None:
    """`like` as of load()."""
    if like is None:
        return None
    if isinstance(like, Mapping):
        shapes: Any = {name: getattr(s, "shape", s) for name, s in like.items()}
        return _core.ShapeReference(
            "like", [(name, [*map(int, shape)]) for name, shape in shapes.items()]
        )
    path = os.fsencode(like)
    if path.endswith(b".json") and not path.endswith(b".index.json"):
        return _core.ShapeReference.from_json(path)
    return _core.ShapeReference.from_safetensors(path)


def _copied_dtype(form: Format) -> DType:
    storage = np.dtype(_COPIED[form.name])
    return DType(storage.name, form.id, storage.itemsize, storage, False)


def _wants_torch(framework: str | None, target: DType | None) -> bool:
    if framework == "torch":
        import torch  # noqa: F401  (an error that names it, if it is missing)

        return True
    if framework not in (None, "numpy"):
        raise ValueError(f"framework: expected 'torch' or 'numpy', got {framework!r}")
    return framework is None and target is not None and target.is_torch
