"""GGUFFile, load and convert."""

from __future__ import annotations

import json
import re

import gguf
import numpy as np
import pytest
import safetensors.numpy
from conftest import (
    ROOT,
    TABLE,
    bits_of,
    reference,
    round_once,
    run_python,
    tensor_data,
)

import dequant


def expected(name, kind, dtype):
    """The bits of a tensor of TABLE."""
    data = tensor_data()[name]
    if kind in ("I32", "F64"):
        return data.view(f"u{data.itemsize}").reshape(-1)
    return round_once(reference(data, kind), dtype).reshape(-1)


def test_metadata(model):
    with dequant.GGUFFile(model) as f:
        assert f.metadata["general.architecture"] == "test"
        assert f.metadata["test.answer"] == 42
        assert f.metadata["test.ratio"] == 0.5
        assert f.metadata["test.flag"] is True
        assert f.metadata["test.name"] == "näme"
        assert f.metadata["test.tokens"] == ["a", "b", "ü"] * 1000
        assert f.metadata["test.numbers"] == [1, -2, 3]
        assert f.metadata["comfy.gguf.orig_shape.modulation"] == [1, 6, 96]
        assert "absent" not in f.metadata
        assert f.metadata.get("absent", 5) == 5
        assert set(f.metadata) >= {"test.answer", "test.tokens"}
        with pytest.raises(KeyError):
            f.metadata["absent"]


def test_tensors(model):
    reader = {t.name: t for t in gguf.GGUFReader(model).tensors}
    with dequant.GGUFFile(model) as f:
        assert list(f) == [row[0] for row in TABLE]
        assert len(f) == len(TABLE) == len(f.tensors)
        for name, kind, stored, true in TABLE:
            t = f[name]
            assert (t.name, t.type, t.shape) == (name, kind, true)
            assert t.shape_source == ("dims" if stored == true else "orig_shape")
            assert t.offset == reader[name].data_offset
            assert t.nbytes == reader[name].n_bytes
            assert t.file == str(model)
            assert t.data.tobytes() == reader[name].data.tobytes()
            for dtype in ("float32", "float16", "bfloat16"):
                got = t.dequantize(dtype=dtype)
                assert got.shape == true
                assert (bits_of(got).reshape(-1) == expected(name, kind, dtype)).all()
        with pytest.raises(KeyError):
            f["absent"]


def test_rows(model):
    with dequant.GGUFFile(model) as f:
        for name in ("embed", "conv", "norm", "modulation", "index", "brain"):
            whole = f[name].dequantize(dtype="float32")
            n = len(whole)
            for rows in (
                slice(0, 1), slice(n - 1, n), slice(1, n), slice(3, 3), slice(5, 2),
                slice(-2, None), slice(None), slice(0, 10**9), 0, -1,
            ):  # fmt: skip
                got = f[name].dequantize(rows, "float32")
                assert got.shape == whole[rows].shape
                assert got.tobytes() == whole[rows].tobytes()
        numbers = np.zeros((4, 2), np.int32)
        assert f["index"].dequantize(out=numbers) is numbers
        assert (numbers == tensor_data()["index"]).all()
        out = np.zeros(512, np.float16)
        f["embed"].dequantize(7, out=out)
        assert out.tobytes() == f["embed"].dequantize(slice(7, 8)).tobytes()


