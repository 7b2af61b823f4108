// IQ2_XS: 256 weights in 74 bytes, 2.3125 bits per weight.
//
//   byte 0     d       F16 scale of the scales
//   byte 2     qs      32 words, one per row of 8: index in bits 0-8, the row's
//                      first 7 sign bits in bits 9-15
//   byte 66    scales  8 bytes, one nibble per 16 elements, low ones first
//
//   value = d * (0.5 + scale) * 0.25 * row byte * sign
//
// A row's eighth sign makes the number of its minus signs even.
// Source: block_iq2_xs in ggml-common.h, dequantize_row_iq2_xs in
// ggml-quants.c.

#include "kernels/grid-inl.h"
#include "kernels/unpack-inl.h"

#ifndef DEQUANT_KERNELS_IQ2_XS_CC_
#define DEQUANT_KERNELS_IQ2_XS_CC_
namespace dequant {

struct IQ2_XS {
  static constexpr char kName[] = "IQ2_XS";
  static constexpr int32_t kId = 17;
  static constexpr size_t kElements = 256;
  static constexpr ScaleField kScales[] = {{ScaleField::kF16, 0}};

  uint8_t d[2];
  uint8_t qs[64];
  uint8_t scales[8];

  static void Decode(const IQ2_XS& b, float* y) {
    const float d = F16ToF32(b.d);
    for (int i = 0; i < 256; ++i) {
      const uint32_t word = Load16(b.qs + 2 * (i / 8));
      const int scale = b.scales[i / 32] >> (i / 16 % 2 * 4) & 15, j = i % 8;
      const float db = d * (0.5f + static_cast<float>(scale)) * 0.25f;
      const int q = RowByte(kGridIq2xs[word & 511], j);
      y[i] = db * static_cast<float>(q * EvenSign(word >> 9, j));
    }
  }
};
static_assert(sizeof(IQ2_XS) == 74);
static_assert(kGridIq2xs.size() == 1 << 9, "an index has 9 bits");

}  // namespace dequant
#endif

HWY_BEFORE_NAMESPACE();
namespace dequant {
namespace HWY_NAMESPACE {

template <>
struct Unpack<IQ2_XS> {
  template <class Sink>
  static constexpr bool kHeadersBetween = HWY_TARGET <= HWY_AVX3;
  struct Header {
    float scale[16];
    RowData signs;
#if DEQUANT_HAS_VBMI
    PackedRows rows;
#else
    uint16_t row[32];
#endif
  };

  HWY_INLINE static void Read(const IQ2_XS& b, float d, Header& h) {
    StoreOddScales<16, 4>(b.scales, d, 0.125f * kRowUnit, h.scale);
    EachOf(kTimes<2>, [&](size_t half) DEQUANT_LAMBDA {
      const U16x8 w0 = Load8Words(b.qs + 32 * half);
      const U16x8 w1 = Load8Words(b.qs + 32 * half + 16);
      StoreSigns(EvenSignsOnTop(w0, w1), half, h.signs);
#if !DEQUANT_HAS_VBMI
      hn::StoreU(LaneField<0, 9, 0>(w0), du16, h.row + 16 * half);
      hn::StoreU(LaneField<0, 9, 0>(w1), du16, h.row + 16 * half + 8);
#endif
    });
#if DEQUANT_HAS_VBMI
    const auto* words = reinterpret_cast<const uint16_t*>(b.qs);
    FindPacked(kPackedIq2xs, hn::LoadU(hn::FixedTag<uint16_t, 32>(), words),
               h.rows);
#endif
  }

  template <class Sink>
  HWY_INLINE static void Do(const IQ2_XS&, const Header& h, Sink& sink) {
#if DEQUANT_HAS_VBMI
    PutPacked<Iq2Codes, 16>(h.rows, h.signs, h.scale, sink);
#else
    const auto index = [&](size_t row)
                           DEQUANT_LAMBDA { return h.row + 4 * row; };
    PutSigned<Iq2Bytes, 16>(kGridIq2xs, index, h.signs, h.scale, sink);
#endif
  }
};

}  // namespace HWY_NAMESPACE
}  // namespace dequant
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dequant {
template const Format& FormatOf<IQ2_XS>();
}  // namespace dequant
#endif
