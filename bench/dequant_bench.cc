// Every format x output x target x size x threads, from the registry:
//
//   Q4_K/F32/AVX2/L2/threads:1
//
// Sizes are classes of output bytes: half of the L1 or L2 cache of each thread,
// LLC (well outside L2, well inside L3) and DRAM (256 MB); `block` is a call on
// one block and `row3072` one on 3072 elements. Counters:
//
//   elements/s, bytes/s   of output
//   ns                    of one call, for `block` and `row3072`
//   of_memset, of_store, of_stream
//                         speed over that of a loop that only stores the same
//                         bytes on as many threads
//   of_roof               the lowest of these: the share of what is possible
//   vs_ggml               speed over ggml's to_float on the same bytes
//   (--ggml);
//                         not for DRAM
//   vs_f32                elements/s over those of F32 output
//   vs_1thread            speed over one thread's
//   overhead              of a call on 3072 elements: 2 t(1536) / t(3072) - 1
//   vs_base               speed over another build's (--dequant_base)
//   core                  integer operations a second between the turns: fewer
//                         if others use this core
//
// All that is compared takes turns within the row, see contest.h. Repetitions
// of a row work on other memory each: which physical pages it gets is worth up
// to 10 % in L2. Rows of the roofs (memset/L2/threads:1) and of ggml
// (Q4_K/F32/ggml/L2/threads:1) give their own speeds.

#include <benchmark/benchmark.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "bench/blocks.h"
#include "bench/contest.h"
#include "bench/machine.h"
#include "bench/peers.h"
#include "bench/roof.h"
#include "dequant/dequant.h"
#include "src/core/registry.h"

namespace dequant::bench {
namespace {

constexpr DType kOutputs[] = {DType::kF32, DType::kF16, DType::kBF16};
constexpr size_t kDramBytes = 256 << 20;
constexpr int64_t kRow = 3072;
// GGUF aligns data to 32 bytes, not to a page as the output here.
constexpr size_t kSourceOffset = 1056;

enum class Size { kBlock, kRow, kL1, kL2, kLlc, kDram };
constexpr Size kSizes[] = {Size::kBlock, Size::kRow, Size::kL1,
                           Size::kL2,    Size::kLlc, Size::kDram};
constexpr std::string_view Name(Size s) {
  constexpr std::string_view kNames[] = {"block", "row3072", "L1",
                                         "L2",    "LLC",     "DRAM"};
  return kNames[static_cast<int>(s)];
}

struct Options {
  std::string ggml, build, base;
  std::vector<std::string> sizes, threads, targets;
};

// Blocks, which stay while the format does, and output.
struct Place {
  Arena source, output;
  const Format* filled = nullptr;
  size_t filled_blocks = 0;
  int generation = 0;
};

// What all rows use.
struct Bench {
  Build build;
  std::optional<Build> base;
  std::optional<Ggml> ggml;
  Place places[5];
};
Bench* g_bench = nullptr;

struct Row {
  const Format* format;  // nullptr: the row of a roof
  DType out;
  std::string target;  // or "ggml", or the roof's name
  Size size;
  int threads;

