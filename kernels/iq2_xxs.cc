// IQ2_XXS: 256 weights in 66 bytes, 2.0625 bits per weight.
//
//   byte 0     d   F16 scale of the scales
//   byte 2     qs  8 bytes per 32 elements: the indices of four rows of 8, then
//                  a word with 7 sign bits for each of them, the first lowest,
//                  and above those the scale, 4 bits
//
//   value = d * (0.5 + scale) * 0.25 * row byte * sign
//
// A row's eighth sign makes the number of its minus signs even.
// Source: block_iq2_xxs in ggml-common.h, dequantize_row_iq2_xxs in
// ggml-quants.c.

#include "kernels/grid-inl.h"
#include "kernels/unpack-inl.h"

#ifndef DEQUANT_KERNELS_IQ2_XXS_CC_
#define DEQUANT_KERNELS_IQ2_XXS_CC_
namespace dequant {

struct IQ2_XXS {
  static constexpr char kName[] = "IQ2_XXS";
  static constexpr int32_t kId = 16;
  static constexpr size_t kElements = 256;
  static constexpr ScaleField kScales[] = {{ScaleField::kF16, 0}};

  uint8_t d[2];
  uint8_t qs[64];

  static void Decode(const IQ2_XXS& b, float* y) {
    const float d = F16ToF32(b.d);
    for (int i = 0; i < 256; ++i) {
      const uint8_t* qs = b.qs + 8 * (i / 32);
      const uint32_t word = Load32(qs + 4);
      const int row = i % 32 / 8, j = i % 8;
      const float db = d * (0.5f + static_cast<float>(word >> 28)) * 0.25f;
      const int q = RowByte(kGridIq2xxs[qs[row]], j);
      y[i] = db * static_cast<float>(q * EvenSign(word >> (7 * row), j));
    }
  }
};
static_assert(sizeof(IQ2_XXS) == 66);
static_assert(kGridIq2xxs.size() == 1 << 8, "an index is a byte");

}  // namespace dequant
#endif

HWY_BEFORE_NAMESPACE();
namespace dequant {
namespace HWY_NAMESPACE {

template <>
struct Unpack<IQ2_XXS> {
  template <class Sink>
  static constexpr bool kHeadersBetween = Sink::kGroupTables &&
                                          (HWY_TARGET <= HWY_AVX3);
  struct Header {
    union {
      float scale[8];
      uint16_t four[32];  // what the codes of each group stand for
    };
    RowData signs;
#if DEQUANT_HAS_VBMI
    PackedRows rows;
#endif
  };

  template <class Sink>
  HWY_INLINE static void Read(const IQ2_XXS& b, float d, Header& h) {
    EachOf(kTimes<8 / kWords>, [&](size_t i) DEQUANT_LAMBDA {
      const uint8_t* qs = b.qs + 8 * kWords * i;
      const Words words =
          hn::ConcatOdd(dwords, LoadWords(qs + 4 * kWords), LoadWords(qs));
      StoreSigns(EvenSigns(SignFields(words)), i, h.signs);
      const auto scales = WordScales<4, 28>(words, d, 0.125f * kRowUnit);
#if DEQUANT_HAS_VBMI
      if constexpr (Sink::kGroupTables) {
        return Sink::template StoreFours<Iq2Codes>(scales, h.four);
      }
#endif
      StoreScales(scales, h.scale + kWords * i);
    });
#if DEQUANT_HAS_VBMI
    // The lower four of each eight bytes.
    const hn::FixedTag<uint64_t, 8> d64;
    const hn::Rebind<uint32_t, decltype(d64)> d32;
    const auto all = hn::LoadU(d64, reinterpret_cast<const uint64_t*>(b.qs));
    const auto index = hn::BitCast(drow, hn::TruncateTo(d32, all));
    FindPacked(kPackedIq2xxs,
               hn::PromoteTo(hn::FixedTag<uint16_t, 32>(), index), h.rows);
#endif
  }

  template <class Sink>
  HWY_INLINE static void Do([[maybe_unused]] const IQ2_XXS& b, const Header& h,
                            Sink& sink) {
#if DEQUANT_HAS_VBMI
    if constexpr (Sink::kGroupTables) {
      EachOf(kTimes<8>, [&](size_t i) DEQUANT_LAMBDA {
        sink.PutOfFour(PackedCodes<0>(h.rows.of[i]), SignsOf(h.signs, i),
                       h.four + 4 * i);
      });
    } else {
      PutPacked<Iq2Codes, 32>(h.rows, h.signs, h.scale, sink);
    }
#else
    const auto index = [&](size_t row)
                           DEQUANT_LAMBDA { return b.qs + 8 * row; };
    PutSigned<Iq2Bytes, 32>(kGridIq2xxs, index, h.signs, h.scale, sink);
#endif
  }
};

}  // namespace HWY_NAMESPACE
}  // namespace dequant
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dequant {
template const Format& FormatOf<IQ2_XXS>();
}  // namespace dequant
#endif
