// Q3_K: 256 weights in 110 bytes, 3.4375 bits per weight.
//
//   byte 0     hmask   32 bytes; bit r of byte i is bit 2 of element 32 r + i
//   byte 32    qs      64 bytes, 2 bits per element; each half of the 256 takes
//                      32 bytes: its element 32 s + i is bits 2 s of byte i
//   byte 96    scales  16 scales of 6 bits: the low nibbles of scales 0-7 are
//                      the low, of 8-15 the high nibbles of bytes 0-7; bits
//                      4-5 of scale 4 k + j are bits 2 k of byte 8 + j
//   byte 108   d       F16 scale of the scales
//
//   value = d * (scale - 32) * (q - 4), q = 0..7
//
// Source: block_q3_K in ggml-common.h, dequantize_row_q3_K in ggml-quants.c.

#include "kernels/unpack-inl.h"

#ifndef DEQUANT_KERNELS_Q3_K_CC_
#define DEQUANT_KERNELS_Q3_K_CC_
namespace dequant {

struct Q3_K {
  static constexpr char kName[] = "Q3_K";
  static constexpr int32_t kId = 11;
  static constexpr size_t kElements = 256;
  static constexpr ScaleField kScales[] = {{ScaleField::kF16, 108}};

  uint8_t hmask[32];
  uint8_t qs[64];
  uint8_t scales[12];
  uint8_t d[2];

  static void Decode(const Q3_K& b, float* y) {
    const float d = F16ToF32(b.d);
    for (int i = 0; i < 256; ++i) {
      const int s = i / 16;
      const int low = s < 8 ? b.scales[s] & 15 : b.scales[s - 8] >> 4;
      const int scale = low | (b.scales[8 + s % 4] >> (s / 4 * 2) & 3) << 4;
      const int q = (b.qs[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3) |
                    (b.hmask[i % 32] >> (i / 32) & 1) << 2;
      y[i] = d * static_cast<float>(scale - 32) * static_cast<float>(q - 4);
    }
  }
};
static_assert(sizeof(Q3_K) == 110);

}  // namespace dequant
#endif

HWY_BEFORE_NAMESPACE();
namespace dequant {
namespace HWY_NAMESPACE {

template <>
struct Unpack<Q3_K> {
  template <class Sink>
  static constexpr bool kHeadersBetween = HWY_TARGET <= HWY_AVX3;
  template <class Sink>
  static constexpr bool kCodesFirst = Sink::kCodesFirst && !Sink::kGroupTables;

  struct Header {
    float scale[16];
    [[no_unique_address]] StoredCodes<8> codes;
  };

  template <class Sink>
  HWY_INLINE static void Read(const Q3_K& b, float d, Header& h) {
    Scales16(ScaleCodes(b.scales), d, h.scale);
    if constexpr (kCodesFirst<Sink>) {
      const auto codes = [&](auto r) DEQUANT_LAMBDA {
        return Codes<r()>(RowBytes{b.qs + r / 4 * 32}, RowBytes{b.hmask});
      };
      StoreRows<Sink>(codes, h.codes);
    }
  }

  template <class Sink>
  HWY_INLINE static void Do(const Q3_K& b, const Header& h, Sink& sink) {
    if constexpr (kCodesFirst<Sink>) {
      const auto value = [&](size_t r, size_t half) DEQUANT_LAMBDA {
        return Formula(h.scale[2 * r + half]);
      };
      PutStoredRows(h.codes, value, sink);
    } else {
      const auto hmask = sink.LookedUpBytes(b.hmask);
      const auto lower = sink.LookedUpBytes(b.qs);
      const auto upper = sink.LookedUpBytes(b.qs + 32);
      const auto qs = [&](auto row) DEQUANT_LAMBDA {
        if constexpr (row < 4) return lower;
        return upper;
      };
      if constexpr (Sink::kTwoRows) {
        ForEach(kTimes<4>, [&](auto i) DEQUANT_LAMBDA {
          TwoRows<2 * i()>(qs(kTimes<2 * i()>), hmask, h.scale, sink);
        });
      } else {
#if HWY_TARGET == HWY_AVX2
        const InNibbles rows[2] = {
            InNibbles(lower.bytes, LowNibbles(hmask.bytes)),
            InNibbles(upper.bytes, HighNibbles(hmask.bytes))};
        const auto codes = [&](auto r) DEQUANT_LAMBDA {
          return [&](auto, size_t) DEQUANT_LAMBDA {
            return rows[r / 4].template Row<r % 4>();
          };
        };
#else
        const auto codes = [&](auto r) DEQUANT_LAMBDA {
          return RowCodes<r(), Sink>(qs(r), hmask);
        };
#endif
        sink.template RowsOfEight<Minus4, 8>(codes, h.scale);
      }
    }
  }

