// IQ1_S: 256 weights in 50 bytes, 1.5625 bits per weight.
//
//   byte 0     d   F16 scale of the scales
//   byte 2     qs  32 bytes, one per row of 8: bits 0-7 of its index
//   byte 34    qh  8 words, one per 32 elements: bits 8-10 of the index of row
//                  s in bits 3 s, the scale in bits 12-14; bit 15 makes the
//                  offset negative
//
//   value = d * (2 * scale + 1) * (row + offset), row = -1..1, offset = +-1/8
//
// Computed as (d * (2 * scale + 1) / 8) * (8 * row +- 1): the same bits.
// Source: block_iq1_s in ggml-common.h, dequantize_row_iq1_s in ggml-quants.c.

#include "kernels/grid-inl.h"
#include "kernels/unpack-inl.h"

#ifndef DEQUANT_KERNELS_IQ1_S_CC_
#define DEQUANT_KERNELS_IQ1_S_CC_
namespace dequant {

struct IQ1_S {
  static constexpr char kName[] = "IQ1_S";
  static constexpr int32_t kId = 19;
  static constexpr size_t kElements = 256;
  static constexpr ScaleField kScales[] = {{ScaleField::kF16, 0}};

  uint8_t d[2];
  uint8_t qs[32];
  uint8_t qh[16];

  static void Decode(const IQ1_S& b, float* y) {
    const float d = F16ToF32(b.d);
    for (int i = 0; i < 256; ++i) {
      const int r = i / 8, qh = Load16(b.qh + 2 * (i / 32));
      const int row = b.qs[r] | (qh >> (r % 4 * 3) & 7) << 8;
      const float dl = d * static_cast<float>(2 * (qh >> 12 & 7) + 1);
      const float delta = qh & 0x8000 ? -0.125f : 0.125f;
      const int grid = RowByte(kGridIq1[row], i % 8) / 8;
      y[i] = dl * (static_cast<float>(grid) + delta);
    }
  }
};
static_assert(sizeof(IQ1_S) == 50);
static_assert(kGridIq1.size() == 1 << 11, "an index has 8 + 3 bits");

}  // namespace dequant
#endif

HWY_BEFORE_NAMESPACE();
namespace dequant {
namespace HWY_NAMESPACE {

template <>
struct Unpack<IQ1_S> {
  template <class Sink>
  static constexpr bool kHeadersBetween = HWY_TARGET <= HWY_AVX3;
  struct Header {
    float scale[8];
    float offset[8];
    uint16_t row[32];
  };

  // 1, or -1 where bit 15 is set.
  HWY_INLINE static auto Offsets(Words words) {
    const hn::Rebind<float, decltype(dwords)> df;
    const Words sign =
        hn::And(hn::ShiftLeft<16>(words), hn::Set(dwords, 1u << 31));
    return hn::Or(hn::BitCast(df, sign), hn::Set(df, 1.0f));
  }

  HWY_INLINE static void Read(const IQ1_S& b, float d, Header& h) {
    const U16x8 qh = Load8Words(b.qh);
    StoreIndices(Load16Bytes(b.qs), LowerFields<3>(qh), h.row);
    StoreIndices(Load16Bytes(b.qs + 16), UpperFields<3>(qh), h.row + 16);
    EachOf(kTimes<8 / kWords>, [&](size_t i) DEQUANT_LAMBDA {
      const Words words = LoadHalfWords(b.qh + 2 * kWords * i);
      StoreScales(WordScales<3, 12>(words, d, 0.125f * kRowUnit),
                  h.scale + kWords * i);
      StoreScales(Offsets(words), h.offset + kWords * i);
    });
  }

  template <class Sink>
  HWY_INLINE static void Do(const IQ1_S&, const Header& h, Sink& sink) {
    PutOffsetRows(h.row, h.offset, h.scale, sink);
  }
};

}  // namespace HWY_NAMESPACE
}  // namespace dequant
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dequant {
template const Format& FormatOf<IQ1_S>();
}  // namespace dequant
#endif
