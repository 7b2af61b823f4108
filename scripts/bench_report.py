"""Turns the JSON of dequant_bench into tables and plots.

  bench_report.py page RESULTS.json... [--name NAME] [--revision REV]
      docs/bench/NAME.md with its plots; says on the terminal what misses a goal.
      Several files are one run, with more repetitions of some rows
  bench_report.py disturbed RESULTS.json...
      prints a filter for rows that had no quiet time, if there are any
  bench_report.py compare COMPARE.json...
      prints how fast one build is, with the other as 1; a file is a repetition
"""
import argparse
import dataclasses
import datetime
import json
import math
import pathlib
import re
import statistics
import sys

DOCS = pathlib.Path(__file__).resolve().parent.parent / "docs" / "bench"
PLAIN = ("F32", "F16", "BF16")
ROOFS = ("memset", "store", "stream")
SIZES = ("L1", "L2", "LLC", "DRAM")
OUTPUTS = ("F32", "F16", "BF16")
# The formats of the line plots; twenty-nine lines would be a hank of wool.
SHOWN = ("Q4_0", "Q8_0", "Q4_K", "Q6_K", "IQ4_XS", "IQ3_S")
# A repetition is quiet if the fastest loop that only stores, and one of integers,
# were nearly as fast in their turns as in the best tenth of the run: else a neighbour
# was busy, who slows storing and computing by different factors. (The clock of a core
# moves by some percent; a neighbour takes 15 % or more of its integers.) Nor do those
# count whose loops were faster still: some hosts let memory run at twice its speed for
# moments, of which not each turn has its share.
QUIET = 0.94
QUIET_CORE = 0.9
# Rows that are measured again, at most so many at once.
AGAIN = 200
NAME = re.compile(
    r"^(?:(?P<format>[^/]+)/(?P<output>[^/]+)/)?(?P<target>[^/]+)"
    r"/(?P<size>[^/]+)/threads:(?P<threads>\d+)$"
)


@dataclasses.dataclass(frozen=True)
class Key:
    """What a row measures; format and output are None for a roof."""

    format: str | None
    output: str | None
    target: str
    size: str
    threads: int


