// Q5_1: 32 weights in 24 bytes, 6 bits per weight.
//
//   byte 0   d   F16 scale
//   byte 2   m   F16 minimum
//   byte 4   qh  32 bits; bit i is bit 4 of element i
//   byte 8   qs  16 bytes; low nibbles: elements 0-15, high nibbles: 16-31
//
//   value = d * q + m, q = 0..31
//
// Source: block_q5_1 in ggml-common.h, dequantize_row_q5_1 in ggml-quants.c.

#include "kernels/unpack-inl.h"

#ifndef DEQUANT_KERNELS_Q5_1_CC_
#define DEQUANT_KERNELS_Q5_1_CC_
namespace dequant {

struct Q5_1 {
  static constexpr char kName[] = "Q5_1";
  static constexpr int32_t kId = 7;
  static constexpr size_t kElements = 32;
  static constexpr ScaleField kScales[] = {{ScaleField::kF16, 0},
                                           {ScaleField::kF16, 2}};

  uint8_t d[2];
  uint8_t m[2];
  uint8_t qh[4];
  uint8_t qs[16];

  static void Decode(const Q5_1& b, float* y) {
    const float d = F16ToF32(b.d), m = F16ToF32(b.m);
    const uint32_t qh = Load32(b.qh);
    for (int i = 0; i < 16; ++i) {
      const int lo = (b.qs[i] & 15) | ((qh >> i) & 1) << 4;
      const int hi = (b.qs[i] >> 4) | ((qh >> (i + 16)) & 1) << 4;
      y[i] = static_cast<float>(lo) * d + m;
      y[i + 16] = static_cast<float>(hi) * d + m;
    }
  }
};
static_assert(sizeof(Q5_1) == 24);

}  // namespace dequant
#endif

HWY_BEFORE_NAMESPACE();
namespace dequant {
namespace HWY_NAMESPACE {

template <>
struct Unpack<Q5_1> {
  static constexpr bool kMayBeSubnormal = true;

  template <int kTo = 0>
  HWY_INLINE static auto Codes(const Q5_1& b) {
    return [&b](auto tag, size_t i) DEQUANT_LAMBDA {
      return FiveBitsOfRow<false, kTo>(tag, b.qs, b.qh, i);
    };
  }
  HWY_INLINE static auto Value(const Q5_1&, float d, float m) {
    return Formula(d, m);
  }
};

}  // namespace HWY_NAMESPACE
}  // namespace dequant
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dequant {
template const Format& FormatOf<Q5_1>();
}  // namespace dequant
#endif
