#!/usr/bin/env python3
"""Writes a GGUF file with a tensor of random blocks for every block format that
the `gguf` package can dequantize; check_model.py compares it.

    make_random.py OUT.gguf [--blocks N] [--seed N]
"""

import argparse

import gguf
import numpy as np


def formats():
    """The block formats that the package has code for, by id."""
    for kind, (elements, size) in sorted(gguf.GGML_QUANT_SIZES.items()):
        if elements == 1:
            continue
        try:
            gguf.quants.dequantize(np.zeros((1, size), np.uint8), kind)
        except NotImplementedError:
            continue
        yield kind, size


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output")
    parser.add_argument("--blocks", type=int, default=4096)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    random = np.random.default_rng(args.seed)
    writer = gguf.GGUFWriter(args.output, "random")
    for kind, size in formats():
        data = random.integers(0, 256, (args.blocks // 16, 16 * size), np.uint8)
        writer.add_tensor(kind.name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
