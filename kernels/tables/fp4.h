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

/// 16 values of 16 bits: their low bytes and their high ones.
struct ValueBytes {
  alignas(16) uint8_t low[16];
  uint8_t high[16];
};

/// As T, F16 or BF16, kValuesFp4 times each scale of format B, B::Scale(0) to
/// B::Scale(255).
template <class B, typename T>
struct ScaledFp4 {
  ValueBytes of[256];

  constexpr ScaledFp4() : of{} {
    for (size_t i = 0; i < 256; ++i) {
      for (size_t q = 0; q < 16; ++q) {
        const float value =
            Product(kValuesFp4[q], B::Scale(static_cast<uint8_t>(i)));
        const uint16_t bits = std::is_same_v<T, hwy::float16_t>
                                  ? F32ToF16(value)
                                  : F32ToBf16(value);
        of[i].low[q] = static_cast<uint8_t>(bits);
        of[i].high[q] = static_cast<uint8_t>(bits >> 8);
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
template <class B, typename T>
inline constexpr ScaledFp4<B, T> kScaledFp4;

}  // namespace dequant
