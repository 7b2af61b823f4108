// Every kernel against the scalar reference, on bits and on guard pages.
#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <optional>
#include <string_view>
#include <vector>

#include "kernels/scalar.h"
#include "src/core/block_gen.h"
#include "tests/support/float_env.h"
#include "tests/support/guarded_buffer.h"
#include "tests/support/kernel_param.h"

namespace dequant {
namespace {

constexpr size_t kMaxBlocks = 257;

// The first byte that differs, for a message; -1 if none does.
int64_t FirstDifference(std::span<const uint8_t> a,
                        std::span<const uint8_t> b) {
  if (a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size()) == 0) {
    return -1;
  }
  const auto at = std::ranges::mismatch(a, b).in1;
  return at == a.end() ? -1 : at - a.begin();
}

INSTANTIATE_TEST_SUITE_P(All, KernelTest, AllKernels(), KernelName);

TEST_P(KernelTest, EqualsTheReference) {
  for (Pattern pattern : kPatterns) {
    for (size_t blocks : {1, 2, 3, 7, 31, 300}) {
      const auto src = MakeBlocks(format(), pattern, blocks, blocks);
      const auto want = Expected(format(), out(), src);
      std::vector<uint8_t> got(want.size(), 0xAA);
      ASSERT_EQ(Call(src.data(), got.data(), blocks), Status::kOk);
      ASSERT_EQ(FirstDifference(want, got), -1)
          << Name(pattern) << ", " << blocks << " blocks";
    }
  }
}

TEST_P(KernelTest, StreamsTheSameBytes) {
  for (Pattern pattern : kPatterns) {
    for (size_t blocks : {1, 2, 3, 7, 31, 300}) {
      const auto src = MakeBlocks(format(), pattern, blocks, blocks);
      const auto want = Expected(format(), out(), src);
      GuardedBuffer buffer(want.size());
      const std::span<uint8_t> got = buffer.Front(want.size());
      Stream(src.data(), got.data(), blocks);
      ASSERT_EQ(FirstDifference(want, got), -1)
          << Name(pattern) << ", " << blocks << " blocks";
    }
  }
}

// One NaN scale must not reach its neighbours, wherever it stands.
TEST_P(KernelTest, HostileBlocksStayAlone) {
  const size_t blocks = 40;
  const auto finite = MakeBlocks(format(), Pattern::kFinite, blocks, 5);
  for (size_t i = 0; i < blocks; ++i) {
    auto src = finite;
    for (const ScaleField& field : format().scales) {
      SetScale(field, 0x7C01, src.data() + i * block_bytes());
    }
    const auto want = Expected(format(), out(), src);
    std::vector<uint8_t> got(want.size());
    ASSERT_EQ(Call(src.data(), got.data(), blocks), Status::kOk);
    ASSERT_EQ(FirstDifference(want, got), -1) << "block " << i;
  }
}

// Kernels ask only now and then whether scales were finite, and then go back.
TEST_P(KernelTest, HostileBlocksFarIntoACall) {
  const size_t blocks = 4096 + 50;
  auto src = MakeBlocks(format(), Pattern::kUsual, blocks, 6);
  for (size_t i : {size_t{4095}, blocks - 1}) {
    for (const ScaleField& field : format().scales) {
      SetScale(field, 0x7C01, src.data() + i * block_bytes());
    }
  }
  const auto want = Expected(format(), out(), src);
  GuardedBuffer buffer(want.size());
  const std::span<uint8_t> got = buffer.Front(want.size());
  ASSERT_EQ(Call(src.data(), got.data(), blocks, 1), Status::kOk);
  ASSERT_EQ(FirstDifference(want, got), -1);
  std::fill(got.begin(), got.end(), 0xAA);
  Stream(src.data(), got.data(), blocks);
  ASSERT_EQ(FirstDifference(want, got), -1) << "streamed";
}

// Some kernels are for scales above 0, or for normal ones that are not too
// large, and leave what is behind another to those for any scale.
TEST_P(KernelTest, UnusualScalesFarIntoACall) {
  const size_t blocks = 1100;
  for (Pattern pattern : {Pattern::kPositive, Pattern::kNormal}) {
    const auto usual = MakeBlocks(format(), pattern, blocks, 8);
    const auto want_usual = Expected(format(), out(), usual);
    std::vector<uint8_t> got(want_usual.size());
    for (const uint16_t half :
         {0x0000, 0x8000, 0x03FF, 0x9234, 0x5BFF, 0x5C00, 0x7BFF, 0xFC00}) {
      for (size_t i : {0, 127, 128, 511, 512, 1023, 1024, 1027, 1099}) {
        auto src = usual;
        const auto block =
            std::span(src).subspan(i * block_bytes(), block_bytes());
        for (const ScaleField& field : format().scales) {
          SetScale(field, half, block.data());
        }
        auto want = want_usual;
        std::ranges::copy(Expected(format(), out(), block),
                          want.begin() + i * block_out());
        std::ranges::fill(got, 0xAA);
        ASSERT_EQ(Call(src.data(), got.data(), blocks, 1), Status::kOk);
        ASSERT_EQ(FirstDifference(want, got), -1)
            << Name(pattern) << ", " << half << " in block " << i;
      }
    }
  }
}

// Exactly the given bytes are read and written: both buffers end at a page that
// can't be touched, or start behind one; the source is read-only; the gaps
// beside the destination keep their bytes. Kernels that stream do the same.
class GuardPages : public KernelTest {
 protected:
  static constexpr size_t kSourceGaps = 64, kDestinationGaps = 16;

