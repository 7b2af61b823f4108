"""What the tests share: files made for them, and expected bits."""

from __future__ import annotations

import json
import pathlib
import struct
import subprocess
import sys

import gguf
import numpy as np
import pytest

import dequant

ROOT = pathlib.Path(__file__).parents[2]


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="also the tests marked long")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--long"):
        skip = pytest.mark.skip(reason="only with --long")
        for item in items:
            if "long" in item.keywords:
                item.add_marker(skip)


def known_to_gguf():
    """Names of the quantized formats that the gguf package has code for."""
    names = []
    for f in dequant.formats():
        try:
            kind = gguf.GGMLQuantizationType(f.id)
            gguf.quants.dequantize(np.zeros((1, f.bytes), np.uint8), kind)
        except (NotImplementedError, ValueError, AttributeError):
            continue
        names.append(f.name)
    return names


def blocks(name, count, seed=1):
    """Random blocks as uint8; some scales are NaN or infinite."""
    f = next(f for f in dequant.formats() if f.name == name)
    return np.random.default_rng(seed).integers(0, 256, count * f.bytes, np.uint8)


def reference(data, name):
    """The gguf package's answer, F32."""
    with np.errstate(all="ignore"):
        return gguf.quants.dequantize(
            np.ascontiguousarray(data), gguf.GGMLQuantizationType[name]
        )


def round_once(values, dtype):
    """The bits of F32 `values` as dtype; NaN is the one canonical NaN."""
    values = np.ascontiguousarray(values, np.float32)
    bits = values.view(np.uint32)
    if dtype == "float32":
        return np.where(np.isnan(values), np.uint32(0x7FC00000), bits)
    if dtype == "float16":
        with np.errstate(all="ignore"):
            half = values.astype(np.float16).view(np.uint16)
        return np.where(np.isnan(values), np.uint16(0x7E00), half)
    wide = bits.astype(np.uint64)
    half = ((wide + 0x7FFF + ((wide >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FC0), half)


def bits_of(x):
    """The bits of an array or tensor."""
    if not isinstance(x, np.ndarray):
        import torch

        x = x.view(torch.int32 if x.element_size() == 4 else torch.int16).numpy()
    return x.view(f"u{x.itemsize}")


#: name, type, stored shape (outermost first), the model's shape
TABLE = [
    ("embed", "Q6_K", (64, 512), (64, 512)),
    ("attn.q", "Q4_K", (96, 256), (96, 256)),
    ("conv", "Q4_0", (6, 64), (6, 2, 4, 2, 2, 2)),  # six dimensions: not GGUF's
    ("modulation", "F32", (6, 96), (1, 6, 96)),
    ("norm", "F32", (96,), (96,)),
    ("half", "F16", (3, 5), (3, 5)),
    ("brain", "BF16", (3, 7), (3, 7)),
    ("fp4", "MXFP4", (4, 32), (4, 32)),
    ("index", "I32", (4, 2), (4, 2)),
    ("wide", "F64", (3,), (3,)),
]


def tensor_data():
    """The bytes of each tensor of TABLE, in rows as the gguf package wants them."""
    random = np.random.default_rng(7)
    data = {}
    for name, kind, stored, _ in TABLE:
        if kind == "F32":
            data[name] = random.standard_normal(stored, np.float32)
        elif kind == "F16":
            data[name] = random.standard_normal(stored).astype(np.float16)
        elif kind == "I32":
            data[name] = random.integers(-(2**31), 2**31, stored, np.int32)
        elif kind == "F64":
            data[name] = random.standard_normal(stored)
        else:
            f = next(f for f in dequant.formats() if f.name == kind)
            row = stored[-1] // f.elements * f.bytes
            data[name] = random.integers(0, 256, (*stored[:-1], row), np.uint8)
    return data


def write_model(path, with_keys):
    writer = gguf.GGUFWriter(str(path), "test")
    writer.add_uint32("test.answer", 42)
    writer.add_float32("test.ratio", 0.5)
    writer.add_bool("test.flag", True)
    writer.add_string("test.name", "näme")
    writer.add_array("test.tokens", ["a", "b", "ü"] * 1000)
    writer.add_array("test.numbers", [1, -2, 3])
    if with_keys:
        for name, _, stored, true in TABLE:
            if stored != true:
                writer.add_array(f"comfy.gguf.orig_shape.{name}", list(true))
    for (name, kind, _, _), data in zip(TABLE, tensor_data().values(), strict=True):
        raw = (
            None
            if kind in ("F32", "F16", "I32", "F64")
            else gguf.GGMLQuantizationType[kind]
        )
        writer.add_tensor(name, data, raw_dtype=raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def model(folder):
    """A model whose true shapes are in its keys."""
    write_model(folder / "model.gguf", with_keys=True)
    return folder / "model.gguf"


@pytest.fixture(scope="session")
def bare(folder):
    """The same without the keys."""
    write_model(folder / "bare.gguf", with_keys=False)
    return folder / "bare.gguf"


@pytest.fixture(scope="session")
def like(folder):
    """A safetensors file of the true shapes; its data is sparse."""
    header, end = {}, 0
    for name, _, _, shape in TABLE:
        size = int(np.prod(shape)) * 2
        header[name] = {
            "dtype": "F16",
            "shape": shape,
            "data_offsets": [end, end + size],
        }
        end += size
    text = json.dumps(header).encode()
    path = folder / "like.safetensors"
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        f.truncate(8 + len(text) + end)
    return path


@pytest.fixture(scope="session")
def real_model():
    """Gemma 3 270M, fetched by scripts/gemma."""
    return subprocess.run(
        [ROOT / "scripts/gemma"], check=True, capture_output=True, text=True
    ).stdout.strip()


def run_python(code, *args, timeout=120):
    """Runs `code` in a new process and returns what it prints."""
    result = subprocess.run(
        [sys.executable, "-c", code, *map(str, args)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()
