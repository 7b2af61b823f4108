// Tests over every format x output x target of this machine.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <tuple>

#include "dequant/dequant.h"
#include "src/core/registry.h"
#include "src/core/stream_copy.h"
#include "src/core/target.h"

namespace dequant {

using KernelParam = std::tuple<const Format*, DType, std::string>;

class KernelTest : public testing::TestWithParam<KernelParam> {
 protected:
  void SetUp() override {
    ASSERT_TRUE(SetTarget(target()));
    ASSERT_EQ(Target(), target()) << "another target would be tested";
  }

  const Format& format() const { return *std::get<0>(GetParam()); }
  DType out() const { return std::get<1>(GetParam()); }
  const std::string& target() const { return std::get<2>(GetParam()); }
  size_t block_bytes() const {
    return static_cast<size_t>(format().type.block_bytes);
  }
  size_t block_elements() const {
    return static_cast<size_t>(format().type.block_elements);
  }
  /// Bytes that one block becomes.
  size_t block_out() const { return block_elements() * SizeOf(out()); }

  Status Call(const uint8_t* src, uint8_t* dst, size_t blocks,
              int threads = 1) const {
    return Dequantize(format().type.id, src, out(), dst,
                      static_cast<int64_t>(blocks * block_elements()), threads);
  }
  /// What a call does with an output that no cache holds. `dst` is aligned to
  /// 64 bytes.
  void Stream(const uint8_t* src, uint8_t* dst, size_t blocks) const {
    format().kernel(out(), true, TargetIndex())(src, blocks, dst);
    StreamFence();
  }

 private:
  ScopedTarget restore_;
};

inline auto AllKernels() {
  return testing::Combine(
      testing::ValuesIn(Formats().begin(), Formats().end()),
      testing::Values(DType::kF32, DType::kF16, DType::kBF16),
      testing::ValuesIn(Targets()));
}
inline std::string KernelName(const testing::TestParamInfo<KernelParam>& info) {
  const auto& [format, out, target] = info.param;
  return std::string(format->type.name) + "_to_" + std::string(Name(out)) +
         "_" + target;
}

}  // namespace dequant
