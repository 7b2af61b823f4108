// Q8_K: 256 weights in 292 bytes, 9.125 bits per weight. An intermediate format
// of ggml's dot products.
//
//   byte 0     d      F32 scale
//   byte 4     qs     256 signed bytes, in element order
//   byte 260   bsums  16 sums of 16 codes, not needed here
//
//   value = d * q
//
// Source: block_q8_K in ggml-common.h, dequantize_row_q8_K in ggml-quants.c.

#include "kernels/unpack-inl.h"

#ifndef DEQUANT_KERNELS_Q8_K_CC_
#define DEQUANT_KERNELS_Q8_K_CC_
namespace dequant {

struct Q8_K {
  static constexpr char kName[] = "Q8_K";
  static constexpr int32_t kId = 15;
  static constexpr size_t kElements = 256;
  static constexpr ScaleField kScales[] = {{ScaleField::kF32, 0}};

  uint8_t d[4];
  int8_t qs[256];
  uint8_t bsums[32];

  static void Decode(const Q8_K& b, float* y) {
    const float d = std::bit_cast<float>(Load32(b.d));
    for (int i = 0; i < 256; ++i) y[i] = d * static_cast<float>(b.qs[i]);
  }
};
static_assert(sizeof(Q8_K) == 292);

}  // namespace dequant
#endif

HWY_BEFORE_NAMESPACE();
namespace dequant {
namespace HWY_NAMESPACE {

template <>
struct Unpack<Q8_K> {
  // Smaller scales, some times kUnit, would lose bits; values from 2^111 on are
  // too large for a sink that rounds BF16.
  template <class Sink>
  HWY_INLINE static bool Takes(const Q8_K& b) {
    const uint32_t bits = Load32(b.d) & 0x7FFFFFFF;
    return bits == 0 || (bits >= 25u << 23 && bits < 231u << 23);
  }

  static constexpr bool kByMagnitude = true;
  template <class Sink>
  static constexpr bool kPipelined = Sink::kPipelines;
  HWY_INLINE static auto Value(const float* d, size_t, size_t) {
    return Formula(*d * kUnit);
  }
  HWY_INLINE static auto Rows(const Q8_K& b) {
    return [&b](size_t row) DEQUANT_LAMBDA { return ByteRow{b.qs + 32 * row}; };
  }

  template <class Sink>
  HWY_INLINE static void Do(const Q8_K& b, float d, Sink& sink) {
    const auto row = Rows(b);
    EachOf(kTimes<8>,
           [&](size_t j) DEQUANT_LAMBDA { sink.Row(row(j), d * kUnit); });
  }
};

}  // namespace HWY_NAMESPACE
}  // namespace dequant
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dequant {
template const Format& FormatOf<Q8_K>();
}  // namespace dequant
#endif
