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
  static constexpr bool kHeadersBetween = Sink::kGroupTables &&
                                          (HWY_TARGET <= HWY_AVX3);
  struct Header {
    float scale[16];
    RowData delta;  // offsets, or signs, or Iq1Flips
    uint16_t row[32];
  };

  // Whether the sink gets rows with an offset of 1, and signs. The grid then
  // has 12 bits, of which delta is the upper one.
#if HWY_TARGET <= HWY_AVX3
  template <class Sink>
  static constexpr bool kPacked = Sink::kGroupTables;
#else
  template <class Sink>
  static constexpr bool kPacked = false;
#endif

  template <class Sink>
  HWY_INLINE static void Read(const IQ1_M& b, float d, Header& h) {
    StoreOddScales<16, 3>(b.scales, d, 0.125f * kRowUnit * kCodeUnit<Sink>,
                          h.scale);
    const U8x16 qh = Load16Bytes(b.qh);
    const U8x16 low = LowNibbles(qh), high = HighNibbles(qh);
    ReadHalf<Sink>(b.qs, hn::InterleaveLower(du8, low, high), 0, h);
    ReadHalf<Sink>(b.qs + 16, hn::InterleaveUpper(du8, low, high), 1, h);
  }

  // 16 rows; qh is a nibble of each.
  template <class Sink>
  HWY_INLINE static void ReadHalf(const uint8_t* qs, U8x16 qh, size_t half,
                                  Header& h) {
    if constexpr (kPacked<Sink>) {
      StoreIndices(Load16Bytes(qs), qh, h.row + 16 * half);
      const auto minus = hn::TestBit(qh, hn::Set(du8, 8));
      StoreSigns(hn::VecFromMask(du8, minus), half, h.delta);
    } else {
      StoreIndices(Load16Bytes(qs), Field<0, 3>(qh), h.row + 16 * half);
      if constexpr (Sink::kGroupTables) {
        StoreOffsets(Iq1Flips(qh), half, h.delta);
      } else {
        const U8x16 delta = hn::Sub(hn::Set(du8, 1), Field<3, 1, 1>(qh));
        StoreOffsets(Signed(delta), half, h.delta);
      }
    }
  }

  template <class Sink>
  HWY_INLINE static void Do(const IQ1_M&, const Header& h, Sink& sink) {
#if HWY_TARGET <= HWY_AVX3
    if constexpr (kPacked<Sink>) {
      PackedRows rows;
      PackRows(kPackedIq1, h.row, rows);
      PutPacked<Iq1Plus1, 16>(rows, h.delta, h.scale, sink);
      return;
    }
#endif
    PutOffset<16>(h.row, h.delta, h.scale, sink);
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