class Results:
    """The rows of one run, or of several files: single repetitions, and medians of
    the quiet ones, if there are any, of every counter."""

    def __init__(self, paths):
        files = [json.loads(pathlib.Path(path).read_text()) for path in paths]
        self.context = files[0]["context"]
        self.repetitions = {}
        self.failed = []
        for run in (run for data in files for run in data["benchmarks"]):
            match = NAME.match(run["run_name"])
            if not match:
                continue
            parts = match.groupdict()
            key = Key(**{**parts, "threads": int(parts["threads"])})
            if run.get("error_occurred"):
                self.failed.append((run["run_name"], run.get("error_message", "")))
            elif run["run_type"] == "iteration":
                self.repetitions.setdefault(key, []).append(run)
        speeds = {}
        for key, runs in self.repetitions.items():
            at = speeds.setdefault((key.size, key.threads), [])
            at += [roof_speed(run) for run in runs if "of_roof" in run]
        self.best = {
            at: sorted(values)[len(values) * 9 // 10]
            for at, values in speeds.items()
            if values
        }
        cores = sorted(
            run["core"]
            for runs in self.repetitions.values()
            for run in runs
            if "core" in run
        )
        self.best_core = cores[len(cores) * 9 // 10] if cores else 0
        self.medians = {
            key: median(self.quiet(key) or runs)
            for key, runs in self.repetitions.items()
        }

    def quiet(self, key):
        """The quiet repetitions of a row."""
        best = self.best.get((key.size, key.threads), 0)
        return [
            run
            for run in self.repetitions[key]
            if ("of_roof" not in run or QUIET * best <= roof_speed(run) <= best / QUIET)
            and run.get("core", self.best_core) >= QUIET_CORE * self.best_core
        ]

    def get(self, counter, *key):
        """The median of a counter, or None."""
        return self.medians.get(Key(*key), {}).get(counter)

    def unique(self, field, unwanted=(None,)):
        """The values of a key's field, in the order of the run."""
        values = (getattr(key, field) for key in self.medians)
        return [v for v in dict.fromkeys(values) if v not in unwanted]

    @property
    def formats(self):
        return self.unique("format")

    @property
    def blocks(self):
        return [f for f in self.formats if f not in PLAIN]

    @property
    def targets(self):
        return self.unique("target", (*ROOFS, "ggml"))

    @property
    def threads(self):
        return max(self.unique("threads"), default=1)


def roof_speed(run):
    """Bytes a second of the fastest loop that only stores, in turns with a row."""
    return run["bytes/s"] / run["of_roof"]


def median(runs):
    """The median of every counter."""
    return {
        counter: statistics.median(run[counter] for run in runs)
        for counter, value in runs[0].items()
        if isinstance(value, (int, float)) and all(counter in run for run in runs)
    }


def number(value, digits=2):
    return "" if value is None else f"{value:.{digits}f}"


def gigabytes(value):
    return "" if value is None else f"{value / 1e9:.1f}"


def mean(values):
    """The geometric mean of those that are there, or None."""
    values = [v for v in values if v]
    return math.exp(statistics.fmean(map(math.log, values))) if values else None


def table(head, rows):
    """Markdown; columns that are empty in all rows are left out. "" if all are."""
    keep = [i for i in range(len(head)) if i == 0 or any(row[i] for row in rows)]
    if len(keep) == 1:
        return ""
    lines = ["| " + " | ".join(head[i] for i in keep) + " |"]
    lines.append("|---" + "|---:" * (len(keep) - 1) + "|")
    lines += ["| " + " | ".join(row[i] for i in keep) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def memset_range(r):
    """The slowest and fastest memset in GB/s, over all rows in L2 on one thread."""
    speeds = [
        run["bytes/s"] / run["of_memset"] / 1e9
        for key, run in r.medians.items()
        if (key.size, key.threads) == ("L2", 1) and "of_memset" in run
    ]
    return (min(speeds), max(speeds)) if speeds else (0, 0)


# ---------------------------------------------------------------- the tables


def roof_table(r):
    rows = []
    for size in SIZES:
        for threads in dict.fromkeys((1, r.threads)):
            speeds = [r.get("bytes/s", None, None, f, size, threads) for f in ROOFS]
            if any(speeds):
                label = f"{size}, {threads} thread{'s' * (threads > 1)}"
                rows.append([label, *map(gigabytes, speeds)])
    return table(["GB/s", *ROOFS], rows)


def cache_table(r, target, size="L2"):
    head = ["", "F32 GB/s", "of memset", "of roof", "ggml GB/s", "x ggml"]
    for output in ("F16", "BF16"):
        head += [f"{output} GB/s", "of memset", "elements/s : F32's"]
    rows = []
    ratios = []
    for f in r.formats:
        at = (target, size, 1)
        row = [f, gigabytes(r.get("bytes/s", f, "F32", *at))]
        row += [number(r.get(c, f, "F32", *at)) for c in ("of_memset", "of_roof")]
        row.append(gigabytes(r.get("bytes/s", f, "F32", "ggml", size, 1)))
        row.append(number(r.get("vs_ggml", f, "F32", *at), 1))
        if f not in PLAIN:
            ratios.append(r.get("vs_ggml", f, "F32", *at))
        for output in ("F16", "BF16"):
            row.append(gigabytes(r.get("bytes/s", f, output, *at)))
            row.append(number(r.get("of_memset", f, output, *at)))
            row.append(number(r.get("vs_f32", f, output, *at)))
        rows.append(row)
    text = table(head, rows)
    if mean(ratios):
        text += f"\nGeometric mean against ggml: {mean(ratios):.1f}.\n"
    return text


def size_table(r, target, threads):
    head = [""]
    for output in OUTPUTS:
        for size in SIZES:
            head += [f"{output} {size}", "of roof"]
    rows = []
    for f in r.formats:
        row = [f]
        for output in OUTPUTS:
            for size in SIZES:
                at = (f, output, target, size, threads)
                row += [gigabytes(r.get("bytes/s", *at)), number(r.get("of_roof", *at))]
        rows.append(row)
    return table(head, rows)


def thread_table(r, target):
    head = ["", *(f"{o} {s}" for o in OUTPUTS for s in SIZES[1:])]
    rows = [
        [f]
        + [
            number(r.get("vs_1thread", f, o, target, s, r.threads))
            for o in OUTPUTS
            for s in SIZES[1:]
        ]
        for f in r.formats
    ]
    return table(head, rows)


def call_table(r, target):
    head = ["", *(f"{o} block, ns" for o in OUTPUTS), "x ggml"]
    head += [f"{o} row, ns" for o in OUTPUTS]
    head += [f"{o} overhead" for o in OUTPUTS]
    rows = []
    for f in r.formats:
        row = [f]
        row += [number(r.get("ns", f, o, target, "block", 1), 0) for o in OUTPUTS]
        row.append(number(r.get("vs_ggml", f, "F32", target, "block", 1), 1))
        row += [number(r.get("ns", f, o, target, "row3072", 1), 0) for o in OUTPUTS]
        for o in OUTPUTS:
            value = r.get("overhead", f, o, target, "row3072", 1)
            row.append("" if value is None else f"{value:.0%}")
        rows.append(row)
    return table(head, rows)


def target_table(r):
    head = ["GB/s (of memset)", *(f"{o} {t}" for o in OUTPUTS for t in r.targets)]
    rows = []
    for f in r.formats:
        row = [f]
        for output in OUTPUTS:
            for t in r.targets:
                speed = r.get("bytes/s", f, output, t, "L2", 1)
                share = r.get("of_memset", f, output, t, "L2", 1)
                row.append(f"{gigabytes(speed)} ({share:.2f})" if speed else "")
        rows.append(row)
    return table(head, rows)


# ----------------------------------------------------------------- the plots


def pyplot():
    import matplotlib

    matplotlib.use("svg")
    # Text stays text, and the same numbers give the same file.
    matplotlib.rcParams.update(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": "dequant",
            "font.size": 9,
            "axes.grid": True,
            "grid.color": "#e6e6e6",
            "axes.axisbelow": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "legend.frameon": False,
        }
    )
    import matplotlib.pyplot

    return matplotlib.pyplot


BLUE, ORANGE, GREEN, GREY = "#2b6cb0", "#dd8a2e", "#4a9c6d", "#9aa0a6"
LINES = (BLUE, ORANGE, GREEN, "#b0413e", "#7a5ba6", "#3aa6a6")
ROOF_STYLE = {"memset": "-", "store": "--", "stream": ":"}


def save(plt, figure, path):
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)


def plot_bars(plt, r, target, path):
    """Bars per format against the roof, output in L2, one thread."""
    figure, axes = plt.subplots(figsize=(10, 4))
    series = [(o, o, target, c) for o, c in zip(OUTPUTS, (BLUE, ORANGE, GREEN))]
    series.append(("ggml, F32", "F32", "ggml", GREY))
    width = 0.8 / len(series)
    for i, (label, output, who, color) in enumerate(series):
        # Shares, not GB/s: each was measured in turns with memset.
        shares = [r.get("of_memset", f, output, who, "L2", 1) or 0 for f in r.formats]
        at = [x - 0.4 + (i + 0.5) * width for x in range(len(shares))]
        if any(shares):
            axes.bar(at, [100 * s for s in shares], width, label=label, color=color)
    axes.axhline(100, color="black", lw=1, label="memset")
    axes.set_xticks(range(len(r.formats)), r.formats, rotation=60, ha="right")
    axes.set_ylabel("% of memset's speed")
    axes.grid(axis="x", visible=False)
    axes.margins(x=0.01)
    axes.set_title(f"Output in L2, one thread, {target}", loc="left")
    axes.legend(ncols=6, loc="upper left", bbox_to_anchor=(0, -0.22))
    save(plt, figure, path)


def plot_sizes(plt, r, target, path):
    """Lines over size, one thread, one panel an output type."""
    figure, panels = plt.subplots(1, 3, figsize=(10, 3.4), sharey=True)
    sizes = [s for s in SIZES if s in r.unique("size")]
    at = range(len(sizes))
    for axes, output in zip(panels, OUTPUTS):
        for f, color in zip((f for f in SHOWN if f in r.formats), LINES):
            speeds = [r.get("bytes/s", f, output, target, s, 1) for s in sizes]
            draw(axes, at, speeds, label=f, color=color, marker="o", ms=3)
        for roof in ROOFS:
            speeds = [r.get("bytes/s", None, None, roof, s, 1) for s in sizes]
            style = ROOF_STYLE[roof]
            draw(axes, at, speeds, label=roof, color="black", lw=1, ls=style)
        axes.set_xticks(at, sizes)
        axes.set_title(f"{output}, one thread, {target}", loc="left")
    panels[0].set_ylabel("GB/s written")
    panels[0].set_ylim(bottom=0)
    panels[0].legend(ncols=9, loc="upper left", bbox_to_anchor=(0, -0.12))
    save(plt, figure, path)


def plot_threads(plt, r, target, path):
    """Lines over threads, F32, one panel a size."""
    threads = sorted(r.unique("threads"))
    sizes = [s for s in SIZES[1:] if s in r.unique("size")]
    figure, panels = plt.subplots(1, len(sizes), figsize=(10, 3.4), squeeze=False)
    for axes, size in zip(panels[0], sizes):
        for f, color in zip((f for f in SHOWN if f in r.formats), LINES):
            speeds = [r.get("bytes/s", f, "F32", target, size, t) for t in threads]
            draw(axes, threads, speeds, label=f, color=color, marker="o", ms=3)
        for roof in ROOFS:
            speeds = [r.get("bytes/s", None, None, roof, size, t) for t in threads]
            style = ROOF_STYLE[roof]
            draw(axes, threads, speeds, label=roof, color="black", lw=1, ls=style)
        axes.set_title(f"F32, {size}, {target}", loc="left")
        axes.set_xticks(threads)
        axes.set_xlabel("threads")
        axes.set_ylim(bottom=0)
    panels[0][0].set_ylabel("GB/s written")
    panels[0][0].legend(ncols=9, loc="upper left", bbox_to_anchor=(0, -0.2))
    save(plt, figure, path)


def draw(axes, x, speeds, **style):
    points = [(a, s / 1e9) for a, s in zip(x, speeds) if s]
    if points:
        axes.plot(*zip(*points), **style)


# ------------------------------------------------------------------ the page


def plural(n, noun):
    return f"{n} {noun}{'s' * (n != 1)}"


def write_page(r, name, revision):
    plt = pyplot()
    DOCS.mkdir(parents=True, exist_ok=True)
    target = r.targets[0]
    context = r.context
    date = context.get("date", "")[:10] or str(datetime.date.today())
    title = f"{context.get('cpu', 'unknown CPU')}, {target}"
    if name != slug(r):  # --name tells CPUs apart that call themselves the same
        title += f" ({name})"
    parts = [f"# {title}\n"]
    facts = [
        ["CPU", f"{context.get('cpu')}, {plural(context['num_cpus'], 'core')}"],
        ["Data caches", context.get("data_caches", "")],
        ["Output of one thread", context.get("output_of_one_thread", "").strip(" ;")],
        ["Targets", context.get("targets", "").strip()],
        ["Compiler", context.get("compiler", "")],
        ["ggml", context.get("ggml", "")],
        ["dequant", revision],
        ["memset in L2", "{:.0f} to {:.0f} GB/s over the rows".format(*memset_range(r))],
        ["Date", date],
    ]
    parts.append(table(["", ""], [f for f in facts if f[1]]).replace("---:", "---"))

    def section(title, text, plot=None):
        if not text:  # a run of some rows only
            return
        body = f"## {title}\n"
        if plot:
            file = f"{name}-{plot.__name__.removeprefix('plot_')}.svg"
            plot(plt, r, target, DOCS / file)
            body += f"\n![{title}]({file})\n"
        parts.append(f"{body}\n{text}")

    section("Roofs: loops that only store", roof_table(r))
    section("Output in L2, one thread", cache_table(r, target), plot_bars)
    if len(r.unique("size", ("block", "row3072"))) > 1:
        title = "Over size, one thread: GB/s"
        section(title, size_table(r, target, 1), plot_sizes)
    if r.threads > 1:
        title = f"{plural(r.threads, 'thread')}: speed over one thread's"
        section(title, thread_table(r, target), plot_threads)
        title = f"Over size, {plural(r.threads, 'thread')}: GB/s"
        section(title, size_table(r, target, r.threads))
    section("One call: a block, and a row of 3072 elements", call_table(r, target))
    if len(r.targets) > 1:
        section("Other targets, output in L2, one thread", target_table(r))
    (DOCS / f"{name}.md").write_text("\n".join(parts))
    write_index()
    return DOCS / f"{name}.md"


INDEX = """\
# Benchmarks

`scripts/bench` wrote these pages, each on one machine:

{pages}

How to read them:

- **GB/s** are bytes of output. A dequantizer cannot be faster than a loop that
  only stores: `memset`, plain vector stores, streaming stores.
- **of memset, of roof**: the speed over that of `memset`, and over that of the
  fastest of the three, for the same bytes on as many threads. Whatever is
  compared takes turns of 50 us within one row, and a ratio is the median over
  rounds, then over repetitions: a machine whose clock changes does not move it.
  A busy neighbour slows storing and computing by different factors. So rounds
  count in which a short loop of integers before and after was as fast as ever; and
  repetitions in which that loop was within 10 %, the storing one within 6 %, of the
  best of the run. Others are done again while there is time.
- Repetitions of a row in L1 or L2 work on other memory each: which pages it happens
  to get is worth up to 10 % in L2.
- **Sizes** are classes of output: half of L1, half of L2 (of each thread), LLC
  between L2 and L3, DRAM 256 MB. Memory has been written to before, on huge
  pages where the system allows.
- **x ggml**: the speed over `to_float` of a libggml-base on the same bytes.
- **overhead** of a call on 3072 elements: 2 t(1536) / t(3072) - 1.

What limits the kernels: [limits](limits.md). What to expect of CPUs that nobody
measured, and which pipe of which CPU is busy: [estimates](estimates.md).
One row by hand: `build/release/bin/dequant_bench --benchmark_filter=Q4_K/F32/`.
"""


def write_index():
    pages = []
    for page in sorted(DOCS.glob("*.md")):
        if page.name not in ("README.md", "estimates.md", "limits.md"):
            title = page.read_text().splitlines()[0].removeprefix("# ")
            pages.append(f"- [{title}]({page.name})")
    (DOCS / "README.md").write_text(INDEX.format(pages="\n".join(pages)))


# ----------------------------------------------------------------- the goals


def goals(r):
    """Yields (what, value, goal) for every figure that the project aims at."""
    target = r.targets[0]
    wide = target.startswith("AVX3")
    for f in r.blocks:
        grid = f.startswith(("IQ1", "IQ2", "IQ3"))
        l2 = (target, "L2", 1)
        share = (0.45 if wide else 0.30) if grid else (0.75 if wide else 0.55)
        yield f"{f} F32 in L2, of memset", r.get("of_memset", f, "F32", *l2), share
        short = not grid and not f.startswith(("Q6", "Q8"))
        ratio = (1.5 if short else 1.2) if wide else 1.1
        for o in ("F16", "BF16"):
            yield f"{f} {o} in L2, elements/s : F32's", r.get("vs_f32", f, o, *l2), ratio
        times = 2.5 if wide else 1.8
        yield f"{f} F32 in L2, x ggml", r.get("vs_ggml", f, "F32", *l2), times
        for o in OUTPUTS:
            for t in dict.fromkeys((1, r.threads)):
                label = f"{f} {o} in DRAM, {plural(t, 'thread')}"
                at = (f, o, target, "DRAM", t)
                yield f"{label}, of roof", r.get("of_roof", *at), 0.95
                if o == "F16":
                    yield f"{label}, elements/s : F32's", r.get("vs_f32", *at), 1.8
            for s in ("L2", "LLC"):
                value = r.get("vs_1thread", f, o, target, s, r.threads)
                yield f"{f} {o} in {s}, x one thread", value, 0.95 * r.threads
            value = r.get("ns", f, o, target, "block", 1)
            yield f"{f} {o}, 40 ns : one block", value and 40 / value, 1
            value = r.get("overhead", f, o, target, "row3072", 1)
            yield f"{f} {o} row of 3072, 1 - overhead", value and 1 - value, 0.9
    ggml = mean(r.get("vs_ggml", f, "F32", target, "L2", 1) for f in r.blocks)
    yield "geometric mean, x ggml", ggml, 10 if wide else 7


def print_disturbed(r):
    rows = [
        runs[0]["run_name"]
        for key, runs in r.repetitions.items()
        if len(r.quiet(key)) < 3
    ]
    if rows:
        print("^(" + "|".join(map(re.escape, rows[:AGAIN])) + ")$")


def print_goals(r):
    every = [g for g in goals(r) if g[1] is not None]
    missed = [g for g in every if g[1] < g[2]]
    for what, value, goal in missed:
        print(f"  {what}: {value:.2f}, goal {goal:.2f}")
    print(f"dequant: {len(every) - len(missed)} of {len(every)} goals reached")
    slow, fast = memset_range(r)
    if slow < 0.85 * fast:
        print(
            f"dequant: NOT QUIET: memset in L2 ran at {slow:.0f} to {fast:.0f} GB/s. "
            "A busy neighbour slows\n  memset and kernels by different factors, so even "
            "the shares are off. Run it again."
        )


# ---------------------------------------------------------------- comparison


def print_comparison(r):
    rows = []
    ratios = {o: [] for o in OUTPUTS}
    for key, runs in r.repetitions.items():
        values = sorted(run["vs_base"] for run in runs if "vs_base" in run)
        if not values:
            continue
        middle = statistics.median(values)
        ratios[key.output].append(middle)
        # The median of a build against itself is up to 1.5 % off.
        mark = ""
        if abs(middle - 1) > 0.015 and not values[0] <= 1 <= values[-1]:
            mark = "faster" if middle > 1 else "slower"
        label = f"{key.format}/{key.output}/{key.target}/{key.size}/threads:{key.threads}"
        spread = f"{values[0]:.3f} .. {values[-1]:.3f}"
        rows.append([label, f"{middle:.3f}", spread, mark])
    print(table(["row", "B : A", "lowest .. highest", ""], rows))
    for output, values in ratios.items():
        if values:
            print(f"{output}: geometric mean {mean(values):.3f} of {len(values)} rows")


def slug(r):
    words = f"{r.context.get('cpu', 'cpu')} {r.targets[0]}".lower()
    words = re.sub(r"\((r|tm)\)|\b(processor|cpu)\b", " ", words)
    return re.sub(r"[^a-z0-9]+", "-", words).strip("-")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("page", "disturbed", "compare"))
    parser.add_argument("results", nargs="+")
    parser.add_argument("--name")
    parser.add_argument("--revision", default="")
    args = parser.parse_args()
    r = Results(args.results)
    for row, reason in r.failed:
        print(f"{row}: {reason}", file=sys.stderr)
    if not r.targets:
        sys.exit("no row of a format in there")
    if args.what == "compare":
        print_comparison(r)
    elif args.what == "disturbed":
        print_disturbed(r)
    else:
        page = write_page(r, args.name or slug(r), args.revision)
        print_goals(r)
        print(f"dequant: wrote {page}")
    sys.exit(1 if r.failed and args.what != "disturbed" else 0)


if __name__ == "__main__":
    main()
