"""Forks, threads, signals, leaks, and the cost of a call."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time
import timeit

import numpy as np
import pytest
from conftest import blocks, run_python

import dequant

try:
    import resource
except ImportError:  # Windows
    resource = None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_after_a_parallel_call():
    out = run_python("""
import numpy as np, os, sys, dequant
data = np.random.default_rng(1).integers(0, 256, 144 * 16384, np.uint8)
want = dequant.dequantize(data, "Q4_K", threads=4).tobytes()
child = os.fork()
if child == 0:
    good = all(dequant.dequantize(data, "Q4_K", threads=n).tobytes() == want
               for n in (4, 1, 3, 0))
    os._exit(0 if good else 1)
assert os.waitpid(child, 0)[1] == 0
assert dequant.dequantize(data, "Q4_K", threads=4).tobytes() == want
print("done")
""")
    assert out == "done"


def test_threads_are_honoured():
    code = """
import os, sys, numpy as np, dequant
data = np.zeros(144 * 65536, np.uint8)
before = len(os.listdir("/proc/self/task"))
dequant.dequantize(data, "Q4_K", threads=int(sys.argv[1]))
print(len(os.listdir("/proc/self/task")) - before)
"""
    if not os.path.isdir("/proc/self/task"):
        pytest.skip("no /proc here")
    assert [run_python(code, n) for n in (1, 2, 5)] == ["0", "1", "4"]


def test_threads_calling_at_once(model):
    names = ["Q4_K", "Q6_K", "IQ3_S", "Q8_0"]
    data = {n: blocks(n, 4096) for n in names}
    want = {n: dequant.dequantize(data[n], n, threads=1).tobytes() for n in names}
    loaded = {n: t.tobytes() for n, t in dequant.load(model, framework="numpy").items()}
    wrong = []

    def work(name):
        for _ in range(10):
            if dequant.dequantize(data[name], name).tobytes() != want[name]:
                wrong.append(name)
            with dequant.GGUFFile(model) as f:
                if f["embed"].dequantize().tobytes() != loaded["embed"]:
                    wrong.append("embed")

    threads = [threading.Thread(target=work, args=(n,)) for n in names * 2]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_the_gil_is_released():
    data = blocks("IQ1_S", 100_000)
    out = np.empty(100_000 * 256, np.float32)
    steps = 0
    done = threading.Event()

    def work():
        dequant.dequantize(data, "IQ1_S", dtype="float32", out=out, threads=1)
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    while not done.is_set():
        steps += 1
        time.sleep(0.0001)
    thread.join()
    assert steps > 3


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to oneself")
def test_ctrl_c_stops_a_load(model):
    # Shells make what they start in the background ignore it, and Python keeps that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            dequant.load(
                model,
                framework="numpy",
                progress=lambda done, total: os.kill(os.getpid(), signal.SIGINT),
            )
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(resource is None, reason="nothing counts memory here")
def test_no_leak(model):
    def cycle():
        with dequant.GGUFFile(model) as f:
            f["embed"].dequantize()
            f["attn.q"].data
            f.metadata["test.numbers"]
        try:
            dequant.dequantize(b"123", "Q4_K")
        except ValueError:
            pass

    for _ in range(200):
        cycle()
    gc.collect()
    files = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(800):
        cycle()
    gc.collect()
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert after - before < 2048  # KiB; each cycle uses 200
    if files:
        assert len(os.listdir("/proc/self/fd")) == files


@pytest.mark.long
@pytest.mark.skipif(resource is None, reason="nothing counts memory here")
def test_no_leak_in_10000_loads(model):
    def cycle():
        dequant.load(model, framework="numpy")

    for _ in range(500):
        cycle()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(10_000):
        cycle()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 4096


def test_the_cost_of_a_call():
    data, out = blocks("Q4_K", 1), np.empty(256, np.float16)
    calls = 2000
    best = min(
        timeit.repeat(lambda: dequant.dequantize(data, "Q4_K"), number=calls, repeat=20)
    )
    into = min(
        timeit.repeat(
            lambda: dequant.dequantize(data, "Q4_K", out=out), number=calls, repeat=20
        )
    )
    print(f"{best / calls * 1e6:.2f} us a call, {into / calls * 1e6:.2f} us with out=")
    assert best / calls < 5e-6


def test_large_results_use_memory_again():
    data = blocks("Q8_0", 3 << 16)  # 12 MiB as F16
    want = dequant.dequantize(data, "Q8_0")
    first = dequant.dequantize(data, "Q8_0")
    kept = first.reshape(2, -1)[1:]
    address = first.ctypes.data
    del first
    other = dequant.dequantize(data[: 34 << 16], "Q8_0")
    assert np.array_equal(kept.reshape(-1), want[len(want) // 2 :], equal_nan=True)
    assert other.ctypes.data != address
    del kept
    again = dequant.dequantize(data, "Q8_0")
    assert again.ctypes.data == address
    assert again.tobytes() == want.tobytes()
    many = [dequant.dequantize(data, "Q8_0") for _ in range(30)]
    assert len({a.ctypes.data for a in many}) == 30
    del many


def test_memory_of_large_results_is_given_back():
    code = """
import numpy as np, dequant
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
data = np.zeros(34 << 19, np.uint8)  # 32 MiB as F16
before = resident()
many = [dequant.dequantize(data, "Q8_0") for _ in range(20)]
assert resident() - before > 600 << 20
del many
print((resident() - before) >> 20)
"""
    if not os.path.exists("/proc/self/statm"):
        pytest.skip("no /proc here")
    assert int(run_python(code)) <= 280
