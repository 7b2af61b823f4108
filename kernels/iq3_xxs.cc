// IQ3_XXS: 256 weights in 98 bytes, 3.0625 bits per weight.
//
//   byte 0     d      F16 scale of the scales
//   byte 2     qs     64 bytes, one per row of 4: its index
//   byte 66    words  8 words, one per 32 elements: 7 sign bits for each 8 of
//                     them, the first lowest, and above those the scale, 4 bits
//
//   value = d * (0.5 + scale) * 0.5 * row byte * sign
//
// The eighth sign of 8 elements makes the number of their minus signs even.
// Source: block_iq3_xxs in ggml-common.h, dequantize_row_iq3_xxs in
// ggml-quants.c.

#include "kernels/grid-inl.h"
#include "kernels/unpack-inl.h"

#ifndef DEQUANT_KERNELS_IQ3_XXS_CC_
#define DEQUANT_KERNELS_IQ3_XXS_CC_
namespace dequant {

struct IQ3_XXS {
  static constexpr char kName[] = "IQ3_XXS";
  static constexpr int32_t kId = 18;
  static constexpr size_t kElements = 256;
  static constexpr ScaleField kScales[] = {{ScaleField::kF16, 0}};

  uint8_t d[2];
  uint8_t qs[64];
  uint8_t words[32];

  static void Decode(const IQ3_XXS& b, float* y) {
    const float d = F16ToF32(b.d);
    for (int i = 0; i < 256; ++i) {
      const uint32_t word = Load32(b.words + 4 * (i / 32));
      const float db = d * (0.5f + static_cast<float>(word >> 28)) * 0.5f;
      const int q = RowByte(kGridIq3xxs[b.qs[i / 4]], i % 4);
      const int sign = EvenSign(word >> (i % 32 / 8 * 7), i % 8);
      y[i] = db * static_cast<float>(q * sign);
    }
  }
};
static_assert(sizeof(IQ3_XXS) == 98);
static_assert(kGridIq3xxs.size() == 1 << 8, "an index is a byte");

}  // namespace dequant
#endif

HWY_BEFORE_NAMESPACE();
namespace dequant {
namespace HWY_NAMESPACE {

template <>
struct Unpack<IQ3_XXS> {
  struct Header {
    float scale[8];
    RowData signs;
#if DEQUANT_HAS_VBMI
    FoundRows rows;
#endif
  };

  template <class Sink>
  HWY_INLINE static void Read(const IQ3_XXS& b, float d, Header& h) {
    EachOf(kTimes<8 / kWords>, [&](size_t i) DEQUANT_LAMBDA {
      const Words words = LoadWords(b.words + 4 * kWords * i);
      StoreSigns(EvenSigns(SignFields(words)), i, h.signs);
      StoreScales((WordScales<4, 28>(words, d, 0.25f * kCodeUnit<Sink>)),
                  h.scale + kWords * i);
    });
#if DEQUANT_HAS_VBMI
    const auto value = [&]<int kFrom>(auto q) DEQUANT_LAMBDA {
      alignas(16) static constexpr uint8_t kValues[16] = {4,  12, 20, 28,
                                                          36, 44, 52, 62};
      if constexpr (Sink::kGroupTables) {
        return Field<kFrom, 3, 1>(q);
      } else {
        const hn::DFromV<decltype(q)> d;
        return hn::TableLookupBytes(hn::LoadDup128(d, kValues),
                                    Field<kFrom, 4>(q));
      }
    };
    FindRows(kPairsIq3xxs, b.qs, nullptr, value, h.rows);
#endif
  }

  template <class Sink>
  HWY_INLINE static void Do(const IQ3_XXS& b, const Header& h, Sink& sink) {
#if DEQUANT_HAS_VBMI
    PutSigned<Iq3xxsBytes, 32>(h.rows, h.signs, h.scale, sink);
#else
    const auto index = [&](size_t row)
                           DEQUANT_LAMBDA { return b.qs + 8 * row; };
    PutSigned<Iq3xxsBytes, 32>(kGridIq3xxs, index, h.signs, h.scale, sink);
#endif
  }
};

}  // namespace HWY_NAMESPACE
}  // namespace dequant
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dequant {
template const Format& FormatOf<IQ3_XXS>();
}  // namespace dequant
#endif
