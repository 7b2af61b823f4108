"""torch tensors in and out."""

from __future__ import annotations

import os

import gguf
import numpy as np
import pytest
from conftest import TABLE, bits_of, blocks, reference, round_once, run_python

import dequant

torch = pytest.importorskip("torch", reason="torch is not installed")

DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


@pytest.mark.parametrize("name", DTYPES)
def test_in_and_out(name):
    data = blocks("Q4_K", 8)
    want = round_once(reference(data, "Q4_K"), name).reshape(4, 512)
    packed = torch.from_numpy(data.reshape(4, -1))
    for got in (
        dequant.dequantize(packed, "Q4_K", dtype=name),
        dequant.dequantize(packed, "Q4_K", (4, 512), DTYPES[name]),
        dequant.dequantize(data.tobytes(), "Q4_K", (4, 512), DTYPES[name]),
        dequant.dequantize(packed.view(torch.int16), "Q4_K", dtype=name),
        dequant.dequantize(
            torch.stack([packed, packed], -1)[..., 0], "Q4_K", dtype=name
        ),
        dequant.dequantize(
            torch.nn.Parameter(packed, requires_grad=False), "Q4_K", dtype=name
        ),
        dequant.torch.dequantize_tensor(
            packed, gguf.GGMLQuantizationType.Q4_K, (4, 512), DTYPES[name]
        ),
        dequant.torch.dequantize_tensor(data, 12, torch.Size([4, 512]), DTYPES[name]),
    ):
        assert type(got) is torch.Tensor
        assert got.dtype == DTYPES[name] and got.shape == (4, 512)
        assert got.is_contiguous()
        assert (bits_of(got) == want).all()


def test_out():
    data = blocks("Q5_0", 8)
    for name, dtype in DTYPES.items():
        for pin in {False, torch.cuda.is_available()}:
            out = torch.zeros(8, 32, dtype=dtype, pin_memory=pin)
            assert dequant.dequantize(data, "Q5_0", (8, 32), name, out=out) is out
            assert (
                bits_of(out)
                == bits_of(dequant.dequantize(data, "Q5_0", (8, 32), dtype))
            ).all()
    with pytest.raises(ValueError, match="contiguous"):
        dequant.dequantize(data, "Q5_0", out=torch.zeros(32, 8, dtype=torch.float16).T)
    with pytest.raises(TypeError, match="expected float16, got float32"):
        dequant.dequantize(data, "Q5_0", out=torch.zeros(8, 32))
    with pytest.raises(ValueError, match="expected a CPU tensor"):
        dequant.dequantize(
            data, "Q5_0", out=torch.zeros(256, dtype=torch.float16, device="meta")
        )
    with pytest.raises(ValueError, match="expected a CPU tensor"):
        dequant.dequantize(torch.zeros(22, dtype=torch.uint8, device="meta"), "Q5_0")
    with pytest.raises(TypeError, match="expected a torch.dtype"):
        dequant.torch.dequantize_tensor(data, "Q5_0", None, "float16")
    with pytest.raises(TypeError, match="dtype: expected"):
        dequant.dequantize(data, "Q5_0", dtype=torch.float64)


def test_load(model):
    for name, dtype in DTYPES.items():
        tensors = dequant.load(model, dtype)
        arrays = dequant.load(model, name, framework="numpy")
        for tensor, _, _, shape in TABLE:
            assert tensors[tensor].shape == shape
            assert (bits_of(arrays[tensor]).reshape(-1)
                    == tensors[tensor].view(torch.uint8).numpy().view(
                        bits_of(arrays[tensor]).dtype).reshape(-1)).all()  # fmt: skip
        assert tensors["embed"].dtype == dtype
        assert tensors["index"].dtype == torch.int32
        assert tensors["wide"].dtype == torch.float64
    with dequant.GGUFFile(model) as f:
        row = f["embed"].dequantize(3, torch.bfloat16)
    assert torch.equal(
        row.view(torch.int16), dequant.load(model, "bf16")["embed"][3].view(torch.int16)
    )


def test_load_state_dict(model):
    module = torch.nn.Module()
    module.norm = torch.nn.Parameter(torch.zeros(96))
    module.modulation = torch.nn.Parameter(torch.zeros(1, 6, 96))
    tensors = dequant.load(model, "float32", like=module.state_dict())
    missing, unexpected = module.load_state_dict(tensors, strict=False)
    assert not missing
    assert set(unexpected) == {row[0] for row in TABLE} - {"norm", "modulation"}
    assert torch.equal(module.norm, tensors["norm"])


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="no /proc here")
def test_as_many_threads_as_torch():
    assert run_python("""
import os, torch, dequant
torch.set_num_threads(1)
data = torch.zeros(144 * 65536, dtype=torch.uint8)
before = len(os.listdir("/proc/self/task"))
dequant.dequantize(data, "Q4_K")
print(len(os.listdir("/proc/self/task")) - before)
""") == "0"  # fmt: skip


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_in_the_workers_of_a_loader():
    assert run_python("""
import numpy as np, torch, dequant
data = np.random.default_rng(1).integers(0, 256, 144 * 16384, np.uint8)
(torch.rand(600, 600) @ torch.rand(600, 600)).sum()  # torch's own threads
want = dequant.dequantize(data, "Q4_K", threads=4)
class Rows(torch.utils.data.Dataset):
    def __len__(self): return 8
    def __getitem__(self, i):
        got = dequant.dequantize(data, "Q4_K", threads=1 + i % 4)
        return int((got.view(np.uint16) == want.view(np.uint16)).all())
loader = torch.utils.data.DataLoader(
    Rows(), num_workers=2, multiprocessing_context="fork")
print(sum(int(x) for x in loader))
""") == "8"  # fmt: skip


def test_beside_torchs_threads():
    """Calls in turn with torch's parallel ones: right, and not much slower."""
    data = blocks("Q4_K", 3072 * 12)
    out = np.empty(3072 * 3072, np.float16)
    x = torch.rand(512, 512)
    want = x @ x
    for _ in range(20):
        dequant.dequantize(data, "Q4_K", out=out, threads=2)
        assert torch.equal(x @ x, want)
