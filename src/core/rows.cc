// blocks -> values for callers: one call, spread over threads.

#include <omp.h>
#ifndef _WIN32
#include <pthread.h>
#endif

#include <algorithm>
#include <atomic>
#include <system_error>
#include <thread>
#include <vector>

#include "dequant/dequant.h"
#include "src/core/float_env.h"
#include "src/core/registry.h"
#include "src/core/target.h"

namespace dequant {
namespace {

// Below this many output bytes per thread, waking it costs more than it saves.
constexpr int64_t kBytesPerThread = 256 << 10;

// GNU OpenMP hangs in a process that was forked after a parallel region: it
// waits for threads that only the parent has. Such a process gets threads of
// its own for each call.
std::atomic<bool> is_forked = false;
#ifndef _WIN32
[[maybe_unused]] const int fork_handler =
    pthread_atfork(nullptr, nullptr, [] { is_forked = true; });
#endif

// Calls work(part) for parts 0 to n - 1, each on a thread of its own.
template <class Work>
void RunParts(int64_t n, const Work& work) {
  if (is_forked) {
    std::vector<std::jthread> threads;
    int64_t part = 1;
    try {
      for (; part < n; ++part) threads.emplace_back(work, part);
    } catch (const std::system_error&) {
      // Fewer threads do as well.
    }
    for (; part < n; ++part) work(part);
    work(0);
    return;
  }
#pragma omp parallel for schedule(static, 1) num_threads(static_cast <int>(n))
  for (int64_t part = 0; part < n; ++part) work(part);
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
  if (n < 0 || n % type.block_elements != 0) return Status::kPartialBlock;
  if (threads < 0) return Status::kBadThreads;
  if (!ChooseTarget()) return Status::kBadTarget;
  if (n == 0) return Status::kOk;
  if (src == nullptr || dst == nullptr) return Status::kNullPointer;

  const RunFn run = format->kernel(out);
  const auto* from = static_cast<const uint8_t*>(src);
  auto* to = static_cast<uint8_t*>(dst);
  const int64_t blocks = n / type.block_elements;
  const int64_t block_out =
      type.block_elements * static_cast<int64_t>(SizeOf(out));

  const int64_t most = threads > 0 ? threads : omp_get_max_threads();
  const int64_t parts = std::clamp<int64_t>(
      n / (kBytesPerThread / static_cast<int64_t>(SizeOf(out))), 1,
      std::min(most, blocks));
  if (parts == 1) {
    const DefaultFloatEnv env;
    run(from, static_cast<size_t>(blocks), to);
    return Status::kOk;
  }
  RunParts(parts, [=](int64_t part) {
    const DefaultFloatEnv env;
    const int64_t each = blocks / parts, extra = blocks % parts;
    const int64_t begin = part * each + std::min(part, extra);
    const int64_t count = each + (part < extra);
    run(from + begin * type.block_bytes, static_cast<size_t>(count),
        to + begin * block_out);
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
