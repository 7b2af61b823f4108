"""patch(): gguf, ComfyUI-GGUF (a stand-in), diffusers, transformers."""

from __future__ import annotations

import sys
import types

import gguf
import numpy as np
import pytest
from conftest import blocks, known_to_gguf, reference, round_once

import dequant


@pytest.fixture(autouse=True)
def undone():
    yield
    for p in list(dequant._patch._ACTIVE.values()):
        p.undo()


def test_handle():
    original = gguf.quants.dequantize
    user = types.ModuleType("a_module_that_imported_it")
    user.dequantize = original
    sys.modules[user.__name__] = user
    try:
        handle = dequant.patch("gguf")
        assert dequant.patch("gguf") is handle
        assert handle.active
        assert gguf.dequantize is gguf.quants.dequantize is user.dequantize
        assert gguf.dequantize is not original
        assert "gguf.quants.dequantize" in repr(handle)
        handle.undo()
        handle.undo()
        assert not handle.active
        assert gguf.dequantize is gguf.quants.dequantize is user.dequantize is original
        with dequant.patch("gguf") as second:
            assert second is not handle
            handle.undo()
            assert gguf.dequantize is not original
        assert gguf.dequantize is original
    finally:
        del sys.modules[user.__name__]
    with pytest.raises(
        ValueError, match="expected one of gguf, comfyui_gguf, diffusers"
    ):
        dequant.patch("numpy")


@pytest.mark.parametrize("name", [*known_to_gguf(), "F16", "F32"])
def test_gguf(name):
    kind = gguf.GGMLQuantizationType[name]
    data = blocks(name, 64).reshape(4, -1)
    want = reference(data, name)
    with dequant.patch("gguf"):
        got = gguf.dequantize(data, kind)
        assert gguf.quants.dequantize(data[::2], kind).shape == want[::2].shape
    assert got.dtype == np.float32 and got.shape == want.shape
    assert (round_once(got, "float32") == round_once(want, "float32")).all()


def test_gguf_what_is_not_ours(model):
    with dequant.patch("gguf"):
        with pytest.raises(NotImplementedError):
            gguf.dequantize(np.zeros(4, np.int32), gguf.GGMLQuantizationType.I32)
        with pytest.raises(ValueError):
            gguf.dequantize(np.zeros(143, np.uint8), gguf.GGMLQuantizationType.Q4_K)
        for tensor in gguf.GGUFReader(model).tensors:  # memory-mapped arrays
            if tensor.name in ("embed", "conv", "half", "brain"):
                got = gguf.dequantize(tensor.data, tensor.tensor_type)
                want = reference(tensor.data, tensor.tensor_type.name)
                assert np.array_equal(got, want, equal_nan=True)


# A stand-in for ComfyUI-GGUF's dequant.py: its calls and its types, not its code.


def stand_in():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    module = types.ModuleType("custom_nodes.comfyui_gguf_stand_in.dequant")
    kinds = gguf.GGMLQuantizationType

    def q8_0(packed, block_size, type_size, dtype=None):
        scale = packed[:, :2].view(torch.float16).to(dtype)
        return scale * packed[:, 2:].view(torch.int8)

    def bf16(packed, block_size, type_size, dtype=None):
        return (packed.view(torch.int16).to(torch.int32) << 16).view(torch.float32)

    module.dequantize_functions = {kinds.Q8_0: q8_0, kinds.BF16: bf16}

    def dequantize(data, qtype, oshape, dtype=None):
        block_size, type_size = gguf.GGML_QUANT_SIZES[qtype]
        packed = data.reshape(-1, type_size)
        values = module.dequantize_functions[qtype](
            packed, block_size, type_size, dtype
        )
        return values.reshape(oshape)

    def dequantize_tensor(tensor, dtype=None, dequant_dtype=None):
        qtype = getattr(tensor, "tensor_type", None)
        if qtype in (None, kinds.F32, kinds.F16):
            return tensor.to(dtype)
        if qtype in module.dequantize_functions:
            arithmetic = dtype if dequant_dtype == "target" else dequant_dtype
            shape = getattr(tensor, "tensor_shape", tensor.shape)
            return dequantize(tensor.data, qtype, shape, arithmetic).to(dtype)
        values = gguf.quants.dequantize(tensor.cpu().numpy(), qtype)
        return torch.from_numpy(values).to(tensor.device, dtype=dtype)  # no reshape

    module.dequantize = dequantize
    module.dequantize_tensor = dequantize_tensor

    class GGMLTensor(torch.Tensor):
        def __new__(cls, data, *, tensor_type, tensor_shape):
            return super().__new__(cls, data)

        def __init__(self, data, *, tensor_type, tensor_shape):
            super().__init__()
            self.tensor_type = tensor_type
            self.tensor_shape = tensor_shape

    module.GGMLTensor = GGMLTensor
    user = types.ModuleType("custom_nodes.comfyui_gguf_stand_in.ops")
    user.dequantize_tensor = dequantize_tensor
    return module, user


