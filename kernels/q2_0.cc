// Q2_0: 64 weights in 18 bytes, 2.25 bits per weight.
//
//   byte 0   d   F16 scale
//   byte 2   qs  16 bytes, 2 bits per element, the lowest bits of a byte first
//
//   value = d * (q - 1), q = 0..3
//
// Source: block_q2_0 in ggml-common.h, dequantize_row_q2_0 in ggml-quants.c.

#include "kernels/unpack-inl.h"

#ifndef DEQUANT_KERNELS_Q2_0_CC_
#define DEQUANT_KERNELS_Q2_0_CC_
namespace dequant {

struct Q2_0 {
  static constexpr char kName[] = "Q2_0";
  static constexpr int32_t kId = 42;
  static constexpr size_t kElements = 64;
  static constexpr ScaleField kScales[] = {{ScaleField::kF16, 0}};

  uint8_t d[2];
  uint8_t qs[16];

  static void Decode(const Q2_0& b, float* y) {
    const float d = F16ToF32(b.d);
    for (int i = 0; i < 64; ++i) {
      y[i] = static_cast<float>((b.qs[i / 4] >> (i % 4 * 2) & 3) - 1) * d;
    }
  }
};
static_assert(sizeof(Q2_0) == 18);

}  // namespace dequant
#endif

HWY_BEFORE_NAMESPACE();
namespace dequant {
namespace HWY_NAMESPACE {

template <>
struct Unpack<Q2_0> {
  template <class Sink>
  HWY_INLINE static void Do(const Q2_0& b, Sink& sink) {
    const float d = Half(b.d);
    const hn::Repartition<uint16_t, decltype(du8)> du16;
    const U8x16 qs = Load16Bytes(b.qs);
    const U8x16 q0 = Field<0, 2>(qs), q1 = Field<2, 2>(qs);
    const U8x16 q2 = Field<4, 2>(qs), q3 = Field<6, 2>(qs);
    Put(hn::BitCast(du16, hn::InterleaveLower(du8, q0, q1)),
        hn::BitCast(du16, hn::InterleaveLower(du8, q2, q3)), d, sink);
    Put(hn::BitCast(du16, hn::InterleaveUpper(du8, q0, q1)),
        hn::BitCast(du16, hn::InterleaveUpper(du8, q2, q3)), d, sink);
  }

  // 32 elements: those at even and odd places of each four, as bytes 0-1 and
  // 2-3.
  template <class V16, class Sink>
  HWY_INLINE static void Put(V16 first, V16 second, float d, Sink& sink) {
    const hn::Repartition<uint16_t, decltype(du8)> du16;
    const I8x16 one = hn::Set(di8, 1);
    sink(hn::Sub(hn::BitCast(di8, hn::InterleaveLower(du16, first, second)),
                 one),
         d);
    sink(hn::Sub(hn::BitCast(di8, hn::InterleaveUpper(du16, first, second)),
                 one),
         d);
  }
};

}  // namespace HWY_NAMESPACE
}  // namespace dequant
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dequant {
template const Format& FormatOf<Q2_0>();
}  // namespace dequant
#endif
