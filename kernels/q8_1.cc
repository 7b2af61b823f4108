// Q8_1: 32 weights in 36 bytes, 9 bits per weight. An activation format: ggml
// has no function that dequantizes it.
//
//   byte 0   d   F16 scale
//   byte 2   s   F16 sum of the values, not needed here
//   byte 4   qs  32 signed bytes, in element order
//
//   value = d * q
//
// Source: block_q8_1 in ggml-common.h.

#include "kernels/unpack-inl.h"

#ifndef DEQUANT_KERNELS_Q8_1_CC_
#define DEQUANT_KERNELS_Q8_1_CC_
namespace dequant {

struct Q8_1 {
  static constexpr char kName[] = "Q8_1";
  static constexpr int32_t kId = 9;
  static constexpr size_t kElements = 32;
  static constexpr ScaleField kScales[] = {{ScaleField::kF16, 0}};

  uint8_t d[2];
  uint8_t s[2];
  int8_t qs[32];

  static void Decode(const Q8_1& b, float* y) {
    const float d = F16ToF32(b.d);
    for (int i = 0; i < 32; ++i) y[i] = static_cast<float>(b.qs[i]) * d;
  }
};
static_assert(sizeof(Q8_1) == 36);

}  // namespace dequant
#endif

HWY_BEFORE_NAMESPACE();
namespace dequant {
namespace HWY_NAMESPACE {

template <>
struct Unpack<Q8_1> {
  HWY_INLINE static auto Codes(const Q8_1& b) { return ByteRow{b.qs}; }
  HWY_INLINE static auto Value(const Q8_1& b, float d) {
    return HalfScaled{d, b.d};
  }
};

}  // namespace HWY_NAMESPACE
}  // namespace dequant
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dequant {
template const Format& FormatOf<Q8_1>();
}  // namespace dequant
#endif
