// TQ2_0: 256 weights in 66 bytes, 2.0625 bits per weight, ternary.
//
//   byte 0    qs  64 bytes, 2 bits per element; each half of the 256 takes 32
//                 bytes: its element 32 s + i is bits 2 s of byte i
//   byte 64   d   F16 scale
//
//   value = d * (q - 1), q = 0..3
//
// Source: block_tq2_0 in ggml-common.h, dequantize_row_tq2_0 in ggml-quants.c.

#include "kernels/unpack-inl.h"

#ifndef DEQUANT_KERNELS_TQ2_0_CC_
#define DEQUANT_KERNELS_TQ2_0_CC_
namespace dequant {

struct TQ2_0 {
  static constexpr char kName[] = "TQ2_0";
  static constexpr int32_t kId = 35;
  static constexpr size_t kElements = 256;
  static constexpr ScaleField kScales[] = {{ScaleField::kF16, 64}};

  uint8_t qs[64];
  uint8_t d[2];

  static void Decode(const TQ2_0& b, float* y) {
    const float d = F16ToF32(b.d);
    for (int i = 0; i < 256; ++i) {
      const int q = b.qs[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
      y[i] = static_cast<float>(q - 1) * d;
    }
  }
};
static_assert(sizeof(TQ2_0) == 66);

}  // namespace dequant
#endif

HWY_BEFORE_NAMESPACE();
namespace dequant {
namespace HWY_NAMESPACE {

template <>
struct Unpack<TQ2_0> {
  template <class Sink>
  HWY_INLINE static void Do(const TQ2_0& b, float d, Sink& sink) {
    EachOf(kTimes<2>, [&](size_t half) DEQUANT_LAMBDA {
      const uint8_t* qs = b.qs + 32 * half;
      const auto bytes = [&](auto tag, size_t i)
                             DEQUANT_LAMBDA { return LoadCodes(tag, qs + i); };
      sink.template TwoBitsOfMany<0>(bytes, Minus1(), d);
      sink.template TwoBitsOfMany<2>(bytes, Minus1(), d);
      sink.template TwoBitsOfMany<4>(bytes, Minus1(), d);
      sink.template TwoBitsOfMany<6>(bytes, Minus1(), d);
    });
  }
};

}  // namespace HWY_NAMESPACE
}  // namespace dequant
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dequant {
template const Format& FormatOf<TQ2_0>();
}  // namespace dequant
#endif
