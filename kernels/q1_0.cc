// Q1_0: 128 weights in 18 bytes, 1.125 bits per weight.
//
//   byte 0   d   F16 scale
//   byte 2   qs  128 bits, the lowest bit of a byte first
//
//   value = bit ? d : -d
//
// Source: block_q1_0 in ggml-common.h, dequantize_row_q1_0 in ggml-quants.c.

#include "kernels/unpack-inl.h"

#ifndef DEQUANT_KERNELS_Q1_0_CC_
#define DEQUANT_KERNELS_Q1_0_CC_
namespace dequant {

struct Q1_0 {
  static constexpr char kName[] = "Q1_0";
  static constexpr int32_t kId = 41;
  static constexpr size_t kElements = 128;
  static constexpr ScaleField kScales[] = {{ScaleField::kF16, 0}};

  uint8_t d[2];
  uint8_t qs[16];

  static void Decode(const Q1_0& b, float* y) {
    const float d = F16ToF32(b.d);
    for (int i = 0; i < 128; ++i) y[i] = b.qs[i / 8] >> (i % 8) & 1 ? d : -d;
  }
};
static_assert(sizeof(Q1_0) == 18);

}  // namespace dequant
#endif

HWY_BEFORE_NAMESPACE();
namespace dequant {
namespace HWY_NAMESPACE {

template <>
struct Unpack<Q1_0> {
  // Of a bit, below anything.
  struct Sign {
    static constexpr int Of(int code) { return code % 2 * 2 - 1; }
    HWY_INLINE SignedCodes operator()(Codes q) const {
      const Codes bit = hn::And(q, hn::Set(dcodes, 1));
      return Minus1()(hn::Add(bit, bit));
    }
  };

  template <class Sink>
  HWY_INLINE static void Do(const Q1_0& b, float d, Sink& sink) {
    if constexpr (Sink::kSignRows) {
      EachOf(kTimes<4>,
             [&](size_t i) DEQUANT_LAMBDA { sink.SignRow(b.qs + 4 * i, d); });
    } else if constexpr (Sink::template kPackedRows<1>) {
      EachOf(kTimes<4>, [&](size_t i) DEQUANT_LAMBDA {
        sink.template PackedRow<1>(b.qs + 4 * i, Sign(), d);
      });
    } else {
      EachOf(kTimes<4>, [&](size_t i) DEQUANT_LAMBDA {
        const auto codes = [&](auto tag, size_t at) DEQUANT_LAMBDA {
          return hn::IfThenElseZero(CodeBits(tag, b.qs + 4 * i + at / 8),
                                    hn::Set(tag, 2));
        };
        sink.RowOfMany(codes, Minus1(), d);
      });
    }
  }
};

}  // namespace HWY_NAMESPACE
}  // namespace dequant
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dequant {
template const Format& FormatOf<Q1_0>();
}  // namespace dequant
#endif
