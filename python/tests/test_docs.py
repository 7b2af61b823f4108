"""The recipes of docs/python.md."""

from __future__ import annotations

import re
import shutil
import sys

import pytest
from conftest import ROOT, TABLE, blocks
from test_patch import stand_in

import dequant

TEXT = (ROOT / "docs/python.md").read_text()
RECIPES = dict(
    re.findall(r"<!-- recipe: (\w+) -->\n```python\n(.*?)```", TEXT, re.DOTALL)
)


@pytest.fixture
def run(model, tmp_path, monkeypatch):
    shutil.copy(model, tmp_path / "model.gguf")
    monkeypatch.chdir(tmp_path)

    def run(name, **names):
        exec(compile(RECIPES[name], f"docs/python.md: {name}", "exec"), names)
        return names

    return run


def test_there_are_five():
    assert len(RECIPES) == 5


def test_load(run):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    module = torch.nn.Module()
    module.modulation = torch.nn.Parameter(torch.zeros(1, 6, 96, dtype=torch.bfloat16))
    state = run("load", module=module)["state"]
    assert len(state) == len(TABLE)
    assert torch.equal(module.modulation, state["modulation"])


def test_comfyui(run, monkeypatch):
    module, _ = stand_in()
    monkeypatch.setitem(sys.modules, module.__name__, module)
    original = module.dequantize_tensor
    handle = run("comfyui")["handle"]
    assert not handle.active
    assert module.dequantize_tensor is original


def test_convert(run, tmp_path):
    assert run("convert")["summary"]["tensors"] == len(TABLE)
    assert (tmp_path / "model.safetensors").exists()


def test_row(run, model):
    pytest.importorskip("torch", reason="torch is not installed")
    names = run("row")
    embed = dequant.load(model, "float32", framework="numpy")["embed"]
    assert names["row"].tobytes() == embed[17].tobytes()
    assert names["ten"].shape == (10, 512)


def test_pinned(run):
    pytest.importorskip("torch", reason="torch is not installed")
    packed = blocks("Q4_K", 3072 * 12)
    pinned = run("pinned", packed=packed)["pinned"]
    want = dequant.dequantize(packed, "Q4_K", (3072, 3072))
    assert pinned.numpy().tobytes() == want.tobytes()
