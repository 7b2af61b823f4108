#!/usr/bin/env python3
"""Times the package against what Python users have today, in one process.

    bench.py [--rounds N] [--threads N] [--model FILE.gguf] [REGEX]

  gguf      gguf.dequantize of a 3072 x 3072 tensor to F32, one thread like numpy
  torch     code in the manner of ComfyUI-GGUF, to F16, with as many threads
  load      every tensor of a model: gguf + numpy in a loop, against load()
  call      microseconds of dequantize() on one block

All take turns and allocate their results; a figure is the median. Prints Markdown.
"""

from __future__ import annotations

import argparse
import pathlib
import re
import statistics
import sys
import tempfile
import time
import timeit

import gguf
import numpy as np
import safetensors.numpy
import torch

import dequant

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "scripts"))
from bench_peers import TORCH  # noqa: E402

ROWS = COLUMNS = 3072


def medians(contestants, rounds):
    """Seconds of each function; they take turns."""
    seconds = {name: [] for name in contestants}
    for _ in range(rounds + 1):
        for name, function in contestants.items():
            start = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(s[1:]) for name, s in seconds.items()}


def packed_tensor(form):
    n = ROWS * COLUMNS // form.elements * form.bytes
    data = np.random.default_rng(1).integers(0, 256, n, np.uint8)
    data &= 0xBF  # bit 14 of every F16 scale: all are finite
    return data.reshape(ROWS, -1)


def against_gguf(pattern, rounds):
    print("| format | gguf ms | dequant ms | ratio | into out= ms | ratio |")
    print("|---|---:|---:|---:|---:|---:|")
    out = np.zeros((ROWS, COLUMNS), np.float32)
    for form in dequant.formats():
        if form.kind != "quantized" or not pattern.search(form.name):
            continue
        data = packed_tensor(form)
        try:
            kind = gguf.GGMLQuantizationType(form.id)
            gguf.quants.dequantize(data[:1], kind)
        except (NotImplementedError, ValueError):
            continue
        m = medians(
            {
                "gguf": lambda: gguf.quants.dequantize(data, kind),
                "ours": lambda: dequant.dequantize(
                    data, kind, dtype="float32", threads=1
                ),
                "out": lambda: dequant.dequantize(
                    data, kind, dtype="float32", out=out, threads=1
                ),
            },
            rounds,
        )
        print(
            f"| {form.name} | {m['gguf'] * 1e3:.1f} | {m['ours'] * 1e3:.2f} "
            f"| {m['gguf'] / m['ours']:.1f} | {m['out'] * 1e3:.2f} "
            f"| {m['gguf'] / m['out']:.1f} |",
            flush=True,
        )


def against_torch(pattern, rounds, threads):
    torch.set_num_threads(threads)
    print(f"\n| format | torch ms, {threads} threads | dequant ms | ratio |")
    print("|---|---:|---:|---:|")
    for name, function in TORCH.items():
        if not pattern.search(name):
            continue
        form = next(f for f in dequant.formats() if f.name == name)
        data = torch.from_numpy(packed_tensor(form))
        blocks = data.reshape(-1, form.bytes)
        m = medians(
            {
                "torch": lambda: function(blocks).reshape(ROWS, COLUMNS),
                "ours": lambda: dequant.torch.dequantize_tensor(
                    data, name, (ROWS, COLUMNS)
                ),
            },
            rounds,
        )
        print(
            f"| {name} | {m['torch'] * 1e3:.1f} | {m['ours'] * 1e3:.2f} "
            f"| {m['torch'] / m['ours']:.1f} |",
            flush=True,
        )


def load_model(path, rounds, threads):
    def with_gguf():
        return {
            t.name: gguf.quants.dequantize(t.data, t.tensor_type)
            for t in gguf.GGUFReader(path).tensors
        }

    def with_gguf_to_f16():
        return {name: a.astype(np.float16) for name, a in with_gguf().items()}

    start = time.perf_counter()
    gguf.GGUFReader(path)
    seconds = time.perf_counter() - start
    print(f"\nGGUFReader(path) alone: {seconds:.2f} s\n")
    print(f"| load, {threads} threads | gguf s | dequant s | ratio |")
    print("|---|---:|---:|---:|")
    for dtype, peer in (("float32", with_gguf), ("float16", with_gguf_to_f16)):
        m = medians(
            {
                "gguf": peer,
                "ours": lambda: dequant.load(
                    path, dtype, framework="numpy", threads=threads
                ),
            },
            rounds,
        )
        print(
            f"| {dtype} | {m['gguf']:.2f} | {m['ours']:.3f} "
            f"| {m['gguf'] / m['ours']:.1f} |",
            flush=True,
        )


def recipes(path, rounds):
    """What docs/python.md gains, besides the above; as many threads as there are."""
    reader = gguf.GGUFReader(path)
    packed = next(t for t in reader.tensors if t.tensor_type == 14)  # Q6_K
    f = dequant.GGUFFile(path)

    with tempfile.TemporaryDirectory() as folder:
        target = f"{folder}/model.safetensors"

        def script():
            tensors = {
                t.name: gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float16)
                for t in reader.tensors
            }
            safetensors.numpy.save_file(tensors, target)

        contests = {
            "convert, reader open": (
                script,
                lambda: dequant.convert(path, target, cast_all=True, force=True),
            ),
            "one row, files open": (
                lambda: gguf.quants.dequantize(packed.data[17:18], packed.tensor_type),
                lambda: f[packed.name].dequantize(17, "float32"),
            ),
        }
        print("\n| recipe | gguf ms | dequant ms | ratio |")
        print("|---|---:|---:|---:|")
        for name, (peer, ours) in contests.items():
            m = medians({"gguf": peer, "ours": ours}, rounds)
            print(
                f"| {name} | {m['gguf'] * 1e3:.3f} | {m['ours'] * 1e3:.3f} "
                f"| {m['gguf'] / m['ours']:.1f} |",
                flush=True,
            )


def cost_of_a_call():
    form = next(f for f in dequant.formats() if f.name == "Q4_K")
    data, out = np.zeros(form.bytes, np.uint8), np.empty(form.elements, np.float16)
    packed, dense = torch.from_numpy(data), torch.from_numpy(out)
    print("\n| call | us |")
    print("|---|---:|")
    for name, call in {
        "numpy": lambda: dequant.dequantize(data, "Q4_K"),
        "numpy, out=": lambda: dequant.dequantize(data, "Q4_K", out=out),
        "torch": lambda: dequant.dequantize(packed, "Q4_K"),
        "torch, out=": lambda: dequant.dequantize(packed, "Q4_K", out=dense),
    }.items():
        seconds = statistics.median(timeit.repeat(call, number=10_000, repeat=15))
        print(f"| {name} | {seconds * 100:.2f} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "pattern", nargs="?", default="", type=re.compile, metavar="REGEX"
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--model", help="a GGUF file to load")
    args = parser.parse_args()
    print(f"target {dequant.target()}, median of {args.rounds}\n")
    cost_of_a_call()
    print()
    against_gguf(args.pattern, args.rounds)
    for threads in sorted({1, args.threads}):
        against_torch(args.pattern, args.rounds, threads)
    if args.model:
        for threads in sorted({1, args.threads}):
            load_model(args.model, args.rounds, threads)
        recipes(args.model, args.rounds)


if __name__ == "__main__":
    main()