  void SetUp() override {
    KernelTest::SetUp();
    bytes_ = MakeBlocks(format(), Pattern::kRandom, kMaxBlocks, 9);
    want_ = Expected(format(), out(), bytes_);
    src_.emplace(bytes_.size(), kSourceGaps);
    dst_.emplace(want_.size(), kDestinationGaps);
  }

  // One source offset with some destination offsets, at both ends.
  void CheckSource(size_t blocks, size_t src_gap,
                   std::span<const size_t> dst_gaps) {
    const size_t in = blocks * block_bytes(), result = blocks * block_out();
    for (bool rear : {true, false}) {
      src_->ReadWrite();
      const auto from =
          rear ? src_->Rear(in, src_gap) : src_->Front(in, src_gap);
      std::copy_n(bytes_.begin(), in, from.begin());
      src_->ReadOnly();
      for (size_t gap : dst_gaps) {
        const auto to =
            rear ? dst_->Rear(result, gap) : dst_->Front(result, gap);
        ASSERT_EQ(WhatIsWrong(from, to, blocks), "")
            << blocks << " blocks, source " << src_gap << " and destination "
            << gap << " bytes from the " << (rear ? "rear" : "front")
            << " guard";
      }
    }
  }

 private:
  // Compares one call; the source is in place.
  std::string_view WhatIsWrong(std::span<const uint8_t> src,
                               std::span<uint8_t> dst, size_t blocks) {
    // The neighbourhood that has to keep its bytes, up to the guards.
    constexpr ptrdiff_t kNear = 128;
    const std::span<uint8_t> all = dst_->All();
    uint8_t* const begin = dst.data();
    uint8_t* const end = begin + dst.size();
    uint8_t* const before = begin - std::min(kNear, begin - all.data());
    uint8_t* const after = end + std::min(kNear, all.data() + all.size() - end);
    const auto kept = [](uint8_t b) { return b == 0xA5; };
    const bool aligned = reinterpret_cast<uintptr_t>(begin) % 64 == 0;
    for (bool stream : {false, true}) {
      if (stream && !aligned) break;
      std::fill(before, after, 0xA5);
      if (stream) {
        Stream(src.data(), begin, blocks);
      } else if (Call(src.data(), begin, blocks) != Status::kOk) {
        return "no success";
      }
      if (std::memcmp(begin, want_.data(), dst.size()) != 0) {
        return stream ? "streamed other bytes" : "other bytes";
      }
      if (!std::all_of(before, begin, kept)) return "wrote before dst";
      if (!std::all_of(end, after, kept)) return "wrote behind dst";
    }
    return "";
  }

