// Q4_0: 32 weights in 18 bytes, 4.5 bits per weight.
//
//   byte 0   d   F16 scale
//   byte 2   qs  16 bytes; low nibbles: elements 0-15, high nibbles: 16-31
//
//   value = d * (q - 8), q = 0..15
//
// Source: block_q4_0 in ggml-common.h, dequantize_row_q4_0 in ggml-quants.c.

#include "kernels/unpack-inl.h"

#ifndef DEQUANT_KERNELS_Q4_0_CC_
#define DEQUANT_KERNELS_Q4_0_CC_
namespace dequant {

struct Q4_0 {
  static constexpr char kName[] = "Q4_0";
  static constexpr int32_t kId = 2;
  static constexpr size_t kElements = 32;
  static constexpr ScaleField kScales[] = {{ScaleField::kF16, 0}};

  uint8_t d[2];
  uint8_t qs[16];

  static void Decode(const Q4_0& b, float* y) {
    const float d = F16ToF32(b.d);
    for (int i = 0; i < 16; ++i) {
      y[i] = static_cast<float>((b.qs[i] & 15) - 8) * d;
      y[i + 16] = static_cast<float>((b.qs[i] >> 4) - 8) * d;
    }
  }
};
static_assert(sizeof(Q4_0) == 18);

}  // namespace dequant
#endif

HWY_BEFORE_NAMESPACE();
namespace dequant {
namespace HWY_NAMESPACE {

template <>
struct Unpack<Q4_0> {
  HWY_INLINE static auto Nibbles(const Q4_0& b, float d) {
    return NibblesOf{b.qs, Minus8(), HalfScaled{d, b.d}};
  }
};

}  // namespace HWY_NAMESPACE
}  // namespace dequant
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dequant {
template const Format& FormatOf<Q4_0>();
}  // namespace dequant
#endif
