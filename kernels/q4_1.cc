// Q4_1: 32 weights in 20 bytes, 5 bits per weight.
//
//   byte 0   d   F16 scale
//   byte 2   m   F16 minimum
//   byte 4   qs  16 bytes; low nibbles: elements 0-15, high nibbles: 16-31
//
//   value = d * q + m, q = 0..15
//
// Source: block_q4_1 in ggml-common.h, dequantize_row_q4_1 in ggml-quants.c.

#include "kernels/unpack-inl.h"

#ifndef DEQUANT_KERNELS_Q4_1_CC_
#define DEQUANT_KERNELS_Q4_1_CC_
namespace dequant {

struct Q4_1 {
  static constexpr char kName[] = "Q4_1";
  static constexpr int32_t kId = 3;
  static constexpr size_t kElements = 32;
  static constexpr ScaleField kScales[] = {{ScaleField::kF16, 0},
                                           {ScaleField::kF16, 2}};

  uint8_t d[2];
  uint8_t m[2];
  uint8_t qs[16];

  static void Decode(const Q4_1& b, float* y) {
    const float d = F16ToF32(b.d), m = F16ToF32(b.m);
    for (int i = 0; i < 16; ++i) {
      y[i] = static_cast<float>(b.qs[i] & 15) * d + m;
      y[i + 16] = static_cast<float>(b.qs[i] >> 4) * d + m;
    }
  }
};
static_assert(sizeof(Q4_1) == 20);

}  // namespace dequant
#endif

HWY_BEFORE_NAMESPACE();
namespace dequant {
namespace HWY_NAMESPACE {

template <>
struct Unpack<Q4_1> {
  template <class Sink>
  static constexpr bool kPlainScales = Sink::kWidensNibbles;

  HWY_INLINE static auto Nibbles(const Q4_1& b, float d, float m) {
    return NibblesOf{b.qs, Same(), ScaledOffset{d, m}};
  }
};

}  // namespace HWY_NAMESPACE
}  // namespace dequant
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dequant {
template const Format& FormatOf<Q4_1>();
}  // namespace dequant
#endif
