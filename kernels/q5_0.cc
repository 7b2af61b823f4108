// Q5_0: 32 weights in 22 bytes, 5.5 bits per weight.
//
//   byte 0   d   F16 scale
//   byte 2   qh  32 bits; bit i is bit 4 of element i
//   byte 6   qs  16 bytes; low nibbles: elements 0-15, high nibbles: 16-31
//
//   value = d * (q - 16), q = 0..31
//
// Source: block_q5_0 in ggml-common.h, dequantize_row_q5_0 in ggml-quants.c.

#include "kernels/unpack-inl.h"

#ifndef DEQUANT_KERNELS_Q5_0_CC_
#define DEQUANT_KERNELS_Q5_0_CC_
namespace dequant {

struct Q5_0 {
  static constexpr char kName[] = "Q5_0";
  static constexpr int32_t kId = 6;
  static constexpr size_t kElements = 32;
  static constexpr ScaleField kScales[] = {{ScaleField::kF16, 0}};

  uint8_t d[2];
  uint8_t qh[4];
  uint8_t qs[16];

  static void Decode(const Q5_0& b, float* y) {
    const float d = F16ToF32(b.d);
    const uint32_t qh = Load32(b.qh);
    for (int i = 0; i < 16; ++i) {
      const int lo = (b.qs[i] & 15) | ((qh >> i) & 1) << 4;
      const int hi = (b.qs[i] >> 4) | ((qh >> (i + 16)) & 1) << 4;
      y[i] = static_cast<float>(lo - 16) * d;
      y[i + 16] = static_cast<float>(hi - 16) * d;
    }
  }
};
static_assert(sizeof(Q5_0) == 22);

}  // namespace dequant
#endif

HWY_BEFORE_NAMESPACE();
namespace dequant {
namespace HWY_NAMESPACE {

template <>
struct Unpack<Q5_0> {
  static constexpr bool kSignedRows = true;

  HWY_INLINE static auto Codes(const Q5_0& b) {
    return [&b](auto tag, size_t i) DEQUANT_LAMBDA {
      return FiveBitsOfRow<true>(tag, b.qs, b.qh, i);
    };
  }
  HWY_INLINE static auto Value(const Q5_0& b, float d) {
    return HalfScaled{d, b.d};
  }
};

}  // namespace HWY_NAMESPACE
}  // namespace dequant
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dequant {
template const Format& FormatOf<Q5_0>();
}  // namespace dequant
#endif
