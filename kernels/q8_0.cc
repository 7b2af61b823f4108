// Q8_0: 32 weights in 34 bytes, 8.5 bits per weight.
//
//   byte 0   d   F16 scale
//   byte 2   qs  32 signed bytes, in element order
//
//   value = d * q
//
// Source: block_q8_0 in ggml-common.h, dequantize_row_q8_0 in ggml-quants.c.

#include "kernels/unpack-inl.h"

#ifndef DEQUANT_KERNELS_Q8_0_CC_
#define DEQUANT_KERNELS_Q8_0_CC_
namespace dequant {

struct Q8_0 {
  static constexpr char kName[] = "Q8_0";
  static constexpr int32_t kId = 8;
  static constexpr size_t kElements = 32;
  static constexpr ScaleField kScales[] = {{ScaleField::kF16, 0}};

  uint8_t d[2];
  int8_t qs[32];

  static void Decode(const Q8_0& b, float* y) {
    const float d = F16ToF32(b.d);
    for (int i = 0; i < 32; ++i) y[i] = static_cast<float>(b.qs[i]) * d;
  }
};
static_assert(sizeof(Q8_0) == 34);

}  // namespace dequant
#endif

HWY_BEFORE_NAMESPACE();
namespace dequant {
namespace HWY_NAMESPACE {

template <>
struct Unpack<Q8_0> {
  HWY_INLINE static auto Codes(const Q8_0& b) { return ByteRow{b.qs}; }
  HWY_INLINE static auto Value(const Q8_0& b, float d) {
    return HalfScaled{d, b.d};
  }
};

}  // namespace HWY_NAMESPACE
}  // namespace dequant
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dequant {
template const Format& FormatOf<Q8_0>();
}  // namespace dequant
#endif
