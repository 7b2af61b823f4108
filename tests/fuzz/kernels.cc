// Arbitrary bytes through every format x output x target against the reference.
// The first bytes choose format and output, the rest are blocks; a crash is a
// bit that differs, or a read or write outside.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "dequant/dequant.h"
#include "src/core/block_gen.h"
#include "src/core/registry.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using dequant::DType;
  constexpr DType kOutputs[] = {DType::kF32, DType::kF16, DType::kBF16};
  constexpr size_t kMaxBlocks = 3;
  static const std::vector<std::string> targets = dequant::Targets();

  if (size < 2) return 0;
  const auto formats = dequant::Formats();
  const dequant::Format& format = *formats[data[0] % formats.size()];
  const DType out = kOutputs[data[1] % std::size(kOutputs)];
  const auto block = static_cast<size_t>(format.type.block_bytes);
  const size_t blocks = std::min((size - 2) / block, kMaxBlocks);
  // A buffer of exactly that size: the sanitizer sees the first byte behind it.
  const std::vector<uint8_t> src(data + 2, data + 2 + blocks * block);
  const auto want = dequant::Expected(format, out, src);
  const auto n = static_cast<int64_t>(blocks) * format.type.block_elements;
  for (const std::string& target : targets) {
    std::vector<uint8_t> got(want.size());
    if (!dequant::SetTarget(target) ||
        dequant::Dequantize(format.type.id, src.data(), out, got.data(), n,
                            1) != dequant::Status::kOk ||
        got != want) {
      std::fprintf(stderr, "%s to %s differs on %s\n", format.type.name.data(),
                   dequant::Name(out).data(), target.c_str());
      std::abort();
    }
  }
  return 0;
}
