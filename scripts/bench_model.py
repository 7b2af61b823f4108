#!/usr/bin/env python3
"""Times a whole model, and what else does the same job, on this machine.

    bench_model.py MODEL.gguf [--folder DIR] [--rounds N] [--name NAME] [--no-peers]

  load      against a loop that reads the same input and writes as many bytes into
            equally fresh memory; against torch code in the manner of ComfyUI-GGUF
  convert   against `cp` of the output; against a short Python script with the `gguf`
            package and `safetensors`; its peak memory
  open      of MODEL, and of a file with a vocabulary of 256,000 tokens

Files are written to DIR (default: beside MODEL) and removed; it takes room for three
outputs. What is compared takes turns, and a ratio is the median over the turns.
Writes docs/bench/NAME.md (default: named after MODEL) with a plot of where the time
goes.
"""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time

from bench_report import BLUE, DOCS, GREEN, GREY, ORANGE
from bench_report import pyplot, save, table, write_index

ROOT = pathlib.Path(__file__).resolve().parent.parent
BIN = ROOT / "build" / "release" / "bin"
VOCABULARY = 256_000

# The goals: ratios and milliseconds.
LOAD_OVER_LOOP = 1.15
CONVERT_OVER_CP = 1.15
PEER_OVER_CONVERT = 20
PEER_OVER_LOAD = 15
OPEN_MS = 5
OPEN_VOCABULARY_MS = 30
PEAK_MB = 128

# The peers run in processes of their own: what they import and keep must not count.
CONVERT_PEER = """
import sys, time
start = time.perf_counter()
import gguf, numpy, safetensors.numpy
reader = gguf.GGUFReader(sys.argv[1])
opened = time.perf_counter()
plain = (gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F16)
out = {}
for t in reader.tensors:
    shape = [int(d) for d in t.shape][::-1]
    values = t.data
    if t.tensor_type not in plain:
        values = gguf.quants.dequantize(values, t.tensor_type).astype(numpy.float16)
    out[t.name] = values.reshape(shape)
safetensors.numpy.save_file(out, sys.argv[2])
print(opened - start, time.perf_counter() - start)
"""
LOAD_PEER = """
import os, sys, time
import warnings
warnings.simplefilter("ignore")  # of data that cannot be written to
import gguf, torch
from bench_peers import TORCH
torch.set_num_threads(os.cpu_count())
reader = gguf.GGUFReader(sys.argv[1])
for _ in range(2):  # the first warms up
    start = time.perf_counter()
    out = {}
    for t in reader.tensors:
        shape = [int(d) for d in t.shape][::-1]
        data = torch.from_numpy(t.data)
        name = t.tensor_type.name
        if name in TORCH:
            block = gguf.GGML_QUANT_SIZES[t.tensor_type][1]
            data = TORCH[name](data.view(torch.uint8).reshape(-1, block))
        elif name not in ("F32", "F16"):
            values = gguf.quants.dequantize(t.data, t.tensor_type)
            data = torch.from_numpy(values).to(torch.float16)
        else:
            data = data.clone()
        out[t.name] = data.reshape(shape)
    seconds = time.perf_counter() - start
    del out
print(seconds)
"""


def say(text):
    print(f"dequant: {text}", file=sys.stderr, flush=True)


def median(values):
    return statistics.median(values)


def median_ratio(a, b):
    return median(x / y for x, y in zip(a, b))


def timed(*command):
    """Seconds and peak memory, in MB, of a command."""
    peak = 0
    start = time.perf_counter()
    with subprocess.Popen([str(c) for c in command]) as process:
        # Not the rusage: a child begins with the peak of its parent.
        status = pathlib.Path(f"/proc/{process.pid}/status")
        while process.poll() is None:
            for line in status.read_text().splitlines():
                if line.startswith("VmHWM"):
                    peak = int(line.split()[1])
            time.sleep(0.002)
    seconds = time.perf_counter() - start
    if process.returncode != 0:
        sys.exit(f"{command[0]}: exit code {process.returncode}")
    return seconds, peak * 1024 / 1e6


def python(code, *args):
    """What a Python program prints, as numbers."""
    command = [sys.executable, "-c", code, *map(str, args)]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "scripts")}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    return [float(x) for x in done.stdout.split()]


