#!/usr/bin/env python3
"""Compares kernels/tables/grids.cc with the grids of the gguf package.

    check_grids.py [--write] [ggml-common.h]

With ggml's header, compares with that too. --write renews the codes first.
"""

import argparse
import pathlib
import re
import sys

import numpy as np
from gguf import quants

GRIDS = pathlib.Path(__file__).resolve().parent.parent / "kernels/tables/grids.cc"
# Our name, gguf's class, ggml's table, and by how much our values are larger.
TABLES = (
    ("Iq2xxs", quants.IQ2_XXS, "iq2xxs_grid", 1),
    ("Iq2xs", quants.IQ2_XS, "iq2xs_grid", 1),
    ("Iq2s", quants.IQ2_S, "iq2s_grid", 1),
    ("Iq3xxs", quants.IQ3_XXS, "iq3xxs_grid", 1),
    ("Iq3s", quants.IQ3_S, "iq3s_grid", 1),
    ("Iq1", quants.IQ1_S, "iq1s_grid", 8),
)


def codes_pattern(name):
    return re.compile(rf"(kCodes{name}\[(\d+)\] = {{)([^}}]*)}}")


def numbers(text):
    return [int(n, 0) for n in re.findall(r"-?\b(?:0x[0-9a-fA-F]+|\d+)", text)]


def ours(source, name):
    """The rows that grids.cc expands its codes to."""
    _, size, codes = codes_pattern(name).search(source).groups()
    width, values = re.search(
        rf"kGrid{name} =\s+Expand<uint(\d+)_t>\(kCodes{name},\s+{{([^}}]*)}}", source).groups()
    codes, values = np.array(numbers(codes)), np.array(numbers(values))
    assert codes.size == int(size), f"{name}: {codes.size} codes"
    elements = int(width) // 8
    bits = 16 // elements
    return values[codes[:, None] >> bits * np.arange(elements) & (1 << bits) - 1]


def of_gguf(cls):
    cls.init_grid()
    return cls.grid.reshape(cls.grid_shape)


def of_ggml(header, name):
    words, body = re.search(
        rf"GGML_TABLE_BEGIN\(uint(\d+)_t, {name}, \w+\)(.*?)GGML_TABLE_END", header, re.S).groups()
    return np.array(numbers(body), dtype=f"<u{int(words) // 8}")


def renew(source):
    """The source with the codes that gguf packs in hexadecimal."""
    for name, cls, _, _ in TABLES:
        codes = np.frombuffer(bytes.fromhex(cls.grid_hex.decode()), dtype="<u2")
        lines = (", ".join(f"0x{c:04x}" for c in codes[i:i + 9]) for i in range(0, codes.size, 9))
        body = "".join(f"\n    {line}," for line in lines)
        source = codes_pattern(name).sub(lambda m: f"{m[1]}{body}\n}}", source)
    return source


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="renew the codes in grids.cc")
    parser.add_argument("header", nargs="?", type=pathlib.Path, help="ggml-common.h")
    args = parser.parse_args()
    if args.write:
        GRIDS.write_text(renew(GRIDS.read_text()))

    source = GRIDS.read_text()
    header = args.header.read_text() if args.header else None
    wrong = []
    for name, cls, table, factor in TABLES:
        rows = ours(source, name)
        if not np.array_equal(rows, factor * of_gguf(cls)):
            wrong.append(f"kGrid{name} differs from gguf's {cls.__name__}.grid")
        if header:
            theirs = of_ggml(header, table)
            packed = (rows // factor).astype(np.int8).view(theirs.dtype).reshape(-1)
            if not np.array_equal(packed, theirs):
                wrong.append(f"kGrid{name} differs from ggml's {table}")
    # Kernels compute the eighth sign: it makes the number of minus signs even.
    parity = bytes(i | (i.bit_count() & 1) << 7 for i in range(128))
    if quants.IQ2_XXS.ksigns != parity:
        wrong.append("gguf's IQ2_XXS.ksigns is not the parity rule")
    if header and of_ggml(header, "ksigns_iq2xs").tobytes() != parity:
        wrong.append("ggml's ksigns_iq2xs is not the parity rule")
    print("\n".join(wrong) or f"{len(TABLES)} grids and the signs match gguf"
          + (" and ggml-common.h" if header else ""))
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