@pytest.fixture
def comfyui(monkeypatch):
    module, user = stand_in()
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(sys.modules, user.__name__, user)
    return module, user


def test_comfyui_must_be_loaded():
    with pytest.raises(ImportError, match="ComfyUI-GGUF is not loaded"):
        dequant.patch("comfyui_gguf")


@pytest.mark.parametrize("name", ["Q8_0", "BF16", "Q4_K", "IQ4_XS", "IQ2_S", "TQ1_0"])
def test_comfyui(comfyui, name):
    import torch

    module, user = comfyui
    original = module.dequantize_tensor
    kind = gguf.GGMLQuantizationType[name]
    data = blocks(name, 512).reshape(16, -1)
    if name == "BF16":
        data[:, 1::2] &= 0x3F  # finite
    n = 512 * gguf.GGML_QUANT_SIZES[kind][0]
    shape = torch.Size([2, 8, n // 16])
    tensor = module.GGMLTensor(
        torch.from_numpy(data), tensor_type=kind, tensor_shape=shape
    )
    before = original(tensor)
    handle = dequant.patch("comfyui_gguf")
    assert module.dequantize_tensor is user.dequantize_tensor is not original
    want = torch.from_numpy(reference(data, name).copy()).reshape(shape)
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        for arithmetic in (None, "target", torch.float32):
            got = user.dequantize_tensor(tensor, dtype, arithmetic)
            assert type(got) is torch.Tensor
            assert got.dtype == dtype and got.shape == shape
            assert torch.equal(got.nan_to_num(7), want.to(dtype).nan_to_num(7))
    got = user.dequantize_tensor(tensor)
    assert got.dtype == before.dtype
    assert got.shape == shape  # also where the package forgets it
    handle.undo()
    assert module.dequantize_tensor is user.dequantize_tensor is original


def test_comfyui_leaves_the_rest_alone(comfyui):
    import torch

    module, _ = comfyui
    calls = []
    original = module.dequantize_tensor

    def spy(*args, **kwargs):
        calls.append(args)
        return original(*args, **kwargs)

    module.dequantize_tensor = spy
    with dequant.patch("comfyui_gguf"):
        plain = torch.ones(3)
        assert module.dequantize_tensor(plain, torch.float16).dtype == torch.float16
        f32 = module.GGMLTensor(
            torch.ones(3), tensor_type=gguf.GGMLQuantizationType.F32, tensor_shape=(3,)
        )
        assert module.dequantize_tensor(f32, torch.float16).dtype == torch.float16
        assert len(calls) == 2
        meta = types.SimpleNamespace(
            tensor_type=gguf.GGMLQuantizationType.Q8_0, device=torch.device("meta"),
            data=torch.zeros(34, dtype=torch.uint8), tensor_shape=(32,), shape=(34,)
        )  # fmt: skip
        assert module.dequantize_tensor(meta).shape == (32,)
        assert len(calls) == 3


@pytest.mark.long
def test_diffusers():
    torch = pytest.importorskip("torch")
    utils = pytest.importorskip("diffusers.quantizers.gguf.utils")
    for kind in utils.SUPPORTED_GGUF_QUANT_TYPES:
        data = blocks(kind.name, 16 * 64).reshape(64, -1)
        data[:, :] &= 0x3F  # finite
        weight = utils.GGUFParameter(torch.from_numpy(data), quant_type=kind)
        before = utils.dequantize_gguf_tensor(weight)
        layer = utils.GGUFLinear(before.shape[1], 64, compute_dtype=torch.float32)
        layer.weight = weight
        with dequant.patch("diffusers"):
            after = utils.dequantize_gguf_tensor(weight)
            layer(torch.ones(2, before.shape[1]))
        assert type(after) is torch.Tensor
        assert after.dtype == before.dtype and after.shape == before.shape
        want = torch.from_numpy(reference(data, kind.name).copy()).to(after.dtype)
        assert torch.equal(after.nan_to_num(7), want.nan_to_num(7))
        plain = torch.ones(3)
        assert utils.dequantize_gguf_tensor(plain) is plain


@pytest.mark.long
def test_transformers(real_model):
    import pathlib
    import time

    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    path = pathlib.Path(real_model)

    def load():
        start = time.perf_counter()
        model = transformers.AutoModelForCausalLM.from_pretrained(
            str(path.parent), gguf_file=path.name, dtype=torch.float32
        )
        return model.state_dict(), time.perf_counter() - start

    load()
    before, slow = load()
    with dequant.patch("gguf"):
        after, fast = load()
    print(f"transformers: {slow:.1f} s, with the patch {fast:.1f} s")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)
