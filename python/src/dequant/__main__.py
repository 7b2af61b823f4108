"""The program `dequant`: the same as without Python."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys


def main() -> int:
    name = "dequant.exe" if sys.platform == "win32" else "dequant"
    program = str(pathlib.Path(__file__).parent / "bin" / name)
    if sys.platform == "win32":  # there exec does not wait
        return subprocess.run([program, *sys.argv[1:]], check=False).returncode
    os.execv(program, [program, *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
