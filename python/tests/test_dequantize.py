"""dequantize(): bits, inputs, outputs, errors."""

from __future__ import annotations

import mmap
import types

import gguf
import ml_dtypes
import numpy as np
import pytest
from conftest import bits_of, blocks, known_to_gguf, reference, round_once
from hypothesis import given, settings
from hypothesis import strategies as st

import dequant

DTYPES = ("float32", "float16", "bfloat16")
KERNELS = [f for f in dequant.formats() if f.kind != "copied"]


@pytest.mark.parametrize("name", known_to_gguf())
def test_every_format_equals_gguf(name):
    f = next(f for f in dequant.formats() if f.name == name)
    random = blocks(name, 512)
    inputs = [random]
    try:  # where the package can quantize
        values = np.random.default_rng(2).standard_normal((8, 512)).astype(np.float32)
        inputs.append(gguf.quants.quantize(values, gguf.GGMLQuantizationType[name]))
    except NotImplementedError:
        pass
    for data in inputs:
        data = np.ascontiguousarray(data).view(np.uint8).reshape(8, -1)
        want = reference(data, name)
        for dtype in DTYPES:
            got = dequant.dequantize(data, name, dtype=dtype)
            assert got.shape == (8, data.shape[1] // f.bytes * f.elements)
            expected = round_once(want, dtype)
            same = bits_of(got) == expected
            if name.lower() in (dtype, dtype.replace("loat", "")) or name == "BF16":
                same |= np.isnan(want)  # copied bit for bit
            assert same.all()


def test_gguf_knows_no_format_that_we_lack():
    ours = {f.id for f in dequant.formats()}
    for kind in gguf.GGMLQuantizationType:
        assert kind in ours


def test_the_type_by_name_number_and_enum():
    data = blocks("Q4_K", 3)
    want = bits_of(dequant.dequantize(data, "Q4_K"))
    for qtype in ("q4_k", "Q4_k", 12, gguf.GGMLQuantizationType.Q4_K):
        assert (bits_of(dequant.dequantize(data, qtype)) == want).all()


def test_every_input_that_holds_bytes(tmp_path):
    data = blocks("Q5_K", 4)
    want = bits_of(dequant.dequantize(data, "Q5_K", (2, 512)))
    path = tmp_path / "blocks"
    path.write_bytes(data.tobytes())
    with open(path, "rb") as f:
        mapped = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
    tensor = types.SimpleNamespace(
        name="x", tensor_type=gguf.GGMLQuantizationType.Q5_K, data=data.reshape(2, -1)
    )
    strided = np.empty((4, 2, 176), np.uint8)
    strided[:, 0] = data.reshape(4, 176)
    for source in (
        data.tobytes(),
        bytearray(data),
        memoryview(data),
        memoryview(np.repeat(data, 2))[::2],
        mapped,
        data.view(np.uint16),
        np.memmap(path, np.uint8, "r"),
        tensor,
        strided[:, 0],
    ):
        got = dequant.dequantize(source, "Q5_K", (2, 512))
        assert got.shape == (2, 512)
        assert (bits_of(got) == want).all()
    assert dequant.dequantize(tensor, "Q5_K").shape == (2, 512)
    assert dequant.dequantize(data.tobytes(), "Q5_K").shape == (1024,)
    assert dequant.dequantize(b"", "Q5_K").shape == (0,)


def test_dtypes():
    data = blocks("Q8_0", 2)
    for dtype in ("float32", "F32", np.float32, np.dtype("float32")):
        assert dequant.dequantize(data, "Q8_0", dtype=dtype).dtype == np.float32
    assert dequant.dequantize(data, "Q8_0").dtype == np.float16
    assert dequant.dequantize(data, "Q8_0", dtype="bf16").dtype == ml_dtypes.bfloat16
    assert (
        dequant.dequantize(data, "Q8_0", dtype=ml_dtypes.bfloat16).dtype
        == ml_dtypes.bfloat16
    )
    for dtype in ("float64", np.int32, 3, None, "nonsense", []):
        with pytest.raises(TypeError, match="expected float16, bfloat16 or float32"):
            dequant.dequantize(data, "Q8_0", dtype=dtype)


def test_bfloat16_without_ml_dtypes(monkeypatch):
    monkeypatch.setattr("dequant._arrays.BFLOAT16", np.dtype(np.uint16))
    data = blocks("Q8_0", 2, seed=3)
    got = dequant.dequantize(data, "Q8_0", dtype="bfloat16")
    assert got.dtype == np.uint16
    values = (got.astype(np.uint32) << 16).view(np.float32)
    want = dequant.dequantize(data, "Q8_0", dtype="float32")
    assert np.allclose(values, want, rtol=0.01, equal_nan=True)


def test_out():
    data = blocks("Q6_K", 2)
    for dtype, maker in (
        ("float16", lambda: np.zeros((2, 256), np.float16)),
        ("float32", lambda: np.zeros((2, 256), np.float32)),
        ("bfloat16", lambda: np.zeros((2, 256), ml_dtypes.bfloat16)),
        ("bfloat16", lambda: np.zeros(512, np.uint16)),
        ("float16", lambda: bytearray(1024)),
        ("float16", lambda: memoryview(bytearray(1024))),
        ("float16", lambda: mmap.mmap(-1, 1024)),
    ):
        out = maker()
        assert dequant.dequantize(data, "Q6_K", (2, 256), dtype, out=out) is out
        want = dequant.dequantize(data, "Q6_K", (2, 256), dtype)
        memory = out.view(np.uint8) if isinstance(out, np.ndarray) else out
        assert bytes(memoryview(memory)) == want.tobytes()


def test_wrong_outs():
    data = blocks("Q6_K", 2)

    def run(out, dtype="float16"):
        dequant.dequantize(data, "Q6_K", (2, 256), dtype, out=out)

    read_only = np.zeros(512, np.float16)
    read_only.flags.writeable = False
    with pytest.raises(TypeError, match="expected float16, got float32"):
        run(np.zeros((2, 256), np.float32))
    with pytest.raises(ValueError, match="expected 1024 bytes .* got 1022"):
        run(np.zeros(511, np.float16))
    with pytest.raises(ValueError, match="contiguous"):
        run(np.zeros((2, 512), np.float16)[:, ::2])
    with pytest.raises(ValueError, match="read-only"):
        run(read_only)
    with pytest.raises(ValueError, match="read-only"):
        run(bytes(1024))
    with pytest.raises(TypeError, match="got list"):
        run([0] * 512)


def test_wrong_arguments():
    data = blocks("Q4_K", 2)
    with pytest.raises(ValueError, match="unknown tensor type 'Q9'"):
        dequant.dequantize(data, "Q9")
    with pytest.raises(ValueError, match="unknown tensor type 99"):
        dequant.dequantize(data, 99)
    with pytest.raises(TypeError, match="qtype: expected .* got list"):
        dequant.dequantize(data, [])
    with pytest.raises(TypeError, match="I32 values are copied"):
        dequant.dequantize(data, "I32")
    with pytest.raises(
        ValueError, match=r"Q4_K: shape \(3, 256\) expects 432 bytes, got 288"
    ):
        dequant.dequantize(data, "Q4_K", (3, 256))
    with pytest.raises(ValueError, match="multiple of the block's 256"):
        dequant.dequantize(data, "Q4_K", (2, 255))
    with pytest.raises(ValueError, match="dimensions of 0 or more"):
        dequant.dequantize(data, "Q4_K", (-2, -256))
    with pytest.raises(TypeError, match="shape: expected integers"):
        dequant.dequantize(data, "Q4_K", (2.0, 256))
    with pytest.raises(ValueError, match="multiple of 144 bytes.*got 287"):
        dequant.dequantize(data[:-1], "Q4_K")
    with pytest.raises(ValueError, match="per row, got 72"):
        dequant.dequantize(data.reshape(4, 72), "Q4_K")
    with pytest.raises(TypeError, match="data: expected bytes"):
        dequant.dequantize(3, "Q4_K")
    with pytest.raises(TypeError, match="threads: expected an int"):
        dequant.dequantize(data, "Q4_K", threads=1.5)
    with pytest.raises(ValueError, match="threads: expected 0"):
        dequant.dequantize(data, "Q4_K", threads=-1)
    tensor = types.SimpleNamespace(name="blk.0", tensor_type=12, data=data[:-1])
    with pytest.raises(ValueError, match="tensor 'blk.0'"):
        dequant.dequantize(tensor, "Q4_K")


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_shape_dtype_and_stride(data):
    form = data.draw(st.sampled_from(KERNELS))
    dtype = data.draw(st.sampled_from(DTYPES))
    rows = data.draw(st.integers(0, 5))
    columns = data.draw(st.integers(1, 4))  # blocks
    step = data.draw(st.sampled_from([1, 2, -1]))
    width = columns * form.bytes
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    base = random.integers(0, 256, (rows * 2, width), np.uint8)
    source = base[: rows * abs(step) : step] if step > 0 else base[:rows][::-1]
    n = rows * columns * form.elements
    shape = data.draw(
        st.sampled_from(
            [None, (n,), (rows, -1), (1, rows, columns, form.elements), (n, 1, 1)]
        )
    )
    if shape == (rows, -1):
        shape = (rows, columns * form.elements)
    threads = data.draw(st.sampled_from([None, 0, 1, 3]))
    want = dequant.dequantize(source.tobytes(), form.name, dtype=dtype, threads=1)
    got = dequant.dequantize(source, form.id, shape, dtype, threads=threads)
    assert got.shape == (shape or (rows, columns * form.elements))
    assert got.flags.c_contiguous and got.flags.writeable
    assert got.tobytes() == want.tobytes()
    out = np.full(n + 2, 7, bits_of(got).dtype)
    dequant.dequantize(
        source, form.id, dtype=dtype, out=out[1:-1].view(got.dtype), threads=threads
    )
    assert out[0] == out[-1] == 7
    assert (out[1:-1] == bits_of(want)).all()
    wrong = data.draw(st.integers(0, 3 * n + 3).filter(lambda w: w != n))
    with pytest.raises(ValueError):
        dequant.dequantize(source, form.id, (wrong,), dtype)
    with pytest.raises(ValueError):
        dequant.dequantize(source, form.id, dtype=dtype, out=np.empty(n + 1, got.dtype))


def test_formats():
    q4_k = dequant.formats()[[f.name for f in dequant.formats()].index("Q4_K")]
    assert q4_k == ("Q4_K", 12, 256, 144, "quantized")
    assert q4_k.bits_per_weight == 4.5
    assert dequant.target()
