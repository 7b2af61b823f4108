// blocks -> values for callers: one call, spread over threads.
#if defined(_OPENMP) && !defined(_WIN32)
#include <pthread.h>
#endif

#include <algorithm>
#include <atomic>
#include <system_error>

#include "dequant/dequant.h"
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
void RunCopied(RunFn run, const uint8_t* from, size_t bytes, int64_t blocks,
               uint8_t* to, size_t out) {
  alignas(64) uint8_t buffer[kStreamBuffer];
  const auto most = static_cast<int64_t>(kStreamBuffer / out);
  while (blocks > 0) {
    const auto n = static_cast<size_t>(std::min(blocks, most));
    run(from, n, buffer);
    PrefetchAhead(from, n * bytes);
    StreamCopy(to, buffer, n * out);
    from += n * bytes;
    to += n * out;
    blocks -= static_cast<int64_t>(n);
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

}  // namespace

Status Dequantize(int32_t src_type, const void* src, DType out, void* dst,
                  int64_t n, int threads) {
  const Format* format = FindFormat(src_type);
  if (format == nullptr) {
    return FindType(src_type) ? Status::kNotConvertible : Status::kUnknownType;
  }
  if (out != DType::kF32 && out != DType::kF16 && out != DType::kBF16) {
    return Status::kBadOutput;
  }
  const TypeInfo& type = format->type;
  const int64_t blocks = n / type.block_elements;
  if (n < 0 || blocks * type.block_elements != n) return Status::kPartialBlock;
  if (threads < 0) return Status::kBadThreads;
  if (!ChooseTarget()) return Status::kBadTarget;
  if (n == 0) return Status::kOk;
  if (src == nullptr || dst == nullptr) return Status::kNullPointer;

  const auto* from = static_cast<const uint8_t*>(src);
  auto* to = static_cast<uint8_t*>(dst);
  const auto block_out = static_cast<size_t>(type.block_elements) * SizeOf(out);
  const auto block_bytes = static_cast<size_t>(type.block_bytes);
  const bool copied = src_type == static_cast<int32_t>(out);
  const bool large = kHasStream && !copied &&
                     static_cast<size_t>(n) >= kStreamBytes / SizeOf(out);
  const auto run_blocks = [=](int64_t begin, int64_t count) {
    const DefaultFloatEnv env;
    const uint8_t* const f = from + static_cast<size_t>(begin) * block_bytes;
    uint8_t* const t = to + static_cast<size_t>(begin) * block_out;
    const bool aligned = reinterpret_cast<uintptr_t>(t) % 64 == 0;
    const RunFn run = format->kernel(out, large && aligned);
    if (large && !aligned && CopyPays(out)) {
      RunCopied(run, f, block_bytes, count, t, block_out);
    } else {
      run(f, static_cast<size_t>(count), t);
    }
    if (large) StreamFence();
  };

  int64_t parts = 1;
  if (n >= 2 * ElementsPerThread(out)) {
    const int64_t most = threads > 0 ? threads : MaxThreads();
    parts = std::min({n / ElementsPerThread(out), most, blocks});
  }
  if (parts == 1) {
    run_blocks(0, blocks);
    return Status::kOk;
  }
  RunParts(parts, [=](int64_t part) {
    const int64_t each = blocks / parts, extra = blocks % parts;
    run_blocks(part * each + std::min(part, extra), each + (part < extra));
  });
  return Status::kOk;
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
    case Status::kBadTarget: {
      static thread_local std::string text;
      ChooseTarget(&text);
      return text.empty() ? "target not available" : text.c_str();
    }
  }
  return "unknown error";
}

}  // namespace dequant
