// Runs every kernel once on 8192 elements; callgrind counts.
// scripts/check_instructions starts it and reads what callgrind dumps.

#include <valgrind/callgrind.h>

#include <cstdio>
#include <string>
#include <vector>

#include "bench/blocks.h"
#include "bench/machine.h"
#include "dequant/dequant.h"
#include "src/core/registry.h"

int main() {
  using namespace dequant;
  constexpr int64_t kElements = 8192;
  if (RUNNING_ON_VALGRIND == 0) {
    std::fputs("count_instructions: needs valgrind --tool=callgrind\n", stderr);
    return 2;
  }
  std::vector<uint8_t> dst(kElements * sizeof(float));
  for (const Format* format : Formats()) {
    const TypeInfo& type = format->type;
    const int64_t blocks = kElements / type.block_elements;
    std::vector<uint8_t> src(static_cast<size_t>(blocks * type.block_bytes));
    bench::FillBlocks(*format, static_cast<size_t>(blocks), src.data());
    for (DType out : {DType::kF32, DType::kF16, DType::kBF16}) {
      const std::string label =
          std::string(type.name) + "/" + std::string(Name(out));
      CALLGRIND_ZERO_STATS;
      const Status status =
          Dequantize(type.id, src.data(), out, dst.data(), kElements, 1);
      CALLGRIND_DUMP_STATS_AT(label.c_str());
      if (status != Status::kOk) {
        std::fprintf(stderr, "count_instructions: %s\n", ErrorString(status));
        return 1;
      }
    }
  }
  std::printf("%s\n%s\n%lld\n", Target(), bench::CompilerName().c_str(),
              static_cast<long long>(kElements));
  return 0;
}
