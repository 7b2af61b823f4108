#!/usr/bin/env python3
"""Converts a GGUF model to every output type and compares each tensor with the
`gguf` package's own dequantize, bit for bit.

    check_model.py MODEL.gguf PROGRAM...
"""

import argparse
import os
import sys
import tempfile

import gguf
import numpy as np

import bits

FLOATS = {"F32", "F16", "BF16"}


def is_float(tensor):
    return (tensor.tensor_type.name in FLOATS
            or tensor.tensor_type in gguf.GGML_QUANT_SIZES
            and gguf.GGML_QUANT_SIZES[tensor.tensor_type][0] > 1)


def difference(tensor, output):
    if output is not None and output[1] != tensor.shape.tolist()[::-1]:
        return f"shape {output[1]} instead of {tensor.shape.tolist()[::-1]}"
    with np.errstate(all="ignore"):
        answer = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
    copied = output is not None and tensor.tensor_type.name == output[0]
    return bits.difference(answer, output, copied)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("program", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    tensors = [t for t in gguf.GGUFReader(args.model).tensors if is_float(t)]
    good = True
    with tempfile.TemporaryDirectory() as folder:
        for dtype in bits.DTYPES:
            output = bits.convert(args.program, args.model,
                                  os.path.join(folder, "out.safetensors"), dtype)
            good &= bits.report("tensors", dtype, {
                t.name: difference(t, output.get(t.name)) for t in tensors})
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
