// IQ2_S: 256 weights in 82 bytes, 2.5625 bits per weight.
//
//   byte 0     d       F16 scale of the scales
//   byte 2     qs      32 bytes, one per row of 8: bits 0-7 of its index
//   byte 34    signs   32 bytes, one per row: a bit for each element
//   byte 66    qh      8 bytes: bits 8-9 of the index of row 4 i + s in bits
//                      2 s of byte i
//   byte 74    scales  8 bytes, one nibble per 16 elements, low ones first
//
//   value = d * (0.5 + scale) * 0.25 * row byte * sign
//
// Source: block_iq2_s in ggml-common.h, dequantize_row_iq2_s in ggml-quants.c.

#include "kernels/grid-inl.h"
#include "kernels/unpack-inl.h"

#ifndef DEQUANT_KERNELS_IQ2_S_CC_
#define DEQUANT_KERNELS_IQ2_S_CC_
namespace dequant {

struct IQ2_S {
  static constexpr char kName[] = "IQ2_S";
  static constexpr int32_t kId = 22;
  static constexpr size_t kElements = 256;
  static constexpr ScaleField kScales[] = {{ScaleField::kF16, 0}};

  uint8_t d[2];
  uint8_t qs[32];
  uint8_t signs[32];
  uint8_t qh[8];
  uint8_t scales[8];

  static void Decode(const IQ2_S& b, float* y) {
    const float d = F16ToF32(b.d);
    for (int i = 0; i < 256; ++i) {
      const int r = i / 8, j = i % 8;
      const int row = b.qs[r] | (b.qh[r / 4] >> (r % 4 * 2) & 3) << 8;
      const int scale = b.scales[i / 32] >> (i / 16 % 2 * 4) & 15;
      const float db = d * (0.5f + static_cast<float>(scale)) * 0.25f;
      const int q = RowByte(kGridIq2s[row], j);
      y[i] = db * static_cast<float>(b.signs[r] >> j & 1 ? -q : q);
    }
  }
};
static_assert(sizeof(IQ2_S) == 82);
static_assert(kGridIq2s.size() == 1 << 10, "an index has 8 + 2 bits");

}  // namespace dequant
#endif

HWY_BEFORE_NAMESPACE();
namespace dequant {
namespace HWY_NAMESPACE {

template <>
struct Unpack<IQ2_S> {
  template <class Sink>
  static constexpr bool kHeadersBetween = HWY_TARGET <= HWY_AVX3;
  struct Header {
    float scale[16];
    [[no_unique_address]] BlockSigns signs;
    uint16_t row[32];
  };

  template <class Sink>
  HWY_INLINE static void Read(const IQ2_S& b, float d, Header& h) {
    StoreOddScales<16, 4>(b.scales, d, 0.125f * kRowUnit * kCodeUnit<Sink>,
                          h.scale);
#if HWY_TARGET <= HWY_AVX3
    StoreIndices(b.qs, b.qh, h.row);
#else
    const U16x8 qh = hn::PromoteLowerTo(du16, Load8Bytes(b.qh));
    StoreIndices(Load16Bytes(b.qs), LowerFields<2>(qh), h.row);
    StoreIndices(Load16Bytes(b.qs + 16), UpperFields<2>(qh), h.row + 16);
#endif
    StoreSigns(b.signs, h.signs);
  }

  template <class Sink>
  HWY_INLINE static void Do(const IQ2_S& b, const Header& h, Sink& sink) {
    const auto index = [&](size_t row)
                           DEQUANT_LAMBDA { return h.row + 4 * row; };
    PutSigned<Iq2Bytes, 16>(kGridIq2s, index, SignsOfBlock(b.signs, h.signs),
                            h.scale, sink);
  }
};

}  // namespace HWY_NAMESPACE
}  // namespace dequant
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dequant {
template const Format& FormatOf<IQ2_S>();
}  // namespace dequant
#endif
