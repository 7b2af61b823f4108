// IQ4_NL: 32 weights in 18 bytes, 4.5 bits per weight, non-linear.
//
//   byte 0   d   F16 scale
//   byte 2   qs  16 bytes; low nibbles: elements 0-15, high nibbles: 16-31
//
//   value = d * kValuesIq4nl[q], q = 0..15
//
// Source: block_iq4_nl in ggml-common.h, dequantize_row_iq4_nl in
// ggml-quants.c.

#include "kernels/tables/values.h"
#include "kernels/unpack-inl.h"

#ifndef DEQUANT_KERNELS_IQ4_NL_CC_
#define DEQUANT_KERNELS_IQ4_NL_CC_
namespace dequant {

struct IQ4_NL {
  static constexpr char kName[] = "IQ4_NL";
  static constexpr int32_t kId = 20;
  static constexpr size_t kElements = 32;
  static constexpr ScaleField kScales[] = {{ScaleField::kF16, 0}};

  uint8_t d[2];
  uint8_t qs[16];

  static void Decode(const IQ4_NL& b, float* y) {
    const float d = F16ToF32(b.d);
    for (int i = 0; i < 16; ++i) {
      y[i] = d * static_cast<float>(kValuesIq4nl[b.qs[i] & 15]);
      y[i + 16] = d * static_cast<float>(kValuesIq4nl[b.qs[i] >> 4]);
    }
  }
};
static_assert(sizeof(IQ4_NL) == 18);

}  // namespace dequant
#endif

HWY_BEFORE_NAMESPACE();
namespace dequant {
namespace HWY_NAMESPACE {

template <>
struct Unpack<IQ4_NL> {
  HWY_INLINE static auto Nibbles(const IQ4_NL& b, float d) {
    return NibblesOf{b.qs, OneOf16<kValuesIq4nl>(), HalfScaled{d, b.d}};
  }
};

}  // namespace HWY_NAMESPACE
}  // namespace dequant
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dequant {
template const Format& FormatOf<IQ4_NL>();
}  // namespace dequant
#endif
