// IQ3_S: 256 weights in 110 bytes, 3.4375 bits per weight.
//
//   byte 0     d       F16 scale of the scales
//   byte 2     qs      64 bytes, one per row of 4: bits 0-7 of its index
//   byte 66    qh      8 bytes, one bit per row: bit 8 of its index
//   byte 74    signs   32 bytes, one bit per element
//   byte 106   scales  4 bytes, one nibble per 32 elements, low ones first
//
//   value = d * (1 + 2 * scale) * row byte * sign
//
// Source: block_iq3_s in ggml-common.h, dequantize_row_iq3_s in ggml-quants.c.

#include "kernels/grid-inl.h"
#include "kernels/unpack-inl.h"

#ifndef DEQUANT_KERNELS_IQ3_S_CC_
#define DEQUANT_KERNELS_IQ3_S_CC_
namespace dequant {

struct IQ3_S {
  static constexpr char kName[] = "IQ3_S";
  static constexpr int32_t kId = 21;
  static constexpr size_t kElements = 256;
  static constexpr ScaleField kScales[] = {{ScaleField::kF16, 0}};

  uint8_t d[2];
  uint8_t qs[64];
  uint8_t qh[8];
  uint8_t signs[32];
  uint8_t scales[4];

  static void Decode(const IQ3_S& b, float* y) {
    const float d = F16ToF32(b.d);
    for (int i = 0; i < 256; ++i) {
      const int r = i / 4;
      const int row = b.qs[r] | (b.qh[r / 8] >> (r % 8) & 1) << 8;
      const int scale = b.scales[i / 64] >> (i / 32 % 2 * 4) & 15;
      const int q = RowByte(kGridIq3s[row], i % 4);
      y[i] = d * static_cast<float>(1 + 2 * scale) *
             static_cast<float>(b.signs[i / 8] >> (i % 8) & 1 ? -q : q);
    }
  }
};
static_assert(sizeof(IQ3_S) == 110);
static_assert(kGridIq3s.size() == 1 << 9, "an index has 8 + 1 bits");

}  // namespace dequant
#endif

HWY_BEFORE_NAMESPACE();
namespace dequant {
namespace HWY_NAMESPACE {

template <>
struct Unpack<IQ3_S> {
  struct Header {
    float scale[16];  // of which eight are wanted
    [[no_unique_address]] BlockSigns signs;
#if DEQUANT_HAS_VBMI
    FoundRows rows;
#else
    uint16_t row[64];
#endif
  };

  template <class Sink>
  HWY_INLINE static void Read(const IQ3_S& b, float d, Header& h) {
#if DEQUANT_HAS_VBMI
    const auto value = [&]<int kFrom>(auto q) DEQUANT_LAMBDA {
      // 2 code, or 2 code + 1
      return BitsOf<FieldMatrix(kFrom, 3, 1, 3), !Sink::kGroupTables>(q);
    };
    FindRows(kPairsIq3s, b.qs, b.qh, value, h.rows);
#else
    const U8x16 qh = Load8Bytes(b.qh);
    EachOf(kTimes<4>, [&](size_t i) DEQUANT_LAMBDA {
      const U8x16 high = hn::IfThenElseZero(GroupBits(qh, i), hn::Set(du8, 1));
      StoreIndices(Load16Bytes(b.qs + 16 * i), high, h.row + 16 * i);
    });
#endif
    StoreOddScales<8, 4>(b.scales, d, kCodeUnit<Sink>, h.scale);
    StoreSigns(b.signs, h.signs);
  }

  template <class Sink>
  HWY_INLINE static void Do(const IQ3_S& b, const Header& h, Sink& sink) {
#if DEQUANT_HAS_VBMI
    PutSigned<Iq3sBytes, 32>(h.rows, SignsOfBlock(b.signs, h.signs), h.scale,
                             sink);
#else
    const auto index = [&](size_t row)
                           DEQUANT_LAMBDA { return h.row + 8 * row; };
    PutSigned<Iq3sBytes, 32>(kGridIq3s, index, SignsOfBlock(b.signs, h.signs),
                             h.scale, sink);
#endif
  }
};

}  // namespace HWY_NAMESPACE
}  // namespace dequant
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dequant {
template const Format& FormatOf<IQ3_S>();
}  // namespace dequant
#endif
