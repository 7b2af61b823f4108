// blocks -> values for callers: one call, spread over threads.
#if defined(_OPENMP) && !defined(_WIN32)
#include <pthread.h>
#endif

#include <algorithm>
#include <atomic>
#include <span>
#include <system_error>

#include "dequant/dequant.h"
#include "hwy/base.h"
#include "src/core/float_env.h"
#include "src/core/registry.h"
#include "src/core/stream_copy.h"
#include "src/core/target.h"
#include "src/core/threads.h"

namespace dequant {
namespace {

// Below 256 KiB of output per thread, waking it costs more than it saves.
constexpr int64_t ElementsPerThread(DType out) {
  return out == DType::kF32 ? 64 << 10 : 128 << 10;
}

// An output this large does not stay in a cache, so that reading its lines
// before they are written, as plain stores do, is for nothing. Kernels that
// stream write past the caches.
constexpr size_t kStreamBytes = 64 << 20;

// If the output is not aligned, values are copied there from L1: so many at a
// time that the next blocks are computed while these are on their way, and
// enough for a few super-blocks.
constexpr size_t kStreamBuffer = 3 << 10;

// With 16 bits, there is more work for a line than that saves, without AVX-512.
bool CopyPays(DType out) {
  return out == DType::kF32 || std::string(Target()).starts_with("AVX3");
}

// Kernel `run` on blocks that are `bytes` long and give `out` bytes each.
void RunCopied(RunFn run, const uint8_t* from, size_t bytes, size_t blocks,
               uint8_t* to, size_t out) {
  alignas(64) uint8_t buffer[kStreamBuffer];
  while (blocks > 0) {
    const size_t n = std::min(blocks, kStreamBuffer / out);
    run(from, n, buffer);
    PrefetchAhead(from, n * bytes);
    StreamCopy(to, buffer, n * out);
    from += n * bytes;
    to += n * out;
    blocks -= n;
  }
}

#ifdef _OPENMP
// GNU OpenMP hangs in a process that was forked after a parallel region: it
// waits for threads that only the parent has. Such a process gets threads of
// its own for each call.
std::atomic<bool> is_forked = false;
#ifndef _WIN32
[[maybe_unused]] const int fork_handler =
    pthread_atfork(nullptr, nullptr, [] { is_forked = true; });
#endif
#endif

// Calls work(part) for parts 0 to n - 1, each on a thread of its own.
template <class Work>
void RunParts(int64_t n, const Work& work) {
#ifdef _OPENMP
  if (!is_forked) {
#pragma omp parallel for schedule(static, 1) num_threads(static_cast <int>(n))
    for (int64_t part = 0; part < n; ++part) work(part);
    return;
  }
#endif
  Threads threads;
  int64_t part = 1;
  try {
    for (; part < n; ++part) threads.Start(work, part);
  } catch (const std::system_error&) {
    // Fewer threads do as well.
  }
  for (; part < n; ++part) work(part);
  work(0);
}

// What is large enough for two threads, and maybe for no cache.
HWY_NOINLINE Status RunLarge(const Format& format, const uint8_t* from,
                             DType out, uint8_t* to, int64_t blocks,
                             int threads) {
  const TypeInfo& type = format.type;
  const int64_t n = blocks * type.block_elements;
  const auto block_out = static_cast<size_t>(type.block_elements) * SizeOf(out);
  const auto block_bytes = static_cast<size_t>(type.block_bytes);
  const bool copied = type.id == static_cast<int32_t>(out);
  const bool stream = kHasStream && !copied &&
                      static_cast<size_t>(n) >= kStreamBytes / SizeOf(out);
  const size_t target = TargetIndex();
  const int64_t most = threads > 0 ? threads : MaxThreads();
  const int64_t parts = std::min({n / ElementsPerThread(out), most, blocks});
  const auto run_part = [=](int64_t part) {
    const int64_t each = blocks / parts, extra = blocks % parts;
    const auto begin = static_cast<size_t>(part * each + std::min(part, extra));
    const auto count = static_cast<size_t>(each + (part < extra));
    const DefaultFloatEnv env;
    const uint8_t* const f = from + begin * block_bytes;
    uint8_t* const t = to + begin * block_out;
    const bool aligned = reinterpret_cast<uintptr_t>(t) % 64 == 0;
    const RunFn run = format.kernel(out, stream && aligned, target);
    if (stream && !aligned && CopyPays(out)) {
      RunCopied(run, f, block_bytes, count, t, block_out);
    } else {
      run(f, count, t);
    }
    if (stream) StreamFence();
  };
  if (parts == 1) {
    run_part(0);
  } else {
    RunParts(parts, run_part);
  }
  return Status::kOk;
}

// Blocks on this thread, if its float environment is not the default.
HWY_NOINLINE Status RunInDefault(RunFn run, const uint8_t* from, size_t blocks,
                                 uint8_t* to) {
  const DefaultFloatEnv env;
  run(from, blocks, to);
  return Status::kOk;
}

// (A call on a row or a block needs no register to survive a call then, and
// saves none: up to 2 ns. So what is unusual has functions of its own.)
HWY_INLINE Status RunFormat(const Format& format, const void* src, DType out,
                            void* dst, int64_t n, int threads) {
  if (out != DType::kF32 && out != DType::kF16 && out != DType::kBF16) {
    return Status::kBadOutput;
  }
  const TypeInfo& type = format.type;
  const int64_t blocks = n / type.block_elements;
  if (n < 0 || blocks * type.block_elements != n) return Status::kPartialBlock;
  if (threads < 0) return Status::kBadThreads;
  if (n == 0) return Status::kOk;
  if (src == nullptr || dst == nullptr) return Status::kNullPointer;

  const auto* from = static_cast<const uint8_t*>(src);
  auto* to = static_cast<uint8_t*>(dst);
  if (n >= 2 * ElementsPerThread(out)) {
    return RunLarge(format, from, out, to, blocks, threads);
  }
  const RunFn run = format.kernel(out, false, TargetIndex());
  const auto count = static_cast<size_t>(blocks);
  if (!DefaultFloatEnv::IsSet()) return RunInDefault(run, from, count, to);
  run(from, count, to);
  return Status::kOk;
}

// The first call, which chooses the target, and one with an unknown type.
HWY_NOINLINE Status RunFirst(int32_t src_type, const void* src, DType out,
                             void* dst, int64_t n, int threads) {
  const Format* format = FindFormat(src_type);
  if (format == nullptr) {
    return FindType(src_type) ? Status::kNotConvertible : Status::kUnknownType;
  }
  if (!ChooseTarget()) return Status::kBadTarget;
  return RunFormat(*format, src, out, dst, n, threads);
}

// Made when the library is loaded; until then each call is a first one.
const std::span<const Format* const> formats_by_id = FormatsById();

}  // namespace

Status Dequantize(int32_t src_type, const void* src, DType out, void* dst,
                  int64_t n, int threads) {
  const Format* format = FindFormat(formats_by_id, src_type);
  if (format == nullptr || !IsTargetChosen()) {
    return RunFirst(src_type, src, out, dst, n, threads);
  }
  return RunFormat(*format, src, out, dst, n, threads);
}

const char* ErrorString(Status s) {
  switch (s) {
    case Status::kOk:
      return "success";
    case Status::kUnknownType:
      return "unknown source type";
    case Status::kNotConvertible:
      return "source type is not converted, only copied (F64 or an integer)";
    case Status::kBadOutput:
      return "output type is not F32 (0), F16 (1) or BF16 (30)";
    case Status::kPartialBlock:
      return "element count is negative or not a multiple of the block";
    case Status::kNullPointer:
      return "null pointer";
    case Status::kBadThreads:
      return "negative thread count";
    case Status::kBadTarget:
      return ChooseTarget() ? "target not available" : TargetError();
  }
  return "unknown error";
}

}  // namespace dequant