  std::string name() const {
    std::string s;
    if (format != nullptr) {
      s = std::string(format->type.name) + "/" +
          std::string(dequant::Name(out)) + "/";
    }
    return s + target + "/" + std::string(Name(size)) +
           "/threads:" + std::to_string(threads);
  }
};

// Bytes of output of a size class; 0 if this machine or that number of threads
// has none such.
size_t OutputBytes(Size size, int threads) {
  const Caches& caches = CachesOfThisMachine();
  const auto n = static_cast<size_t>(threads);
  switch (size) {
    case Size::kBlock:
    case Size::kRow:
      return 0;
    case Size::kL1:  // on one thread whatever the call asks for
      return threads == 1 ? caches.l1 / 2 : 0;
    case Size::kL2:
      return caches.l2 / 2 * n;
    case Size::kLlc: {
      const size_t sharers = static_cast<size_t>(caches.l3_sharers);
      const size_t low = 2 * caches.l2 * n;
      const size_t high = caches.l3 * ((n + sharers - 1) / sharers) / 2;
      if (low >= high) return 0;
      const double middle =
          std::sqrt(static_cast<double>(low) * static_cast<double>(high));
      return static_cast<size_t>(middle) / 65536 * 65536;
    }
    case Size::kDram:
      return kDramBytes;
  }
  return 0;
}

// Whole blocks of that size class: as many as give its bytes of output, fewer
// where input and output together would not fit into the cache.
int64_t Elements(const TypeInfo& type, DType out, Size size, int threads) {
  if (size == Size::kBlock) return type.block_elements;
  if (size == Size::kRow) return kRow;
  const auto bytes = static_cast<double>(OutputBytes(size, threads));
  double n = bytes / static_cast<double>(SizeOf(out));
  if (size == Size::kL1 || size == Size::kL2) {
    n = std::min(
        n, 1.65 * bytes /
               (static_cast<double>(SizeOf(out)) + type.bits_per_weight() / 8));
  }
  return std::max<int64_t>(1, static_cast<int64_t>(n) / type.block_elements) *
         type.block_elements;
}

const uint8_t* Source(Place& place, const Format& format, int64_t n) {
  const auto blocks = static_cast<size_t>(n / format.type.block_elements);
  const size_t bytes = blocks * static_cast<size_t>(format.type.block_bytes);
  Arena& arena = place.source;
  uint8_t* to = arena.Get(bytes + kSourceOffset) + kSourceOffset;
  if (place.filled != &format || place.filled_blocks < blocks ||
      place.generation != arena.generation()) {
    FillBlocks(format, blocks, to);
    place.filled = &format;
    place.filled_blocks = blocks;
    place.generation = arena.generation();
  }
  return to;
}

Contest::Run Dequantizer(const Build& build, const TypeInfo& type,
                         const uint8_t* src, DType out, uint8_t* dst, int64_t n,
                         int threads) {
  return [=, id = type.id, run = build.run](size_t calls) {
    for (size_t i = 0; i < calls; ++i) {
      run(id, src, static_cast<int32_t>(out), dst, n, threads);
      benchmark::ClobberMemory();
    }
  };
}

Contest::Run GgmlDequantizer(ToFloatFn to_float, const TypeInfo& type,
                             const uint8_t* src, uint8_t* dst, int64_t n,
                             int threads) {
  const int64_t blocks = n / type.block_elements;
  const int64_t parts = std::min<int64_t>(threads, blocks);
  return [=, &type](size_t calls) {
    for (size_t i = 0; i < calls; ++i) {
      if (parts == 1) {
        to_float(src, reinterpret_cast<float*>(dst), n);
      } else {
#pragma omp parallel for schedule(static, 1) \
    num_threads(static_cast <int>(parts))
        for (int64_t part = 0; part < parts; ++part) {
          const int64_t begin = blocks * part / parts;
          const int64_t end = blocks * (part + 1) / parts;
          to_float(src + begin * type.block_bytes,
                   reinterpret_cast<float*>(dst) + begin * type.block_elements,
                   (end - begin) * type.block_elements);
        }
      }
      benchmark::ClobberMemory();
    }
  };
}

Contest::Run Filler(Roof roof, uint8_t* to, size_t bytes, int threads) {
  return [=, fill = Pick(roof)](size_t calls) {
    for (size_t i = 0; i < calls; ++i) {
      Fill(fill, to, bytes, threads);
      benchmark::ClobberMemory();
    }
  };
}

// Whether two ways to F32 give the same bits on the first elements.
bool SameBits(const Contest::Run& a, const Contest::Run& b, int64_t n,
              const uint8_t* dst) {
  const size_t bytes = static_cast<size_t>(std::min<int64_t>(n, 65536)) * 4;
  a(1);
  const std::vector<uint8_t> values(dst, dst + bytes);
  b(1);
  return std::memcmp(values.data(), dst, bytes) == 0;
}

// What runs in a row. On failure nullptr, and why.
std::unique_ptr<Contest> MakeContest(const Row& row, Place& place,
                                     std::string* error) {
  const int threads = row.threads;
  if (row.format == nullptr) {
    const size_t bytes = OutputBytes(row.size, threads);
    uint8_t* to = place.output.Get(bytes);
    const auto roof = std::ranges::find(
        kRoofs, row.target, [](Roof r) { return std::string(Name(r)); });
    return std::make_unique<Contest>(Filler(*roof, to, bytes, threads));
  }

  const Build& build = g_bench->build;
  const TypeInfo& type = row.format->type;
  const DType out = row.out;
  const int64_t n = Elements(type, out, row.size, threads);
  const size_t bytes = static_cast<size_t>(n) * SizeOf(out);
  const uint8_t* src = Source(place, *row.format, n);
  uint8_t* dst = place.output.Get(bytes);
  const auto dequantizer = [&](DType to, int64_t count, int use_threads) {
    return Dequantizer(build, type, src, to, dst, count, use_threads);
  };
  const auto share = [&](int64_t count) {
    return static_cast<double>(count) / static_cast<double>(n);
  };

  const ToFloatFn to_float =
      g_bench->ggml && out == DType::kF32 ? g_bench->ggml->Find(type) : nullptr;
  Contest::Run ggml;
  if (to_float != nullptr) {
    ggml = GgmlDequantizer(to_float, type, src, dst, n, threads);
  }
  const bool is_ggml = row.target == "ggml";
  if (!is_ggml) SetTarget(row.target);
  const Contest::Run own = dequantizer(out, n, threads);
  // ggml can take a second for DRAM: there it runs in its own row only.
  const bool with_ggml = ggml && row.size != Size::kDram;
  if (with_ggml && !SameBits(own, ggml, n, dst)) {
    *error = "ggml gives other bits";
    return nullptr;
  }

  auto contest = std::make_unique<Contest>(is_ggml ? ggml : own);
  for (Roof roof : kRoofs) {
    // Streaming stores empty the cache that the others run in.
    if (row.size == Size::kBlock) break;
    if (roof == Roof::kStream && row.size < Size::kLlc) continue;
    contest->Add("of_" + std::string(Name(roof)),
                 Filler(roof, dst, bytes, threads), 1);
  }
  if (is_ggml) return contest;
  if (with_ggml) contest->Add("vs_ggml", ggml, 1);
  if (g_bench->base) {
    contest->Add("vs_base",
                 Dequantizer(*g_bench->base, type, src, out, dst, n, threads),
                 1);
  }
  if (out != DType::kF32) {
    const int64_t count = Elements(type, DType::kF32, row.size, threads);
    contest->Add("vs_f32", dequantizer(DType::kF32, count, threads),
                 share(count));
  }
  if (threads > 1) {
    const int64_t count =
        row.size == Size::kL2 ? Elements(type, out, row.size, 1) : n;
    contest->Add("vs_1thread", dequantizer(out, count, 1), share(count));
  }
  if (row.size == Size::kRow) {
    contest->Add("overhead", dequantizer(out, n / 2, 1), share(n / 2));
  }
  return contest;
}

void RunRow(benchmark::State& state, const Row& row) {
  // Kept over the repetitions of a row that has but one place: beyond L2 it
  // does not matter, and would take much memory.
  static const Row* current = nullptr;
  static std::unique_ptr<Contest> contest;
  static size_t next_place = 0;
  const bool moves = row.size <= Size::kL2, again = current == &row;
  if (!again || moves) {
    std::string error;
    const size_t at = moves ? next_place++ % std::size(g_bench->places) : 0;
    auto made = MakeContest(row, g_bench->places[at], &error);
    if (made == nullptr) {
      current = nullptr;
      state.SkipWithError(error.c_str());
      return;
    }
    if (again) made->TakeTurnsOf(*contest);
    contest = std::move(made);
    current = &row;
  }
  contest->Reset();
  contest->WarmUp();
  while (state.KeepRunningBatch(
      static_cast<benchmark::IterationCount>(contest->calls()))) {
    contest->Subject();
    state.PauseTiming();
    contest->Others();
    state.ResumeTiming();
  }

  const double seconds = contest->Seconds();
  size_t bytes = OutputBytes(row.size, row.threads);
  if (row.format != nullptr) {
    const int64_t n =
        Elements(row.format->type, row.out, row.size, row.threads);
    bytes = static_cast<size_t>(n) * SizeOf(row.out);
    state.counters["elements/s"] = static_cast<double>(n) / seconds;
    if (row.size == Size::kBlock || row.size == Size::kRow) {
      state.counters["ns"] = seconds * 1e9;
    }
  }
  state.counters["bytes/s"] = static_cast<double>(bytes) / seconds;
  double of_roof = 0;
  for (const auto& [name, ratio] : contest->Scores()) {
    state.counters[name] = name == "overhead" ? ratio - 1 : ratio;
    if (name.starts_with("of_") && (of_roof == 0 || ratio < of_roof)) {
      of_roof = ratio;
    }
  }
  if (of_roof != 0) state.counters["of_roof"] = of_roof;
  state.counters["core"] = contest->CoreSpeed();
}

std::vector<Row> AllRows(const Options& options) {
  const auto wanted = [](const std::vector<std::string>& list,
                         std::string_view name) {
    return list.empty() || std::ranges::find(list, name) != list.end();
  };
  std::vector<int> threads;
  for (const std::string& t : options.threads) threads.push_back(std::stoi(t));
  if (threads.empty()) {
    threads = {1};
    if (omp_get_max_threads() > 1) threads.push_back(omp_get_max_threads());
  }
  std::vector<std::string> targets = Targets();
  // Which target another build takes is up to DEQUANT_TARGET.
  if (!options.build.empty() || g_bench->base) {
    targets = {g_bench->build.target()};
  }

  std::vector<Row> rows;
  const auto add_sizes = [&](const Format* format, DType out,
                             const std::string& target) {
    if (target != "ggml" && format != nullptr &&
        !wanted(options.targets, target)) {
      return;
    }
    for (Size size : kSizes) {
      if (!wanted(options.sizes, Name(size))) continue;
      for (int t : threads) {
        const bool single = size == Size::kBlock || size == Size::kRow;
        if (single ? t != 1 || format == nullptr : OutputBytes(size, t) == 0) {
          continue;
        }
        rows.push_back({format, out, target, size, t});
      }
    }
  };
  for (Roof roof : kRoofs) {
    add_sizes(nullptr, DType::kF32, std::string(Name(roof)));
  }
  for (const Format* format : Formats()) {
    if (!g_bench->build.Has(format->type) ||
        (g_bench->base && !g_bench->base->Has(format->type))) {
      continue;
    }
    for (DType out : kOutputs) {
      for (const std::string& target : targets) {
        add_sizes(format, out, target);
      }
      if (out == DType::kF32 && g_bench->ggml &&
          g_bench->ggml->Find(format->type) != nullptr) {
        add_sizes(format, out, "ggml");
      }
    }
  }
  return rows;
}

std::vector<std::string> Split(std::string_view text) {
  std::vector<std::string> parts;
  while (!text.empty()) {
    const size_t comma = std::min(text.find(','), text.size());
    if (comma > 0) parts.emplace_back(text.substr(0, comma));
    text.remove_prefix(std::min(comma + 1, text.size()));
  }
  return parts;
}

constexpr char kHelp[] =
    "dequant_bench [--ggml=LIBGGML_BASE] also times its to_float, same bytes\n"
    "          [--dequant_sizes=block,row3072,L1,L2,LLC,DRAM]\n"
    "          [--dequant_threads=1,2]\n"
    "          [--dequant_targets=AVX2,SSE4]\n"
    "          [--dequant_build=LIBDEQUANT] times that build, not this one\n"
    "          [--dequant_base=LIBDEQUANT]  and compares it with that one\n"
    "and the options of Google Benchmark:\n\n";

// Takes our own options out of the arguments.
Options ParseOptions(int* argc, char** argv) {
  Options options;
  std::vector<char*> rest;
  for (int i = 0; i < *argc; ++i) {
    const std::string_view arg = argv[i];
    const auto is = [&](std::string_view name, auto set) {
      if (!arg.starts_with(name)) return false;
      if (arg.size() > name.size() && arg[name.size()] == '=') {
        set(arg.substr(name.size() + 1));
      } else if (arg.size() == name.size() && i + 1 < *argc) {
        set(std::string_view(argv[++i]));
      } else {
        return false;
      }
      return true;
    };
    const auto text = [](std::string& to) {
      return [&to](std::string_view value) { to = value; };
    };
    const auto list = [](std::vector<std::string>& to) {
      return [&to](std::string_view value) { to = Split(value); };
    };
    if (is("--ggml", text(options.ggml)) ||
        is("--dequant_build", text(options.build)) ||
        is("--dequant_base", text(options.base)) ||
        is("--dequant_sizes", list(options.sizes)) ||
        is("--dequant_threads", list(options.threads)) ||
        is("--dequant_targets", list(options.targets))) {
      continue;
    }
    if (arg == "--help") std::fputs(kHelp, stdout);
    rest.push_back(argv[i]);
  }
  std::ranges::copy(rest, argv);
  *argc = static_cast<int>(rest.size());
  return options;
}

void AddContext() {
  const Caches& c = CachesOfThisMachine();
  const auto kib = [](size_t n) { return std::to_string(n >> 10) + " KiB"; };
  std::string targets, sizes;
  for (const std::string& t : Targets()) targets += " " + t;
  for (Size s : {Size::kL1, Size::kL2, Size::kLlc, Size::kDram}) {
    sizes += " " + std::string(Name(s)) + " " + kib(OutputBytes(s, 1)) + ";";
  }
  benchmark::AddCustomContext("cpu", CpuName());
  benchmark::AddCustomContext(
      "data_caches",
      "L1 " + kib(c.l1) + ", L2 " + kib(c.l2) + ", L3 " + kib(c.l3));
  benchmark::AddCustomContext("compiler", CompilerName());
  benchmark::AddCustomContext("targets", targets);
  benchmark::AddCustomContext("output_of_one_thread", sizes);
  if (g_bench->ggml) {
    benchmark::AddCustomContext("ggml", g_bench->ggml->version());
  }
}

int Main(int argc, char** argv) {
  // Enough for medians; an option given later overrules it.
  std::string min_time = "--benchmark_min_time=0.005";
  std::vector<char*> args(argv, argv + argc);
  args.insert(args.begin() + 1, min_time.data());
  args.push_back(nullptr);
  argc = static_cast<int>(args.size()) - 1;

  const Options options = ParseOptions(&argc, args.data());
  Bench bench;
  g_bench = &bench;
  for (Roof roof : kRoofs) Pick(roof);
  bench.build = options.build.empty() ? OwnBuild() : LoadBuild(options.build);
  if (!options.base.empty()) bench.base = LoadBuild(options.base);
  if (!options.ggml.empty()) bench.ggml.emplace(options.ggml);

  benchmark::Initialize(&argc, args.data());
  if (benchmark::ReportUnrecognizedArguments(argc, args.data())) return 2;
  AddContext();
  const std::vector<Row> rows = AllRows(options);
  for (const Row& row : rows) {
    benchmark::RegisterBenchmark(
        row.name().c_str(),
        [&row](benchmark::State& state) { RunRow(state, row); });
  }
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}

}  // namespace
}  // namespace dequant::bench

int main(int argc, char** argv) { return dequant::bench::Main(argc, argv); }
