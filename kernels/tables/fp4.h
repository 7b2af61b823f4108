// The values of 4-bit codes whose scale is a byte: all there are.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "hwy/base.h"
#include "kernels/scalar.h"
#include "kernels/tables/values.h"

namespace dequant {

/// The bits of a value as T, F16 or BF16.
template <typename T>
constexpr uint16_t BitsAs(float value) {
  return std::is_same_v<T, hwy::float16_t> ? F32ToF16(value) : F32ToBf16(value);
}

/// 16 values as T: their low bytes and their high ones.
template <typename T>
struct ValueBytes {
  alignas(16) uint8_t low[16];
  uint8_t high[16];
  constexpr void Set(size_t i, float value) {
    low[i] = static_cast<uint8_t>(BitsAs<T>(value));
    high[i] = static_cast<uint8_t>(BitsAs<T>(value) >> 8);
  }
};
/// As they are.
template <typename T>
struct ValueWords {
  alignas(32) uint16_t word[16];
  constexpr void Set(size_t i, float value) { word[i] = BitsAs<T>(value); }
};
/// Those of codes 0 to 7, which with the other sign are those of the rest, but
/// for zero.
template <typename T>
struct HalfOfValueWords {
  alignas(16) uint16_t word[8];
  constexpr void Set(size_t i, float value) {
    if (i < 8) word[i] = BitsAs<T>(value);
  }
};
/// Only the scale of them, which is the value of code 1.
struct ValueScale {
  float scale;
  constexpr void Set(size_t i, float f) {
    if (i == 1) scale = f;
  }
};
static_assert(kValuesFp4[1] == 1);

/// kValuesFp4 times each scale of format B, B::Scale(0) to B::Scale(255).
template <class B, class Values>
struct ScaledFp4 {
  Values of[256];

  constexpr ScaledFp4() : of{} {
    for (size_t i = 0; i < 256; ++i) {
      for (size_t q = 0; q < 16; ++q) {
        of[i].Set(q, Product(kValuesFp4[q], B::Scale(static_cast<uint8_t>(i))));
      }
    }
  }

 private:
  // Exact. A constant must not overflow.
  static constexpr float Product(int q, float scale) {
    constexpr double kInf = std::numeric_limits<double>::infinity();
    constexpr double kMax = std::numeric_limits<float>::max();
    const double value = static_cast<double>(scale) * q;
    return static_cast<float>(value > kMax    ? kInf
                              : value < -kMax ? -kInf
                                              : value);
  }
};
template <class B, class Values>
inline constexpr ScaledFp4<B, Values> kScaledFp4;

}  // namespace dequant
