// The registry, the targets, the arguments of a call, the scalar helpers.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#if defined(__aarch64__)
#include <sys/auxv.h>
#endif

#include "dequant/dequant.h"
#include "dequant/dequant_c.h"
#include "kernels/scalar.h"
#include "src/core/registry.h"
#include "src/core/selftest.h"
#include "src/core/target.h"
#include "tests/support/guarded_buffer.h"

namespace dequant {
namespace {

// A kernel file without its line in the registry would never run.
TEST(Registry, ListsEveryKernelFile) {
  std::set<std::string> files, listed;
  for (const auto& entry : std::filesystem::directory_iterator(
           std::string(DEQUANT_SOURCE_DIR) + "/kernels")) {
    if (entry.path().extension() == ".cc")
      files.insert(entry.path().stem().string());
  }
  for (const Format* f : Formats()) {
    std::string name(f->type.name);
    std::ranges::transform(name, name.begin(),
                           [](unsigned char c) { return std::tolower(c); });
    listed.insert(name);
  }
  EXPECT_EQ(files, listed);
}

TEST(Registry, IdsAreUniqueAndSorted) {
  int32_t last = -1;
  for (const TypeInfo& t : Types()) {
    EXPECT_GT(t.id, last);
    last = t.id;
    EXPECT_EQ(FindType(t.id), &t);
    EXPECT_EQ(FindType(t.name), &t);
  }
  EXPECT_EQ(FindType(std::string_view("q4_k"))->id, 12);
  EXPECT_EQ(FindType(4), nullptr);
  EXPECT_EQ(FindType(-1), nullptr);
}

// Block sizes as ggml-common.h has them.
TEST(Registry, SizesAreThoseOfGgml) {
  struct Size {
    int32_t id;
    int64_t elements, bytes;
  };
  for (const Size& s : std::vector<Size>{{0, 1, 4},
                                         {1, 1, 2},
                                         {30, 1, 2},
                                         {28, 1, 8},
                                         {24, 1, 1},
                                         {25, 1, 2},
                                         {26, 1, 4},
                                         {27, 1, 8},
                                         {2, 32, 18},
                                         {3, 32, 20},
                                         {6, 32, 22},
                                         {7, 32, 24},
                                         {8, 32, 34},
                                         {10, 256, 84},
                                         {11, 256, 110},
                                         {12, 256, 144},
                                         {13, 256, 176},
                                         {14, 256, 210}}) {
    const TypeInfo* t = FindType(s.id);
    ASSERT_NE(t, nullptr) << s.id;
    EXPECT_EQ(t->block_elements, s.elements) << t->name;
    EXPECT_EQ(t->block_bytes, s.bytes) << t->name;
    EXPECT_EQ(dequant_block_elements(s.id), s.elements);
    EXPECT_EQ(dequant_block_bytes(s.id), s.bytes);
    EXPECT_EQ(dequant_type_name(s.id), t->name);
  }
  EXPECT_EQ(dequant_block_elements(99), 0);
  EXPECT_EQ(dequant_block_bytes(99), 0);
  EXPECT_EQ(dequant_type_name(99), nullptr);
}

// What the CPU says of itself, without Highway: no target may go missing.
TEST(Target, NoneOfThisCpuIsMissing) {
  std::vector<std::string> want;
#if defined(__x86_64__)
#if defined(__clang__) || !defined(_WIN32)  // CMakeLists.txt says why
#ifndef __SANITIZE_ADDRESS__                // and here
  if (__builtin_cpu_supports("avx512bf16") && __builtin_cpu_is("amd")) {
    want.push_back("AVX3_ZEN4");
  }
#ifndef __clang__  // clang 14 does not know the name
  if (__builtin_cpu_supports("avx512fp16")) want.push_back("AVX3_SPR");
#endif
  if (__builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl")) {
    want.push_back("AVX3");
  }
#endif
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    want.push_back("AVX2");
  }
#endif
  if (__builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("aes")) {
    want.push_back("SSE4");
  }
  want.push_back("SSE2");
#elif defined(__aarch64__)
  if (getauxval(AT_HWCAP2) & 2 /* SVE2 */) want.push_back("SVE2");
  if (getauxval(AT_HWCAP) & (1 << 22) /* SVE */) want.push_back("SVE");
  want.push_back("NEON_WITHOUT_AES");
#endif
  const auto have = Targets();
  std::string list;
  for (const std::string& t : have) list += " " + t;
  std::cout << "targets tested:" << list << "\n";
  RecordProperty("targets", list);
  for (const std::string& t : want) {
    EXPECT_NE(std::ranges::find(have, t), have.end()) << t << " is missing";
  }
  for (const std::string& t : have) {
    const auto all = CompiledTargets();
    EXPECT_NE(std::ranges::find(all, t), all.end()) << t;
  }
  if (std::ranges::find(have, "SVE2_128") != have.end()) {
    EXPECT_EQ(have.front(), "NEON") << "whose vectors are no shorter";
  }
}

TEST(Target, IsForcedByName) {
  const ScopedTarget restore;
  for (const std::string& t : Targets()) {
    ASSERT_TRUE(SetTarget(t));
    EXPECT_EQ(Target(), t);
    EXPECT_EQ(dequant_target(), t);
  }
  const std::string before = Target();
  EXPECT_FALSE(SetTarget("AVX9000"));
  EXPECT_EQ(Target(), before);
  ASSERT_TRUE(SetTarget(""));
  EXPECT_EQ(Target(), Targets().front());
}

TEST(Target, SelftestPassesAndRestoresIt) {
  const ScopedTarget restore;
  ASSERT_TRUE(SetTarget(Targets().back()));
  std::ostringstream table;
  EXPECT_TRUE(Selftest(table)) << table.str();
  EXPECT_EQ(Target(), Targets().back());
}

TEST(Dequantize, RefusesWhatItCannotDo) {
  const uint8_t src[64] = {};
  float dst[64];
  const auto f32 = DType::kF32;
  EXPECT_EQ(Dequantize(2, src, f32, dst, 32), Status::kOk);
  EXPECT_EQ(Dequantize(4, src, f32, dst, 32), Status::kUnknownType);
  EXPECT_EQ(Dequantize(-7, src, f32, dst, 32), Status::kUnknownType);
  EXPECT_EQ(Dequantize(26, src, f32, dst, 32), Status::kNotConvertible);
  EXPECT_EQ(Dequantize(2, src, static_cast<DType>(12), dst, 32),
            Status::kBadOutput);
  EXPECT_EQ(Dequantize(2, src, f32, dst, 31), Status::kPartialBlock);
  EXPECT_EQ(Dequantize(2, src, f32, dst, -32), Status::kPartialBlock);
  EXPECT_EQ(Dequantize(2, nullptr, f32, dst, 32), Status::kNullPointer);
  EXPECT_EQ(Dequantize(2, src, f32, nullptr, 32), Status::kNullPointer);
  EXPECT_EQ(Dequantize(2, src, f32, dst, 32, -1), Status::kBadThreads);
  EXPECT_EQ(Dequantize(2, nullptr, f32, nullptr, 0), Status::kOk);
  EXPECT_EQ(dequant_run(2, src, 0, dst, 32, 0), 0);
  EXPECT_LT(dequant_run(2, src, 2, dst, 32, 0), 0);
  for (int code = 1; code > -12; --code) {
    EXPECT_STRNE(dequant_error_string(code), "");
  }
}

// A large output goes around the caches, in another order of stores; also where
// it, or what a thread has of it, is not aligned.
TEST(Dequantize, LargeOutputsHaveTheSameBits) {
  static constexpr size_t kPiece = 1 << 20;  // no large output
  const auto check_all = [](const char* name, DType out) {
    const TypeInfo& type = *FindType(name);
    const auto block = static_cast<size_t>(type.block_elements);
    const auto block_bytes = static_cast<size_t>(type.block_bytes);
    const size_t size = SizeOf(out);
    const size_t elements = (64 << 20) / size + 5 * 256;
    std::vector<uint8_t> src(elements / block * block_bytes);
    for (size_t i = 0; i < src.size(); ++i) {
      // Bit 6 of no byte is set: no scale is NaN.
      src[i] = static_cast<uint8_t>(i * 2654435761u >> 9) & 0xBF;
    }
    std::vector<uint8_t> want(elements * size);
    for (size_t at = 0; at < elements; at += kPiece) {
      const size_t n = std::min(kPiece, elements - at);
      ASSERT_EQ(Dequantize(type.id, src.data() + at / block * block_bytes, out,
                           want.data() + size * at, static_cast<int64_t>(n), 1),
                Status::kOk);
    }
    GuardedBuffer buffer(want.size() + 128);
    const auto check = [&](size_t offset, int threads) {
      const std::span<uint8_t> all = buffer.Front(want.size() + 128);
      const auto got = all.subspan(64 - offset, want.size());
      std::fill(all.begin(), all.end(), 0xA5);
      ASSERT_EQ(Dequantize(type.id, src.data(), out, got.data(),
                           static_cast<int64_t>(elements), threads),
                Status::kOk);
      EXPECT_TRUE(std::equal(want.begin(), want.end(), got.begin()))
          << name << " to " << Name(out) << ", " << offset << " bytes off, "
          << threads << " threads, " << Target();
      const auto is_free = [](uint8_t b) { return b == 0xA5; };
      EXPECT_TRUE(std::all_of(all.begin(), all.begin() + 64 - offset, is_free));
      EXPECT_TRUE(std::all_of(all.end() - 64 - offset, all.end(), is_free));
    };
    for (size_t offset : {0, 2, 17, 48}) {
      for (int threads : {1, 3}) check(offset, threads);
    }
    const ScopedTarget restore;
    for (const std::string& target : Targets()) {
      ASSERT_TRUE(SetTarget(target));
      for (size_t offset : {0, 17}) check(offset, 3);
    }
  };
  check_all("Q4_K", DType::kF32);
  check_all("Q4_K", DType::kBF16);
  check_all("BF16", DType::kF32);
}

// The scalar conversions by the definition of the formats, not by bits.
TEST(Scalar, HalfToFloatByDefinition) {
  for (uint32_t h = 0; h < 65536; ++h) {
    const int exponent = h >> 10 & 31, mantissa = h & 1023;
    const double sign = h & 0x8000 ? -1 : 1;
    const float got = F16ToF32(static_cast<uint16_t>(h));
    if (exponent == 31 && mantissa != 0) {
      EXPECT_EQ(std::bit_cast<uint32_t>(got), 0x7FC00000u);
      continue;
    }
    double want = sign * INFINITY;
    if (exponent == 0) want = sign * std::ldexp(mantissa, -24);
    if (exponent > 0 && exponent < 31) {
      want = sign * std::ldexp(1024 + mantissa, exponent - 25);
    }
    EXPECT_EQ(got, want) << h;
    EXPECT_EQ(std::signbit(got), std::signbit(want)) << h;
  }
}

// Rounding by search: no neighbour is nearer, and a tie goes to the even one.
TEST(Scalar, FloatToHalfIsTheNearest) {
  for (uint32_t h = 0; h < 0x7BFF; ++h) {
    const auto half = static_cast<uint16_t>(h);
    const float lo = F16ToF32(half);
    const float hi = F16ToF32(static_cast<uint16_t>(h + 1));
    const float middle = lo + (hi - lo) / 2;  // exact: 13 spare bits
    const uint16_t even = h % 2 ? h + 1 : h;
    for (float sign : {1.f, -1.f}) {
      const uint16_t bit = sign < 0 ? 0x8000 : 0;
      EXPECT_EQ(F32ToF16(sign * lo), half | bit);
      EXPECT_EQ(F32ToF16(sign * middle), even | bit);
      EXPECT_EQ(F32ToF16(sign * std::nextafterf(middle, 0)), half | bit);
      EXPECT_EQ(F32ToF16(sign * std::nextafterf(middle, 1e9f)), (h + 1) | bit);
    }
  }
  EXPECT_EQ(F32ToF16(65519.996f), 0x7BFF);
  EXPECT_EQ(F32ToF16(65520.f), 0x7C00);
  EXPECT_EQ(F32ToF16(-3e38f), 0xFC00);
  EXPECT_EQ(F32ToF16(std::bit_cast<float>(0xFF800001)), 0x7E00);
}

TEST(Scalar, FloatToBf16IsTheNearest) {
  for (uint32_t h = 0; h < 0x7F80; ++h) {
    const uint32_t bits = h << 16, even = h % 2 ? h + 1 : h;
    for (uint32_t sign : {0u, 0x80000000u}) {
      const auto round = [&](uint32_t b) {
        return F32ToBf16(std::bit_cast<float>(b | sign)) - (sign >> 16);
      };
      EXPECT_EQ(round(bits), h);
      EXPECT_EQ(round(bits + 0x7FFF), h);
      EXPECT_EQ(round(bits + 0x8000), even);
      EXPECT_EQ(round(bits + 0x8001), h + 1);
    }
  }
  EXPECT_EQ(F32ToBf16(std::bit_cast<float>(0xFF800001)), 0x7FC0);
}

}  // namespace
}  // namespace dequant