def test_rows_that_cut_blocks(folder):
    """Rows of 8 elements in blocks of 32, as orig_shape keys can give them."""
    path = folder / "cut.gguf"
    writer = gguf.GGUFWriter(str(path), "test")
    data = np.random.default_rng(1).integers(0, 256, (4, 34), np.uint8)
    writer.add_tensor("x", data, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.add_array("comfy.gguf.orig_shape.x", [16, 8])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with dequant.GGUFFile(path) as f:
        whole = f["x"].dequantize(dtype="bfloat16")
        for begin in range(16):
            for end in range(begin, 17):
                got = f["x"].dequantize(slice(begin, end), "bfloat16")
                assert got.tobytes() == whole[begin:end].tobytes()
                out = np.zeros((end - begin, 8), np.float16)
                f["x"].dequantize(slice(begin, end), out=out)
                want = f["x"].dequantize()[begin:end]
                assert out.tobytes() == want.tobytes()


def test_wrong_rows(model):
    with dequant.GGUFFile(model) as f:
        with pytest.raises(ValueError, match="tensor 'embed': rows: expected step 1"):
            f["embed"].dequantize(slice(0, 4, 2))
        with pytest.raises(IndexError, match="tensor 'embed': row 64 of 64"):
            f["embed"].dequantize(64)
        with pytest.raises(TypeError, match="tensor 'embed': rows"):
            f["embed"].dequantize("3")
        with pytest.raises(
            ValueError, match="tensor 'embed': out: expected 65536 bytes"
        ):
            f["embed"].dequantize(out=np.empty(5, np.float16))
        with pytest.raises(TypeError, match="out: expected int32, got float16"):
            f["index"].dequantize(out=np.empty((4, 2), np.float16))
        with pytest.raises(ValueError, match="framework"):
            f["embed"].dequantize(framework="jax")


def test_closed(model):
    f = dequant.GGUFFile(model)
    tensor, view = f["embed"], f["embed"].data
    values = tensor.dequantize()
    kept = view.tobytes()
    f.close()
    f.close()
    assert f.closed
    assert view.tobytes() == kept
    assert not view.flags.writeable
    assert values.shape == tensor.shape
    for call in (
        tensor.dequantize,
        lambda: tensor.data,
        lambda: f.metadata["test.answer"],
    ):
        with pytest.raises(ValueError, match="is closed"):
            call()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_load(model, dtype):
    seen = []
    tensors = dequant.load(
        model,
        dtype,
        framework="numpy",
        progress=lambda done, total: seen.append((done, total)),
    )
    assert list(tensors) == [row[0] for row in TABLE]
    for name, kind, _, true in TABLE:
        assert tensors[name].shape == true
        assert (bits_of(tensors[name]).reshape(-1) == expected(name, kind, dtype)).all()
    assert tensors["index"].dtype == np.int32
    assert tensors["wide"].dtype == np.float64
    assert seen[0][0] == 0
    tensors["norm"][0] = 3  # writable


def test_load_can_keep_plain_floats(model):
    tensors = dequant.load(model, framework="numpy", cast_all=False)
    assert tensors["norm"].dtype == np.float32
    assert tensors["half"].dtype == np.float16
    assert tensors["embed"].dtype == np.float16


def test_dtype_for_and_filters(model):
    tensors = dequant.load(
        model,
        framework="numpy",
        dtype_for={"^norm$": "float32", "norm|half": "bf16", "index": "float32"},
        exclude="wide",
    )
    assert tensors["norm"].dtype == np.float32
    assert tensors["half"].dtype.itemsize == 2 and tensors["half"].dtype != np.float16
    assert tensors["embed"].dtype == np.float16
    assert tensors["index"].dtype == np.int32
    assert "wide" not in tensors
    assert list(dequant.load(model, framework="numpy", include="^norm$")) == ["norm"]
    with pytest.raises(dequant.Error, match="regular expression"):
        dequant.load(model, framework="numpy", dtype_for={"(": "f32"})
    with pytest.raises(TypeError, match="dtype: expected"):
        dequant.load(model, framework="numpy", dtype_for={"a": "int8"})


def test_scales_of_nvfp4(folder):
    path, out = folder / "nvfp4.gguf", folder / "nvfp4.safetensors"
    packed = np.arange(2 * 36, dtype=np.uint8).reshape(2, 36) & 0x3F
    writer = gguf.GGUFWriter(str(path), "test")
    writer.add_tensor("w.weight", packed, raw_dtype=40)
    writer.add_tensor("w.scale", np.array([0.1, 3], np.float32))
    writer.add_tensor("w.input_scale", np.array([7], np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    apart = dequant.load(path, "float32", framework="numpy", fold=False)
    assert list(apart) == ["w.weight", "w.scale", "w.input_scale"]
    whole = apart["w.weight"] * apart["w.scale"][:, None]
    assert (whole != apart["w.weight"]).any()
    for dtype in ("float32", "float16"):
        loaded = dequant.load(path, dtype, framework="numpy")
        assert list(loaded) == ["w.weight", "w.input_scale"]
        assert loaded["w.weight"].tobytes() == whole.astype(dtype).tobytes()
    summary = dequant.convert(path, out, sync=True)
    assert summary["folded"] == {"w.weight": "w.scale"}
    assert summary["input_scales"] == ["w.input_scale"]
    assert safetensors.numpy.load_file(out)["w.weight"].tobytes() == (
        whole.astype(np.float16).tobytes()
    )
    summary = dequant.convert(path, out, fold=False, force=True)
    assert summary["tensors"] == 3
    assert safetensors.numpy.load_file(out)["w.weight"].tobytes() == (
        apart["w.weight"].astype(np.float16).tobytes()
    )


def test_strict(model, folder):
    path = folder / "trailing.gguf"
    path.write_bytes(model.read_bytes() + bytes(100))
    out = folder / "trailing.safetensors"
    assert dequant.convert(path, out)["warnings"]
    with pytest.raises(dequant.Error, match="behind the last tensor"):
        dequant.convert(path, out, force=True, strict=True)


def test_like(bare, like, folder):
    shapes = {row[0]: row[3] for row in TABLE}
    (folder / "shapes.json").write_text(
        json.dumps({k: list(v) for k, v in shapes.items()})
    )
    assert dequant.load(bare, framework="numpy")["modulation"].shape == (6, 96)
    arrays = {name: np.empty(shape, np.uint8) for name, shape in shapes.items()}
    for reference_of_shapes in (
        like,
        str(like),
        folder / "shapes.json",
        shapes,
        arrays,
    ):
        tensors = dequant.load(bare, framework="numpy", like=reference_of_shapes)
        assert {n: t.shape for n, t in tensors.items()} == shapes
    with dequant.GGUFFile(bare, like=like) as f:
        assert f["modulation"].shape_source == "reference"
    with pytest.raises(
        dequant.Error, match=r"tensor 'norm': shape \[97\].*\[96\]"
    ) as e:
        dequant.load(bare, framework="numpy", like={"norm": (97,)})
    assert e.value.subject == "tensor 'norm'"
    assert e.value.file == str(bare)
    assert e.value.offset > 0


@pytest.mark.parametrize("keys", [True, False])
def test_every_shape_of_the_ovi_model(folder, keys):
    script = ROOT / "../shared/data/ovi_like.py"
    if not script.exists():
        pytest.skip("the writer of the Ovi model's table is not here")
    path, true = folder / "ovi.gguf", folder / "ovi.json"
    args = [str(script), str(path), "--dim", "256", "--ffn", "512", "--text", "256",
            "--shapes", str(true), *([] if keys else ["--no-orig-shape"])]  # fmt: skip
    run_python("import runpy, sys; sys.argv = sys.argv[1:]; "
               "runpy.run_path(sys.argv[0], run_name='__main__')", *args)  # fmt: skip
    shapes = {k: tuple(v) for k, v in json.loads(true.read_text()).items()}
    tensors = dequant.load(path, framework="numpy", like=None if keys else true)
    assert len(tensors) == 2073
    assert {n: t.shape for n, t in tensors.items()} == shapes


def test_bad_files(folder):
    path = folder / "bad.gguf"
    path.write_bytes(b"GGUF" + bytes(3))
    with pytest.raises(dequant.Error) as e:
        dequant.GGUFFile(path)
    assert isinstance(e.value, ValueError)
    assert e.value.file == str(path)
    assert e.value.reason in str(e.value)
    with pytest.raises(dequant.Error, match="absent.gguf"):
        dequant.load(folder / "absent.gguf", framework="numpy")
    with pytest.raises(ValueError, match="framework: expected 'torch' or 'numpy'"):
        dequant.load(folder / "absent.gguf", framework="jax")


def test_unknown_types_block_nothing(model, folder):
    content = bytearray(model.read_bytes())
    at = content.index(b"\x05\0\0\0\0\0\0\0embed") + 8 + 5 + 4 + 2 * 8
    assert content[at : at + 4] == b"\x0e\0\0\0"
    content[at] = 99
    path = folder / "unknown.gguf"
    path.write_bytes(content)
    with dequant.GGUFFile(path) as f:
        assert f["embed"].type == "unknown(99)"
        with pytest.raises(
            ValueError, match=r"tensor 'embed': its type, unknown\(99\)"
        ):
            f["embed"].dequantize()
    with pytest.warns(UserWarning, match=r"unknown\(99\), first tensor 'embed'"):
        tensors = dequant.load(path, framework="numpy")
    assert list(tensors) == [row[0] for row in TABLE[1:]]


def test_shards(folder):
    folder = folder / "shards"
    folder.mkdir()
    data = tensor_data()
    for i, name in enumerate(("embed", "fp4")):
        writer = gguf.GGUFWriter(str(folder / f"m-{i + 1:05}-of-00002.gguf"), "test")
        writer.add_uint16("split.no", i)
        writer.add_uint16("split.count", 2)
        writer.add_int32("split.tensors.count", 2)
        kind = next(row[1] for row in TABLE if row[0] == name)
        writer.add_tensor(name, data[name], raw_dtype=gguf.GGMLQuantizationType[kind])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    for path in (folder, folder / "m-00002-of-00002.gguf"):
        assert set(dequant.load(path, framework="numpy")) == {"embed", "fp4"}


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_convert(model, folder, dtype):
    out = folder / f"{dtype}.safetensors"
    seen = []
    summary = dequant.convert(
        model, out, dtype, cast_all=True, force=True, progress=lambda *a: seen.append(a)
    )
    assert summary["tensors"] == len(TABLE)
    assert summary["outputs"] == [str(out)]
    assert summary["types"]["Q4_K"] == 1
    assert summary["shapes"]["orig_shape"] == 2
    assert seen
    loaded = dequant.load(model, dtype, framework="numpy")
    written = safetensors.numpy.load_file(out)
    assert {n: t.shape for n, t in written.items()} == {
        n: t.shape for n, t in loaded.items()
    }
    for name in loaded:
        assert written[name].tobytes() == loaded[name].tobytes()
    with pytest.raises(dequant.Error, match="exists"):
        dequant.convert(model, out, dtype)


def test_convert_options(model, bare, like, folder):
    out = folder / "parts.safetensors"
    summary = dequant.convert(
        bare,
        out,
        like=like,
        include="^(embed|mod)",
        exclude="zzz",
        max_shard_size="60KB",
        threads=1,
    )
    assert summary["tensors"] == 2
    assert len(summary["outputs"]) == 3
    index = json.loads((folder / "parts.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == {"embed", "modulation"}
    for wrong in ("5XB", "-1", ""):
        with pytest.raises(ValueError, match="max_shard_size"):
            dequant.convert(bare, out, max_shard_size=wrong)
    with pytest.raises(dequant.Error, match="regular expression"):
        dequant.convert(bare, folder / "no.safetensors", include="(")


def test_progress_can_stop(model, folder):
    out = folder / "stopped.safetensors"
    with pytest.raises(dequant.Error, match="cancelled"):
        dequant.convert(model, out, progress=lambda done, total: False)
    assert not out.exists()
    with pytest.raises(dequant.Error, match="cancelled"):
        dequant.load(model, framework="numpy", progress=lambda done, total: False)

    def fails(done, total):
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        dequant.load(model, framework="numpy", progress=fails)


def test_tqdm(model, capfd):
    dequant.load(model, framework="numpy", progress=True)
    assert re.search(r"100%", capfd.readouterr().err)


def test_program():
    out = run_python("from dequant.__main__ import main; import sys; "
                     "sys.argv = ['dequant', 'formats']; main()")  # fmt: skip
    assert "Q4_K" in out


def test_the_version_is_the_programs():
    out = run_python("from dequant.__main__ import main; import sys; "
                     "sys.argv = ['dequant', '--version']; main()")  # fmt: skip
    assert out == f"dequant {dequant.__version__}"
