#!/usr/bin/env python3
"""Times what Python users have today against libdequant, on the same bytes.

    bench_peers.py [--library LIBDEQUANT.so] [--rows N] [REGEX]

  gguf    dequantize() of the `gguf` package: numpy, F32
  torch   the way of ComfyUI nodes that load GGUF: torch.Tensor.view, shifts, masks
          and reshapes, F16 arithmetic, on the CPU. Left out where torch is missing.

All take turns; a figure is the median. Prints a Markdown table.
"""

import argparse
import ctypes
import os
import pathlib
import re
import statistics
import sys
import time

import gguf
import numpy as np

try:
    import torch
except ImportError:
    torch = None

ROOT = pathlib.Path(__file__).resolve().parent.parent
LIBRARY = ROOT / "build" / "shared" / "lib" / "libdequant.so"
COLUMNS = 3072
F32, F16 = 0, 1


def load(path):
    """libdequant through its C ABI."""
    if not path.exists():
        sys.exit(
            f"{path}: not there; build it: cmake --preset shared && "
            "cmake --build --preset shared --target dequant"
        )
    library = ctypes.CDLL(str(path))
    pointer, number = ctypes.c_void_p, ctypes.c_int32
    library.dequant_run.argtypes = [
        number, pointer, number, pointer, ctypes.c_int64, ctypes.c_int
    ]  # fmt: skip
    library.dequant_block_bytes.restype = ctypes.c_int64
    library.dequant_target.restype = ctypes.c_char_p
    return library


# ------------------------------------------------- the torch way, written anew
# Each takes blocks as a [n, bytes] uint8 tensor and gives [n, elements] F16.


def bits(bytes_, shifts, mask):
    """The fields of `bytes_` at these shifts, one slice of its rows a shift."""
    shifts = torch.tensor(shifts, dtype=torch.uint8).reshape(-1, 1)
    return bytes_.unsqueeze(-2) >> shifts & mask


def torch_q4_0(blocks):
    d, codes = torch.split(blocks, [2, 16], dim=1)
    q = bits(codes, [0, 4], 15).reshape(len(blocks), 32)
    return d.view(torch.float16) * (q.to(torch.int8) - 8)


def torch_q8_0(blocks):
    d, codes = torch.split(blocks, [2, 32], dim=1)
    return d.view(torch.float16) * codes.view(torch.int8)


def torch_q4_k(blocks):
    n = len(blocks)
    d, dmin, packed, codes = torch.split(blocks, [2, 2, 12, 128], dim=1)
    low, middle, high = torch.split(packed, 4, dim=1)
    scale = torch.cat([low & 63, high & 15 | low >> 2 & 48], dim=1)
    minimum = torch.cat([middle & 63, high >> 4 | middle >> 2 & 48], dim=1)
    scale = (d.view(torch.float16) * scale).reshape(n, 8, 1)
    minimum = (dmin.view(torch.float16) * minimum).reshape(n, 8, 1)
    q = bits(codes.reshape(n, 4, 32), [0, 4], 15).reshape(n, 8, 32)
    return (scale * q - minimum).reshape(n, 256)


def torch_q6_k(blocks):
    n = len(blocks)
    low, high, scales, d = torch.split(blocks, [128, 64, 16, 2], dim=1)
    scale = d.view(torch.float16) * scales.view(torch.int8)
    low = bits(low.reshape(n, 2, 64), [0, 4], 15).reshape(n, 8, 32)
    high = bits(high.reshape(n, 2, 32), [0, 2, 4, 6], 3).reshape(n, 8, 32)
    q = (low | high << 4).to(torch.int8) - 32
    return (scale.reshape(n, 16, 1) * q.reshape(n, 16, 16)).reshape(n, 256)


TORCH = {"Q4_0": torch_q4_0, "Q8_0": torch_q8_0, "Q4_K": torch_q4_k, "Q6_K": torch_q6_k}


# ----------------------------------------------------------------------- timing


def medians(contestants, rounds):
    """Seconds of each function; they take turns."""
    seconds = {name: [] for name in contestants}
    for _ in range(rounds + 1):
        for name, function in contestants.items():
            start = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(s[1:]) for name, s in seconds.items()}