  // The 16 scales, 6 bits each, less 32. Not through memory: a load from
  // several stores would wait for all stores before.
  HWY_INLINE static I8x16 ScaleCodes(const uint8_t* s) {
#if DEQUANT_HAS_VBMI
    alignas(16) static constexpr uint8_t kLowBits[16] = {
        0, 8, 16, 24, 32, 40, 48, 56, 4, 12, 20, 28, 36, 44, 52, 60};
    alignas(16) static constexpr uint8_t kHighBits[16] = {
        0, 8, 16, 24, 2, 10, 18, 26, 4, 12, 20, 28, 6, 14, 22, 30};
    const hn::Repartition<uint64_t, decltype(du8)> du64;
    const hn::Repartition<uint32_t, decltype(du8)> du32x4;
    const U8x16 low = hn::BitCast(du8, hn::Set(du64, Load64(s)));
    const U8x16 high = hn::BitCast(du8, hn::Set(du32x4, Load32(s + 8)));
    return SixBitCodes(low, kLowBits, high, kHighBits);
#else
    const hn::Repartition<uint32_t, decltype(di8)> du32;
    const hn::Repartition<uint64_t, decltype(di8)> du64;
    alignas(16) static constexpr uint32_t kLowFrom[4] = {0, 0, 4, 4};
    alignas(16) static constexpr uint32_t kHighFrom[4] = {0, 2, 4, 6};
    const auto low = hn::Shr(hn::BitCast(du32, hn::Set(du64, Load64(s))),
                             hn::Load(du32, kLowFrom));
    const auto high =
        hn::Shr(hn::Set(du32, Load32(s + 8)), hn::Load(du32, kHighFrom));
    const auto codes =
        hn::Or(hn::And(low, hn::Set(du32, 0x0F0F0F0F)),
               hn::ShiftLeft<4>(hn::And(high, hn::Set(du32, 0x03030303))));
    return hn::Sub(hn::BitCast(di8, codes), hn::Set(di8, 32));
#endif
  }

  struct Minus4 {
    static constexpr float kOf[8] = {-4 / kUnit, -3 / kUnit, -2 / kUnit,
                                     -1 / kUnit, 0,          1 / kUnit,
                                     2 / kUnit,  3 / kUnit};
    static constexpr uint8_t kInAll = 0;
  };

#if HWY_TARGET == HWY_AVX2
  // The codes of four rows, two in a byte, in bits 0 to 2 and 4 to 6. Bit 2 of
  // row r is bit r of `upper`; a look-up puts two of its bits in their place.
  struct InNibbles {
    using V = hn::Vec<decltype(dcodes)>;
    V even, odd;

    HWY_INLINE InNibbles(V qs, V upper) {
      alignas(16) static constexpr uint8_t kEven[16] = {
          0x00, 0x04, 0x00, 0x04, 0x40, 0x44, 0x40, 0x44,
          0x00, 0x04, 0x00, 0x04, 0x40, 0x44, 0x40, 0x44};
      alignas(16) static constexpr uint8_t kOdd[16] = {
          0x00, 0x00, 0x04, 0x04, 0x00, 0x00, 0x04, 0x04,
          0x40, 0x40, 0x44, 0x44, 0x40, 0x40, 0x44, 0x44};
      even = hn::Or(TwoFields<0, 4, 2, 0, 4>(qs),
                    hn::TableLookupBytes(LoadCodes(kEven), upper));
      odd = hn::Or(TwoFields<2, 6, 2, 0, 4>(qs),
                   hn::TableLookupBytes(LoadCodes(kOdd), upper));
    }
    // With bits of other codes from bit 4 on, but none in bit 7.
    template <size_t r>
    HWY_INLINE V Row() const {
      return Shifted<r / 2 * 4>(r % 2 == 0 ? even : odd);
    }
  };
#endif

  // Elements 32 kRow to 32 kRow + 63 of the super-block.
  template <int kRow, class Bytes, class Sink>
  HWY_INLINE static void TwoRows(Bytes qs, Bytes hmask, const float* scale,
                                 Sink& sink) {
    constexpr int kFrom = kRow % 4 * 2;
    const auto codes = [&](auto tag, size_t i) DEQUANT_LAMBDA {
      return hn::Or(TwoFields<kFrom, kFrom + 2, 2, 1, 5>(qs(tag, i)),
                    TwoFields<kRow, kRow + 1, 1, 3, 7>(hmask(tag, i)));
    };
    sink.template TwoRowsOfEight<Minus4>(codes, scale + 2 * kRow);
  }
  // Elements 32 kRow to 32 kRow + 31.
  template <int kRow, class Sink, class Bytes>
  HWY_INLINE static auto RowCodes(Bytes qs, Bytes hmask) {
    if constexpr (Sink::kGroupTables) {
      return [qs, hmask](auto tag, size_t i) DEQUANT_LAMBDA {
        return hn::Or(Field<kRow % 4 * 2, 2>(qs(tag, i)),
                      Field<kRow, 1, 2>(hmask(tag, i)));
      };
    } else {
      return Codes<kRow>(qs, hmask);
    }
  }
  template <int kRow, class Bytes>
  HWY_INLINE static auto Codes(Bytes qs, Bytes hmask) {
    return [qs, hmask](auto tag, size_t i) DEQUANT_LAMBDA {
      return Signed(hn::Or(Field<kRow % 4 * 2, 2>(qs(tag, i)),
                           CenteredField<kRow, 1, 2>(hmask(tag, i))));
    };
  }
};

}  // namespace HWY_NAMESPACE
}  // namespace dequant
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dequant {
template const Format& FormatOf<Q3_K>();
}  // namespace dequant
#endif