def forget(path):
    """Drops a file from the page cache, if the system listens."""
    with open(path, "rb") as f:
        os.fsync(f.fileno())
        os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def is_memory(path):
    """Whether the file's system is memory, from which nothing can be dropped."""
    command = ["stat", "--file-system", "--format=%T", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip() in ("tmpfs", "ramfs")


def model_bench(model, folder, rounds):
    done = subprocess.run(
        [str(BIN / "model_bench"), str(model), str(folder), str(rounds)],
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(done.stdout)


def write_vocabulary(path):
    """A small GGUF file with a large vocabulary."""

    def text(s):
        return struct.pack("<Q", len(s)) + s

    def array(key, kind, items):
        head = text(key) + struct.pack("<IIQ", 9, kind, VOCABULARY)
        return head + b"".join(items)

    tokens = range(VOCABULARY)
    keys = [
        text(b"general.architecture") + struct.pack("<I", 8) + text(b"llama"),
        array(b"tokenizer.ggml.tokens", 8, (text(b"token%d" % i) for i in tokens)),
        array(b"tokenizer.ggml.scores", 6, (struct.pack("<f", -i) for i in tokens)),
        array(b"tokenizer.ggml.token_type", 5, (struct.pack("<i", 1) for _ in tokens)),
        array(b"tokenizer.ggml.merges", 8, (text(b"t %d" % i) for i in tokens)),
    ]
    tensor = text(b"t") + struct.pack("<IQIQ", 1, 1024, 0, 0)
    head = struct.pack("<4sIQQ", b"GGUF", 3, 1, len(keys)) + b"".join(keys) + tensor
    path.write_bytes(head + bytes(-len(head) % 32) + bytes(4096))


def measure_convert(model, folder, rounds):
    """Seconds of convert and of cp, warm and cold, and convert's peak memory."""
    ours, copy = folder / "ours.safetensors", folder / "copy.safetensors"
    convert = (BIN / "dequant", "convert", model, "-o", ours, "--quiet")
    result = {"convert": [], "cp": [], "cold convert": [], "cold cp": [], "peak": 0.0}
    timed(*convert)  # something for cp to copy
    for cold in ("", "cold "):
        for i in range(rounds + 1):
            copy.unlink(missing_ok=True)
            os.sync()
            if cold:
                forget(ours)
            copied, _ = timed("cp", ours, copy)
            ours.unlink()
            os.sync()
            if cold:
                forget(model)
            converted, peak = timed(*convert)
            result["peak"] = max(result["peak"], peak)
            if i > 0:  # the first warms up
                result[f"{cold}cp"].append(copied)
                result[f"{cold}convert"].append(converted)
    copy.unlink()
    return result


def measure_peers(model, folder):
    """Seconds of the peers; of a conversion also without opening the file."""
    out = folder / "peer.safetensors"
    opened, converted = python(CONVERT_PEER, model, out)
    out.unlink()
    result = {"convert": converted, "convert, opened": converted - opened}
    try:
        import torch  # noqa: F401
    except ImportError:
        say("no torch here: load is not compared with it")
    else:
        (result["load"],) = python(LOAD_PEER, model)
    return result


def plot(path, seconds, convert):
    """Where the time goes: each part on its own, below the whole."""
    plt = pyplot()
    rows = [
        ("load", median(seconds["load"]), BLUE),
        ("  read", median(seconds["read"]), GREY),
        ("  dequantize", median(seconds["dequantize"]), GREEN),
        ("  page faults", median(seconds["fault"]), ORANGE),
        ("convert", median(convert["convert"]), BLUE),
        ("  read ", median(seconds["read"]), GREY),
        ("  dequantize ", median(seconds["dequantize"]), GREEN),
        ("  write", median(seconds["pwrite"]), ORANGE),
        ("cp of the output", median(convert["cp"]), GREY),
    ]
    figure, axes = plt.subplots(figsize=(7, 3))
    names, values, colors = zip(*reversed(rows))
    axes.barh(names, values, color=colors)
    for y, value in enumerate(values):
        axes.text(value, y, f" {value:.3f} s", va="center")
    axes.set_xlabel("seconds")
    axes.grid(axis="y", visible=False)
    save(plt, figure, path)


def goal(value, limit, most=True):
    good = value <= limit if most else value >= limit
    return f"{'<=' if most else '>='} {limit:g}" + ("" if good else ", missed")


def write_page(name, model, bench, vocabulary, convert, peers):
    DOCS.mkdir(parents=True, exist_ok=True)
    seconds = bench["seconds"]
    out = bench["bytes_out"]

    def speed(s):
        return f"{s:.3f} s, {out / s / 1e9:.2f} GB/s"

    load = median(seconds["load"])
    converted = median(convert["convert"])
    over_loop = median_ratio(seconds["load"], seconds["loop"])
    over_cp = median_ratio(convert["convert"], convert["cp"])
    opened = median(seconds["open"]) * 1e3
    opened_vocabulary = median(vocabulary["seconds"]["open"]) * 1e3
    rows = [
        ["load", speed(load), ""],
        ["the loop", speed(median(seconds["loop"])), ""],
        ["load / loop", f"{over_loop:.2f}", goal(over_loop, LOAD_OVER_LOOP)],
        ["convert", speed(converted), ""],
        ["`cp` of the output", speed(median(convert["cp"])), ""],
        ["convert / `cp`", f"{over_cp:.2f}", goal(over_cp, CONVERT_OVER_CP)],
        ["peak memory of convert", f"{convert['peak']:.0f} MB",
         goal(convert["peak"], PEAK_MB)],
        [f"open, {bench['tensors']} tensors", f"{opened:.1f} ms",
         goal(opened, OPEN_MS)],
        [f"open, {VOCABULARY:,} tokens", f"{opened_vocabulary:.1f} ms",
         goal(opened_vocabulary, OPEN_VOCABULARY_MS)],
    ]  # fmt: skip
    if peers:
        ratio = peers["convert"] / converted
        ratio_opened = peers["convert, opened"] / converted
        rows += [
            ["convert by gguf and safetensors", speed(peers["convert"]), ""],
            ["of it, with the file open", speed(peers["convert, opened"]),
             f"{ratio_opened:.0f} times convert"],
            ["that / convert", f"{ratio:.0f}", goal(ratio, PEER_OVER_CONVERT, False)],
        ]  # fmt: skip
    if peers and "load" in peers:
        ratio = peers["load"] / load
        rows += [
            ["load by torch code, with the file open", speed(peers["load"]), ""],
            ["that / load", f"{ratio:.0f}", goal(ratio, PEER_OVER_LOAD, False)],
        ]  # fmt: skip
    cold = "All input is in memory: so is its file system.\n"
    if not is_memory(model):
        cold = ""
        rows += [
            ["load, input not cached", speed(median(seconds["cold_load"])), ""],
            ["its reading alone", f"{median(seconds['cold_read']):.3f} s", ""],
            ["convert, input not cached", speed(median(convert["cold convert"])), ""],
            ["`cp`, its input not cached", speed(median(convert["cold cp"])), ""],
        ]
    parts = [
        ["read", median(seconds["read"])],
        ["dequantize", median(seconds["dequantize"])],
        ["both, read by pread", median(seconds["from_pread"])],
        ["both, from a fresh mapping", median(seconds["from_map"])],
        ["page faults of fresh memory", median(seconds["fault"])],
        ["write with pwrite", median(seconds["pwrite"])],
        ["write through a mapped file", median(seconds["mapped"])],
    ]
    plot(DOCS / f"{name}-time.svg", seconds, convert)
    threads = bench["threads"] or os.cpu_count()
    text = f"""\
# Whole model: {model.name}

{bench['tensors']} tensors, {bench['bytes_in'] / 1e9:.2f} GB in,
{out / 1e9:.2f} GB out as F16, {threads} threads, {bench['target']}. Medians; GB/s of
output; ratios are medians over rounds in which the contestants took turns.
{cold}
{table(["", "", "goal"], rows)}
## Where the time goes

Each part on its own, on as many threads. Parts overlap in the whole, and share
memory bandwidth.

![Where the time goes]({name}-time.svg)

{table(["", "seconds"], [[what, f"{s:.3f}"] for what, s in parts])}"""
    page = DOCS / f"{name}.md"
    page.write_text(text)
    write_index()
    print(text.split("## Where")[0])
    return page


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--folder", type=pathlib.Path, help="for what is written")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--name", help="of the page")
    parser.add_argument("--no-peers", action="store_true", help="they take long")
    args = parser.parse_args()
    model = args.model.resolve()
    folder = pathlib.Path(
        tempfile.mkdtemp(prefix="bench_model_", dir=args.folder or model.parent)
    )
    try:
        vocabulary = folder / "vocabulary.gguf"
        write_vocabulary(vocabulary)
        say("opening")
        opened = model_bench(vocabulary, folder, args.rounds)
        say("load")
        bench = model_bench(model, folder, args.rounds)
        say("convert")
        convert = measure_convert(model, folder, args.rounds)
        peers = {}
        if not args.no_peers:
            say("peers")
            peers = measure_peers(model, folder)
    finally:
        shutil.rmtree(folder)
    name = args.name or f"model-{model.stem}"
    page = write_page(name, model, bench, opened, convert, peers)
    say(f"wrote {page}")


if __name__ == "__main__":
    main()