def known(library):
    """The types that both the gguf package and this build know, and that pack."""
    for qtype in gguf.GGMLQuantizationType:
        elements, size = gguf.GGML_QUANT_SIZES[qtype]
        if elements > 1 and library.dequant_block_bytes(int(qtype)) == size:
            yield qtype, elements, size


def time_type(library, qtype, elements, size, rows, rounds):
    """A row of the table, or None if the gguf package cannot compute the type."""
    n = rows * COLUMNS
    random = np.random.default_rng(1)
    packed = random.integers(0, 256, n // elements * size, dtype=np.uint8)
    packed &= 0xBF  # bit 14 of every F16 scale: all are finite
    packed = packed.reshape(rows, -1)
    out = {F32: np.zeros((rows, COLUMNS), np.float32)}
    out[F16] = np.zeros((rows, COLUMNS), np.float16)

    def ours(dtype, threads):
        code = library.dequant_run(
            int(qtype), packed.ctypes.data, dtype, out[dtype].ctypes.data, n, threads
        )
        if code != 0:
            sys.exit(f"{qtype.name}: dequant_run gives {code}")

    def of_gguf():
        return gguf.quants.dequantize(packed, qtype)

    try:
        expected = of_gguf()
    except NotImplementedError:
        return None
    ours(F32, 1)
    same = np.array_equal(expected.view(np.uint32), out[F32].view(np.uint32))

    contestants = {
        "gguf": of_gguf,
        "F32": lambda: ours(F32, 1),
        "F32 all": lambda: ours(F32, 0),
        "F16": lambda: ours(F16, 1),
        "F16 all": lambda: ours(F16, 0),
    }
    if torch and qtype.name in TORCH:
        blocks = torch.from_numpy(packed).reshape(-1, size)

        def of_torch():
            return TORCH[qtype.name](blocks)

        def of_one_thread():
            torch.set_num_threads(1)
            of_torch()
            torch.set_num_threads(os.cpu_count())

        # F16 arithmetic rounds several times: near is all it can be.
        ours(F16, 1)
        error = of_torch().reshape(rows, COLUMNS).float() - torch.from_numpy(expected)
        if error.abs().max() > 0.01 * np.abs(expected).max():
            sys.exit(f"{qtype.name}: the torch version is wrong")
        contestants |= {"torch": of_one_thread, "torch all": of_torch}
    t = medians(contestants, rounds)

    def speed(name):
        return f"{n / t[name] / 1e6:.0f}" if name in t else ""

    def ratio(peer, name):
        return f"{t[peer] / t[name]:.1f}" if peer in t else ""

    cells = [qtype.name, speed("gguf"), speed("F32"), ratio("gguf", "F32")]
    cells += [speed("F32 all"), ratio("gguf", "F32 all")]
    cells += [speed("torch"), speed("F16"), ratio("torch", "F16")]
    cells += [speed("torch all"), speed("F16 all"), ratio("torch all", "F16 all")]
    return cells + ["yes" if same else "NO"]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--library", type=pathlib.Path, default=LIBRARY)
    parser.add_argument("--rows", type=int, default=1024, help="of 3072 elements")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("types", nargs="?", default="", help="a regular expression")
    args = parser.parse_args()
    library = load(args.library.resolve())
    if torch is None:
        print("dequant: no torch here: its columns stay empty", file=sys.stderr)

    print(f"Million elements/s of {args.rows} x {COLUMNS} elements, ", end="")
    print(f"{library.dequant_target().decode()}, {os.cpu_count()} cores\n")
    head = ["", "gguf", "F32", "ratio", "F32, all threads", "ratio"]
    head += ["torch, 1 thread", "F16", "ratio"]
    head += ["torch, all", "F16, all", "ratio", "F32 bits of gguf"]
    print("| " + " | ".join(head) + " |")
    print("|---" + "|---:" * (len(head) - 1) + "|")
    same = True
    for qtype, elements, size in known(library):
        if not re.search(args.types, qtype.name):
            continue
        cells = time_type(library, qtype, elements, size, args.rows, args.rounds)
        if cells:
            print("| " + " | ".join(cells) + " |", flush=True)
            same = same and cells[-1] == "yes"
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
