// IQ1_M: 256 weights in 56 bytes, 1.75 bits per weight.
//
//   byte 0     qs      32 bytes, one per row of 8: bits 0-7 of its index
//   byte 32    qh      16 bytes, one nibble per row, low ones first: bits 8-10
//                      of its index; bit 3 makes its offset negative
//   byte 48    scales  4 words, each four scales of 3 bits, one per 16
//   elements,
//                      lowest first; their top nibbles, lowest first, are d,
//                      the F16 scale of the scales
//
//   value = d * (2 * scale + 1) * (row + offset), row = -1..1, offset = +-1/8
//
// Computed as (d * (2 * scale + 1) / 8) * (8 * row +- 1): the same bits.
// Source: block_iq1_m in ggml-common.h, dequantize_row_iq1_m in ggml-quants.c.

#include "kernels/grid-inl.h"
#include "kernels/unpack-inl.h"

#ifndef DEQUANT_KERNELS_IQ1_M_CC_
#define DEQUANT_KERNELS_IQ1_M_CC_
namespace dequant {

struct IQ1_M {
  static constexpr char kName[] = "IQ1_M";
  static constexpr int32_t kId = 29;
  static constexpr size_t kElements = 256;
  static constexpr ScaleField kScales[] = {{ScaleField::kF16InTopNibbles, 48}};

  uint8_t qs[32];
  uint8_t qh[16];
  uint8_t scales[8];

  static void Decode(const IQ1_M& b, float* y) {
    const float d = F16ToF32(HalfInTopNibbles(b.scales));
    for (int i = 0; i < 256; ++i) {
      const int r = i / 8, qh = b.qh[r / 2] >> (r % 2 * 4) & 15;
      const int row = b.qs[r] | (qh & 7) << 8;
      const int scale = Load16(b.scales + 2 * (i / 64)) >> (i / 16 % 4 * 3) & 7;
      const float delta = qh & 8 ? -0.125f : 0.125f;
      const int grid = RowByte(kGridIq1[row], i % 8) / 8;
      y[i] = d * static_cast<float>(2 * scale + 1) *
             (static_cast<float>(grid) + delta);
    }
  }
};
static_assert(sizeof(IQ1_M) == 56);
static_assert(kGridIq1.size() == 1 << 11, "an index has 8 + 3 bits");

}  // namespace dequant
#endif

HWY_BEFORE_NAMESPACE();
namespace dequant {
namespace HWY_NAMESPACE {

template <>
struct Unpack<IQ1_M> {
  template <class Sink>
  HWY_INLINE static void Do(const IQ1_M& b, float d, Sink& sink) {
    const U16x8 words = hn::BitCast(du16, Load8Bytes(b.scales));
    float scale[16];
    OddScales(LowerFields<3>(words), d * (0.125f / kUnit), scale);
    const U8x16 qh = Load16Bytes(b.qh);
    const U8x16 low = LowNibbles(qh), high = HighNibbles(qh);
    Eight(b.qs, hn::InterleaveLower(du8, low, high), scale, sink);
    Eight(b.qs + 16, hn::InterleaveUpper(du8, low, high), scale + 8, sink);
  }

  // Eight groups; qh is a nibble per row.
  template <class Sink>
  HWY_INLINE static void Eight(const uint8_t* qs, U8x16 qh, const float* scale,
                               Sink& sink) {
    uint16_t row[16];
    StoreIndices(Load16Bytes(qs), Field<0, 3>(qh), row);
    const U8x16 delta = hn::Sub(hn::Set(du8, 1), Field<3, 1, 1>(qh));
    for (int g = 0; g < 8; ++g) {
      const I8x16 q = Rows(kGridIq1[row[2 * g]], kGridIq1[row[2 * g + 1]]);
      sink(hn::Add(q, Signed(PerRow(delta, g))), scale[g]);
    }
  }
};

}  // namespace HWY_NAMESPACE
}  // namespace dequant
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dequant {
template const Format& FormatOf<IQ1_M>();
}  // namespace dequant
#endif