  std::vector<uint8_t> bytes_, want_;
  std::optional<GuardedBuffer> src_, dst_;
};
INSTANTIATE_TEST_SUITE_P(All, GuardPages, AllKernels(), KernelName);

TEST_P(GuardPages, EveryBlockCount) {
  // An emulator takes too long for all; `scripts/test --long` does them there.
  const size_t step = std::getenv("DEQUANT_TEST_COARSE") ? 16 : 1;
  for (size_t blocks = 1; blocks <= kMaxBlocks && !HasFatalFailure();
       blocks += step) {
    const size_t gaps[] = {0, blocks % 16};
    CheckSource(blocks, blocks % 3 == 0 ? 0 : blocks % 64, gaps);
  }
}

TEST_P(GuardPages, EveryOffset) {
  size_t gaps[kDestinationGaps];
  std::iota(std::begin(gaps), std::end(gaps), 0);
  for (size_t blocks : {1, 3}) {
    for (size_t offset = 0; offset < kSourceGaps && !HasFatalFailure();
         ++offset) {
      CheckSource(blocks, offset, gaps);
    }
  }
}

TEST_P(KernelTest, ThreadsGiveTheSameBytes) {
  // Enough that every thread gets a part.
  const size_t blocks = (size_t{2} << 20) / block_out() + 3;
  const auto src = MakeBlocks(format(), Pattern::kHostile, blocks, 3);
  std::vector<uint8_t> one(blocks * block_out());
  ASSERT_EQ(Call(src.data(), one.data(), blocks, 1), Status::kOk);
  for (int threads : {0, 2, 3, 7}) {
    std::vector<uint8_t> got(one.size(), 0xAA);
    ASSERT_EQ(Call(src.data(), got.data(), blocks, threads), Status::kOk);
    ASSERT_EQ(FirstDifference(one, got), -1) << threads << " threads";
  }
}

TEST_P(KernelTest, CallersFloatEnvironmentChangesNothing) {
  const size_t blocks = 16384 / block_elements();
  const auto src = MakeBlocks(format(), Pattern::kHostile, blocks, 4);
  const auto want = Expected(format(), out(), src);
  std::vector<uint8_t> got(want.size());
  {
    const HostileFloatEnv env;
    ASSERT_EQ(Call(src.data(), got.data(), blocks), Status::kOk);
    EXPECT_TRUE(env.StillSet()) << "the caller's environment is its own";
  }
  ASSERT_EQ(FirstDifference(want, got), -1);
}

// Minutes long: scripts/test --long.

// One format on all outputs and targets, so that each block is made and decoded
// by the reference only once.
class LongFormatTest : public testing::TestWithParam<const Format*> {};
INSTANTIATE_TEST_SUITE_P(All, LongFormatTest,
                         testing::ValuesIn(Formats().begin(), Formats().end()),
                         [](const auto& info) {
                           return std::string(info.param->type.name);
                         });

TEST_P(LongFormatTest, TenMillionRandomBlocks) {
  const Format& format = *GetParam();
  const ScopedTarget restore;
  const auto elements = static_cast<size_t>(format.type.block_elements);
  const size_t chunk = std::max<size_t>(1, 65536 / elements);
  for (size_t done = 0; done < 10'000'000; done += chunk) {
    const Pattern pattern =
        done / chunk % 2 ? Pattern::kFinite : Pattern::kRandom;
    const auto src = MakeBlocks(format, pattern, chunk, done);
    for (DType out : {DType::kF32, DType::kF16, DType::kBF16}) {
      const auto want = Expected(format, out, src);
      std::vector<uint8_t> got(want.size());
      for (const std::string& target : Targets()) {
        ASSERT_TRUE(SetTarget(target));
        ASSERT_EQ(Dequantize(format.type.id, src.data(), out, got.data(),
                             static_cast<int64_t>(chunk * elements), 1),
                  Status::kOk);
        ASSERT_EQ(FirstDifference(want, got), -1)
            << Name(out) << " on " << target << " after " << done << " blocks";
      }
    }
  }
}

class LongKernelTest : public KernelTest {};
INSTANTIATE_TEST_SUITE_P(All, LongKernelTest, AllKernels(), KernelName);

TEST_P(LongKernelTest, EveryValueOfEveryField) {
  const auto check = [&](const std::vector<uint8_t>& src, size_t field) {
    const auto want = Expected(format(), out(), src);
    std::vector<uint8_t> got(want.size());
    ASSERT_EQ(Call(src.data(), got.data(), src.size() / block_bytes()),
              Status::kOk);
    ASSERT_EQ(FirstDifference(want, got), -1) << "byte " << field;
  };
  for (const ScaleField& field : format().scales) {
    auto src = MakeBlocks(format(), Pattern::kFinite, 65536, 11);
    for (size_t bits = 0; bits < 65536; ++bits) {
      SetScale(field, static_cast<uint16_t>(bits), &src[bits * block_bytes()]);
    }
    check(src, field.offset);
  }
  for (size_t byte = 0; byte < block_bytes() && !HasFatalFailure(); ++byte) {
    auto src = MakeBlocks(format(), Pattern::kFinite, 256, byte);
    for (size_t value = 0; value < 256; ++value) {
      src[value * block_bytes() + byte] = static_cast<uint8_t>(value);
    }
    check(src, byte);
  }
}

// All 2^32 values of F32, rounded.
class LongNarrow
    : public testing::TestWithParam<std::tuple<DType, std::string>> {};
INSTANTIATE_TEST_SUITE_P(All, LongNarrow,
                         testing::Combine(testing::Values(DType::kF16,
                                                          DType::kBF16),
                                          testing::ValuesIn(Targets())),
                         [](const auto& info) {
                           return std::string(Name(std::get<0>(info.param))) +
                                  "_" + std::get<1>(info.param);
                         });

TEST_P(LongNarrow, EveryF32) {
  const auto& [out, target] = GetParam();
  const ScopedTarget restore;
  ASSERT_TRUE(SetTarget(target));
  const Format& f32 = *FindFormat(0);
  constexpr uint32_t kChunk = 1 << 20;
  std::vector<uint32_t> src(kChunk);
  std::vector<uint8_t> got(kChunk * 2);
  for (uint64_t first = 0; first < uint64_t{1} << 32; first += kChunk) {
    std::iota(src.begin(), src.end(), static_cast<uint32_t>(first));
    const std::span<const uint8_t> bytes(
        reinterpret_cast<const uint8_t*>(src.data()), kChunk * 4);
    ASSERT_EQ(Dequantize(0, src.data(), out, got.data(), kChunk, 1),
              Status::kOk);
    ASSERT_EQ(FirstDifference(Expected(f32, out, bytes), got), -1)
        << "from " << first;
  }
}

// Products are rounded by other code than plain F32: scales of Q8_K, times 1,
// with every mantissa and the exponents around which its kernel gives up.
TEST_P(LongNarrow, EveryMantissa) {
  const auto& [out, target] = GetParam();
  const ScopedTarget restore;
  ASSERT_TRUE(SetTarget(target));
  const Format& q8_k = *FindFormat(15);
  const auto block_bytes = static_cast<size_t>(q8_k.type.block_bytes);
  const auto elements = static_cast<size_t>(q8_k.type.block_elements);
  constexpr uint32_t kChunk = 1 << 12;
  std::vector<uint8_t> src(kChunk * block_bytes, 1);
  std::vector<uint16_t> got(kChunk * elements), want(kChunk * elements);
  const auto check = [&](uint32_t first) {
    for (uint32_t i = 0; i < kChunk; ++i) {
      const uint32_t bits = first + i;
      std::memcpy(&src[i * block_bytes], &bits, sizeof(bits));
      const auto d = std::bit_cast<float>(bits);
      std::fill_n(want.begin() + static_cast<ptrdiff_t>(i * elements), elements,
                  out == DType::kF16 ? F32ToF16(d) : F32ToBf16(d));
    }
    ASSERT_EQ(Dequantize(15, src.data(), out, got.data(),
                         static_cast<int64_t>(got.size()), 1),
              Status::kOk);
    ASSERT_TRUE(want == got) << "from " << first;
  };
  for (const uint32_t sign : {0, 1}) {
    for (const uint32_t exponent : {0, 24, 25, 127, 230, 231}) {
      const bool taken = exponent >= 25 && exponent <= 230;
      const uint32_t end = taken ? 1 << 23 : kChunk;
      for (uint32_t mantissa = 0; mantissa < end; mantissa += kChunk) {
        check(sign << 31 | exponent << 23 | mantissa);
        if (HasFatalFailure()) return;
      }
    }
  }
}

}  // namespace
}  // namespace dequant
