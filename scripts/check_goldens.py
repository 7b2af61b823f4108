#!/usr/bin/env python3
"""Converts a file of known answers to every output type and compares the bits.

    check_goldens.py GOLDENS.gguf PROGRAM...

A case is two tensors: FORMAT.CASE, packed, and FORMAT.CASE.f32, the answer.
PROGRAM is the command that runs dequant, an emulator before it if need be.
"""

import argparse
import os
import struct
import sys
import tempfile

import numpy as np

import bits

FIXED_SIZE = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
STRING, ARRAY = 8, 9


class Reader:
    """Just enough GGUF to read F32 tensors, apart from the program under test."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, layout):
        values = struct.unpack_from("<" + layout, self.data, self.at)
        self.at += struct.calcsize("<" + layout)
        return values if len(values) > 1 else values[0]

    def string(self):
        size = self.take("Q")
        self.at += size
        return bytes(self.data[self.at - size:self.at]).decode()

    def value(self, kind):
        if kind == STRING:
            return self.string()
        if kind == ARRAY:
            kind, count = self.take("IQ")
            return [self.value(kind) for _ in range(count)]
        self.at += FIXED_SIZE[kind]
        return bytes(self.data[self.at - FIXED_SIZE[kind]:self.at])


def answers(path):
    """Case -> F32 array, for every tensor named CASE.f32."""
    reader = Reader(np.fromfile(path, dtype=np.uint8).data)
    magic, _, tensors, keys = reader.take("4sIQQ")
    assert magic == b"GGUF", path
    metadata = {}
    for _ in range(keys):
        name = reader.string()
        metadata[name] = reader.value(reader.take("I"))
    table = []
    for _ in range(tensors):
        name = reader.string()
        dims = [reader.take("Q") for _ in range(reader.take("I"))]
        kind, offset = reader.take("IQ")
        table.append((name, int(np.prod(dims)), kind, offset))
    alignment = int.from_bytes(metadata.get("general.alignment", b"\x20"), "little")
    start = -(-reader.at // alignment) * alignment
    return {name.removesuffix(".f32"):
            np.frombuffer(reader.data, np.float32, count, start + offset)
            for name, count, kind, offset in table
            if kind == 0 and name.endswith(".f32")}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("goldens")
    parser.add_argument("program", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    cases = answers(args.goldens)
    good = True
    with tempfile.TemporaryDirectory() as folder:
        for dtype in bits.DTYPES:
            output = bits.convert(args.program, args.goldens,
                                  os.path.join(folder, "out.safetensors"), dtype)
            good &= bits.report("cases", dtype, {
                name: bits.difference(answer, output.get(name),
                                      copied=name.split(".")[0] == dtype)
                for name, answer in cases.items()})
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
