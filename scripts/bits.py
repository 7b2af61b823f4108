"""Compares what dequant wrote with F32 answers, bit for bit.

The contract: F32 output is the answer; F16 and BF16 output is the answer rounded
once, to nearest even; NaN is one canonical quiet NaN.
"""

import pathlib
import subprocess
import sys

import numpy as np
import safetensors

DTYPES = ("f32", "f16", "bf16")
CANONICAL_NAN = {"F32": 0x7FC00000, "F16": 0x7E00, "BF16": 0x7FC0}
INFINITY = {"F32": 0x7F800000, "F16": 0x7C00, "BF16": 0x7F80}


def convert(command, source, target, dtype):
    """Converts, every float tensor to `dtype`; name -> (dtype, shape, bytes)."""
    result = subprocess.run(
        [*command, "convert", source, "-o", target, "--dtype", dtype, "--cast-all",
         "--force", "--quiet"], capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(result.stderr or f"{command[0]} ended with {result.returncode}")
    tensors = safetensors.deserialize(pathlib.Path(target).read_bytes())
    return {name: (t["dtype"], t["shape"], t["data"]) for name, t in tensors}


def expected(answer, dtype):
    """The bits that the F32 array `answer` must give as `dtype`."""
    bits = answer.view(np.uint32)
    if dtype == "F16":
        with np.errstate(over="ignore", invalid="ignore"):
            bits = answer.astype(np.float16).view(np.uint16)
    elif dtype == "BF16":
        wide = bits.astype(np.uint64)
        bits = ((wide + 0x7FFF + ((wide >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(answer), bits.dtype.type(CANONICAL_NAN[dtype]), bits)


def difference(answer, output, copied=False):
    """What is wrong with the tensor `output` of convert(); None if nothing is.

    `copied`: the tensor had its output type from the start, so its NaNs are kept.
    """
    if output is None:
        return "not in the output"
    dtype, _, data = output
    if dtype not in CANONICAL_NAN:
        return f"written as {dtype}"
    want = expected(np.ascontiguousarray(answer, dtype=np.float32).reshape(-1), dtype)
    got = np.frombuffer(data, dtype=want.dtype)
    if got.size != want.size:
        return f"{got.size} elements instead of {want.size}"
    same = got == want
    if copied:
        magnitude = got & (np.iinfo(got.dtype).max >> 1)
        same |= np.isnan(np.ravel(answer)) & (magnitude > INFINITY[dtype])
    wrong = np.flatnonzero(~same)
    if wrong.size == 0:
        return None
    i = wrong[0]
    return (f"{wrong.size} of {want.size} elements differ, the first is {i}: "
            f"{got[i]:#x} instead of {want[i]:#x}")


def report(what, dtype, differences):
    """Prints one line for the dtype, and one per mismatch; True if all match."""
    bad = {name: text for name, text in differences.items() if text}
    for name, text in list(bad.items())[:10]:
        print(f"{name} as {dtype}: {text}", file=sys.stderr)
    count = len(differences)
    print(f"dequant: {dtype}: {count - len(bad)} of {count} {what} match, bit for bit",
          flush=True)
    return count > 0 and not bad
