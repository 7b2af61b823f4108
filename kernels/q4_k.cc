// Q4_K: 256 weights in 144 bytes, 4.5 bits per weight.
//
//   byte 0     d       F16 scale of the scales
//   byte 2     dmin    F16 scale of the minimums
//   byte 4     scales  8 scales and 8 minimums of 6 bits, one per 32 elements:
//                      scale j < 4 is bits 0-5 of byte j, minimum j those of
//                      byte 4 + j; scale j >= 4 is the low, minimum j the high
//                      nibble of byte 4 + j, with bits 4-5 from bits 6-7 of
//                      bytes j - 4 and j
//   byte 16    qs      128 bytes; of each 32 bytes the low nibbles are 32
//                      elements, the high nibbles the next 32
//
//   value = d * scale * q - dmin * minimum, q = 0..15
//
// Source: block_q4_K in ggml-common.h, dequantize_row_q4_K in ggml-quants.c.

#include "kernels/scales_k-inl.h"
#include "kernels/unpack-inl.h"

#ifndef DEQUANT_KERNELS_Q4_K_CC_
#define DEQUANT_KERNELS_Q4_K_CC_
namespace dequant {

struct Q4_K {
  static constexpr char kName[] = "Q4_K";
  static constexpr int32_t kId = 12;
  static constexpr size_t kElements = 256;
  static constexpr ScaleField kScales[] = {{ScaleField::kF16, 0},
                                           {ScaleField::kF16, 2}};

  uint8_t d[2];
  uint8_t dmin[2];
  uint8_t scales[12];
  uint8_t qs[128];

  static void Decode(const Q4_K& b, float* y) {
    const float d = F16ToF32(b.d), dmin = F16ToF32(b.dmin);
    for (int i = 0; i < 256; ++i) {
      const ScaleMin s = ScaleMinK(b.scales, i / 32);
      const int q = b.qs[i / 64 * 32 + i % 32] >> (i % 64 / 32 * 4) & 15;
      y[i] = d * static_cast<float>(s.scale) * static_cast<float>(q) -
             dmin * static_cast<float>(s.min);
    }
  }
};
static_assert(sizeof(Q4_K) == 144);

}  // namespace dequant
#endif

HWY_BEFORE_NAMESPACE();
namespace dequant {
namespace HWY_NAMESPACE {

template <>
struct Unpack<Q4_K> {
  template <class Sink>
  static constexpr bool kHeadersBetween = HWY_TARGET <= HWY_AVX2;
  using Header = HeaderK;
  static constexpr bool kSubtracts = true;
  template <class Sink>
  static constexpr bool kPlainScales = Sink::kWidensNibbles;

  HWY_INLINE static void Read(const Q4_K& b, const float* scale, Header& h) {
    ScalesMinsK(b.scales, scale, h);
  }

  template <class Sink>
  HWY_INLINE static void Do(const Q4_K& b, const Header& h, Sink& sink) {
    const auto rows = [&](size_t i) DEQUANT_LAMBDA {
      return TwoNibblesOf{b.qs + 32 * i, h.Value(2 * i), h.Value(2 * i + 1)};
    };
    PutNibbles<4>(rows, sink);
  }
};

}  // namespace HWY_NAMESPACE
}  // namespace dequant
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dequant {
template const Format& FormatOf<Q4_K>();
}  // namespace dequant
#endif
