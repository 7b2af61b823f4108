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
  static constexpr bool kTwoAtOnce = Sink::kTwoOfFour;
  template <class Sink>
  HWY_INLINE static void DoTwo(const Q2_0& b0, const Q2_0& b1, float d0,
                               float d1, Sink& sink) {
    sink.PackedRowsOfTwo(b0.qs, b1.qs, Minus1(), d0, d1);
  }
  template <class Sink>
  HWY_INLINE static void Do(const Q2_0& b, float d, Sink& sink) {
    if constexpr (Sink::template kPackedRows<2>) {
      sink.template PackedRow<2>(b.qs, Minus1(), d);
      sink.template PackedRow<2>(b.qs + 8, Minus1(), d);
    } else {
      const hn::Repartition<uint16_t, decltype(dcodes)> du16;
      const Codes qs = LoadCodes(b.qs);
      const Codes q0 = Field<0, 2>(qs), q1 = Field<2, 2>(qs);
      const Codes q2 = Field<4, 2>(qs), q3 = Field<6, 2>(qs);
      Put(hn::BitCast(du16, hn::InterleaveLower(dcodes, q0, q1)),
          hn::BitCast(du16, hn::InterleaveLower(dcodes, q2, q3)), d, sink);
      Put(hn::BitCast(du16, hn::InterleaveUpper(dcodes, q0, q1)),
          hn::BitCast(du16, hn::InterleaveUpper(dcodes, q2, q3)), d, sink);
    }
  }

  // 32 elements: those at even and odd places of each four, as bytes 0-1 and
  // 2-3.
  template <class V16, class F, class Sink>
  HWY_INLINE static void Put(V16 first, V16 second, F scale, Sink& sink) {
    const hn::Repartition<uint16_t, decltype(dcodes)> du16;
    sink.PairOfMany(
        hn::BitCast(dcodes, hn::InterleaveLower(du16, first, second)),
        hn::BitCast(dcodes, hn::InterleaveUpper(du16, first, second)), Minus1(),
        scale);
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
