// blocks -> values: the sink of AVX-512, which takes rows of 32 codes.
//
// What it does is what sink-inl.h does. Its look-ups see as many bits of an
// index as the table has entries, so that codes need no mask. Most of its work
// needs one port of the CPU, that of shuffles: widening, packing, masks from
// memory.

#if defined(DEQUANT_KERNELS_SINK_AVX3_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef DEQUANT_KERNELS_SINK_AVX3_INL_H_
#undef DEQUANT_KERNELS_SINK_AVX3_INL_H_
#else
#define DEQUANT_KERNELS_SINK_AVX3_INL_H_
#endif

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "hwy/highway.h"
#include "kernels/codes-inl.h"
#include "kernels/narrow-inl.h"
#include "kernels/scalar.h"

#if HWY_TARGET <= HWY_AVX3
HWY_BEFORE_NAMESPACE();
namespace dequant {
namespace HWY_NAMESPACE {

using RowCodes = hn::Vec<decltype(drow)>;
using SignedRowCodes = hn::Vec<hn::RebindToSigned<decltype(drow)>>;

// Where the codes of a row are, kBits bits each: the byte for both bytes of a
// lane, and the bit in it.
template <int kBits>
struct PackedLanes {
  alignas(64) uint8_t byte[64];
  alignas(64) uint16_t shift[32];
  constexpr PackedLanes() : byte{}, shift{} {
    for (int i = 0; i < 32; ++i) {
      byte[2 * i] = byte[2 * i + 1] = static_cast<uint8_t>(i * kBits / 8);
      shift[i] = static_cast<uint16_t>(i * kBits % 8);
    }
  }
};
template <int kBits>
inline constexpr PackedLanes<kBits> kPackedLanes;

// How eight groups of 2-bit codes, 16 elements each, share a table of 32: the
// code of each lane of its two vectors; and what the elements of four rows add
// to their indices.
struct EightGroups {
  alignas(64) float code[2][16];
  alignas(64) uint16_t of_row[4][32];
  constexpr EightGroups() : code{}, of_row{} {
    for (int i = 0; i < 32; ++i) {
      code[i / 16][i % 16] = static_cast<float>(i / 8);
      for (int row = 0; row < 4; ++row) {
        of_row[row][i] = static_cast<uint16_t>(2 * row + i / 16);
      }
    }
  }
};
inline constexpr EightGroups kEightGroups;

template <typename T>
class Sink {
 public:
  using LookedUpRow = hn::FixedTag<uint8_t, 32>;

  HWY_INLINE explicit Sink(uint8_t* to) : to_(to) {}

  template <class V>
  HWY_INLINE void operator()(V q, float scale) {
    StoreAs<T>(df, Formula(scale)(df, FloatsOf(q)), to_);
    to_ += 16 * sizeof(T);
  }
  HWY_INLINE static RowBytes Bytes(const uint8_t* p) { return {p}; }
  template <class Fn, class... F>
  HWY_INLINE void Row(const Fn& codes, F... scale) {
    PutRow(Signed(codes(drow, size_t{0})), Formula(scale...),
           Formula(scale...));
  }
  template <class... F>
  HWY_INLINE void ByteRow(const int8_t* p, F... scale) {
    const auto value = Formula(scale...);
    if constexpr (kByHalf<T, std::remove_const_t<decltype(value)>>) {
      PutRow(LoadCodes(drow, p), value, value);
    } else {  // widened from memory: half of a vector takes that port too
      PutFloats(FloatsOf(LoadCodes(p)), FloatsOf(LoadCodes(p + 16)), value,
                value);
    }
  }
  template <class Fn>
  HWY_INLINE void Halves(const Fn& codes, const float* scale) {
    Halves(Signed(codes(drow, size_t{0})), scale[0], scale[1]);
  }
  HWY_INLINE void Halves(SignedRowCodes q, float scale0, float scale1) {
    PutRow(q, Formula(scale0), Formula(scale1));
  }

  static constexpr int kEightFrom = 0;
  HWY_INLINE static RowBytes LookedUpBytes(const uint8_t* p) { return {p}; }
  template <class Fn, class Map>
  HWY_INLINE void HalvesOfEight(const Fn& codes, Map map, const float* scale) {
    Halves(map(codes(drow, size_t{0})), scale[0], scale[1]);
  }

  template <class Map, class... F>
  HWY_INLINE void NibbleRow(const uint8_t* p, Map map, F... scale) {
    const auto value = Formula(scale...);
    const auto table = Table(map, value);
    if constexpr (sizeof(T) == 4) {
      PutOf16<0>(LoadCodes(p), table);
      PutOf16<4>(LoadCodes(p), table);
    } else {
      PutRowOf<0>(NibblesOfRow(drow, p, 0), table, value);
    }
  }
  template <int kFrom, class Map, class... F>
  HWY_INLINE void Nibbles(const uint8_t* p, Map map, F... scale) {
    const auto value = Formula(scale...);
    const auto table = Table(map, value);
    if constexpr (sizeof(T) == 4) {
      PutOf16<kFrom>(LoadCodes(p), table);
      PutOf16<kFrom>(LoadCodes(p + 16), table);
    } else {
      PutRowOf<0>(Field<kFrom, 4>(LoadCodes(drow, p)), table, value);
    }
  }

  static constexpr bool kFourValues = true;

  HWY_INLINE void TwoBitRows(const uint8_t* p, const float* scale,
                             const float* offset) {
    if constexpr (sizeof(T) == 4) {
      const Codes bytes0 = LoadCodes(p), bytes1 = LoadCodes(p + 16);
      const auto four = [&](size_t i) DEQUANT_LAMBDA {
        return FourValues(Same(), Formula(scale[i], offset[i]));
      };
      PutTwoBits<0>(bytes0, bytes1, four(0), four(1));
      PutTwoBits<2>(bytes0, bytes1, four(2), four(3));
      PutTwoBits<4>(bytes0, bytes1, four(4), four(5));
      PutTwoBits<6>(bytes0, bytes1, four(6), four(7));
    } else {
      // One table for all eight groups: an index is the code, then three bits
      // for the group.
      const auto load = [](const float* of) HWY_ATTR {
        return Floats{_mm512_broadcast_f32x8(_mm256_loadu_ps(of))};
      };
      const Floats s = load(scale), o = load(offset);
      const auto values = [&](const float* code) DEQUANT_LAMBDA {
        return hn::MulAdd(hn::Load(df, code), s, o);
      };
      const U16x32 table = Narrow2<T>(df, values(kEightGroups.code[0]),
                                      values(kEightGroups.code[1]));
      const U16x32 bytes = hn::PromoteTo(du16, LoadCodes(drow, p));
      PutOfGroups<0>(hn::ShiftLeft<3>(bytes), table);
      PutOfGroups<1>(hn::ShiftLeft<1>(bytes), table);
      PutOfGroups<2>(hn::ShiftRight<1>(bytes), table);
      PutOfGroups<3>(hn::ShiftRight<3>(bytes), table);
    }
  }
  template <int kFrom, class Fn, class Map>
  HWY_INLINE void TwoBitsOfMany(const Fn& bytes, Map map, float scale) {
    if constexpr (sizeof(T) == 4) {
      TwoBitsOfMany<kFrom>(map, scale, bytes(dcodes, size_t{0}),
                           bytes(dcodes, size_t{16}));
    } else {
      TwoBitsOfMany<kFrom>(map, scale, bytes(drow, size_t{0}));
    }
  }
  template <int kFrom, class Map>
  HWY_INLINE void TwoBitsOfMany(Map map, float scale, Codes bytes0,
                                Codes bytes1) {
    if constexpr (sizeof(T) == 4) {
      const auto four = FourValues(map, Formula(scale));
      PutOf4<kFrom>(bytes0, four);
      PutOf4<kFrom>(bytes1, four);
    } else {
      TwoBitsOfMany<kFrom>(map, scale, hn::Combine(drow, bytes1, bytes0));
    }
  }
  template <int kFrom, class Map>
  HWY_INLINE void TwoBitsOfMany(Map map, float scale, RowCodes bytes) {
    if constexpr (sizeof(T) == 4) {
      TwoBitsOfMany<kFrom>(map, scale, hn::LowerHalf(dcodes, bytes),
                           hn::UpperHalf(dcodes, bytes));
    } else {
      const auto value = Formula(scale);
      PutRowOf<kFrom>(bytes, TableOfFour(map, value), value);
    }
  }

  template <int kBits, class Map, class... F>
  HWY_INLINE void PackedRow(const uint8_t* p, Map map, F... scale) {
    const auto value = Formula(scale...);
    if constexpr (sizeof(T) == 4) {
      const hn::FixedTag<uint32_t, 16> du;
      const auto four = FourValues(map, value);
      EachOf(kTimes<2>, [&](size_t half) DEQUANT_LAMBDA {
        // 16 codes are in the lower or the upper half of 32 bits, or in all.
        const auto all = hn::Set(du, Load32(p + (kBits - 1) * 4 * half));
        const uint32_t* shift =
            kShifts<kBits>.of + (kBits == 1 ? 16 * half : 0);
        PutIndex4(hn::Shr(all, hn::LoadU(du, shift)), four);
      });
    } else {
      // Each code's byte to its 16-bit lane, and its bits to the bottom.
      const hn::FixedTag<uint8_t, 64> d;
      const hn::Repartition<uint64_t, decltype(d)> du64;
      const hn::Repartition<uint16_t, decltype(d)> du16;
      const auto all =
          hn::BitCast(d, hn::Set(du64, kBits == 1 ? Load32(p) : Load64(p)));
      const auto lanes = hn::BitCast(
          du16,
          hn::TableLookupBytes(all, hn::Load(d, kPackedLanes<kBits>.byte)));
      PutIndices(hn::Shr(lanes, hn::Load(du16, kPackedLanes<kBits>.shift)),
                 TableOfFour(map, value), value);
    }
  }

 private:
  static constexpr hn::FixedTag<float, 16> df{};
  static constexpr hn::FixedTag<uint32_t, 16> du32{};
  static constexpr hn::FixedTag<uint16_t, 32> du16{};
  using Floats = hn::Vec<hn::FixedTag<float, 16>>;
  using U32x16 = hn::Vec<hn::FixedTag<uint32_t, 16>>;
  using U16x32 = hn::Vec<hn::FixedTag<uint16_t, 32>>;

  template <class V>
  HWY_INLINE static Floats FloatsOf(V q) {
    const hn::RebindToSigned<decltype(df)> di;
    return hn::ConvertTo(df, hn::PromoteTo(di, hn::BitCast(di8, q)));
  }

  template <class Value0, class Value1>
  HWY_INLINE void PutRow(SignedRowCodes q, Value0 value0, Value1 value1) {
    if constexpr (kByHalf<T, Value0>) {
      const hn::FixedTag<hwy::float16_t, 32> dh;
      const auto wide = hn::PromoteTo(hn::RebindToSigned<decltype(dh)>(), q);
      StoreRow(value0.OfCodes(dh, wide));
    } else {
      PutFloats(FloatsOf(hn::LowerHalf(di8, q)),
                FloatsOf(hn::UpperHalf(di8, q)), value0, value1);
    }
  }
  template <class Value0, class Value1>
  HWY_INLINE void PutFloats(Floats lo, Floats hi, Value0 value0,
                            Value1 value1) {
    StoreAs2<T>(df, value0(df, lo), value1(df, hi), to_);
    to_ += 32 * sizeof(T);
  }

  // The values of 0 to 3, in every four lanes.
  template <class Map, class Value>
  HWY_INLINE static Floats FourValues(Map map, Value value) {
    return value(df, FloatsOf(map(LoadCodes(kFour))));
  }
  // A row whose codes are in bits 3 and 4.
  template <int kRow>
  HWY_INLINE void PutOfGroups(U16x32 codes, U16x32 table) {
    const auto groups = hn::Load(du16, kEightGroups.of_row[kRow]);
    const auto index = hn::OrAnd(groups, codes, hn::Set(du16, 3 << 3));
    StoreRow(U16x32{_mm512_permutexvar_epi16(index.raw, table.raw)});
  }
  template <int kFrom>
  HWY_INLINE void PutTwoBits(Codes bytes0, Codes bytes1, Floats four0,
                             Floats four1) {
    PutOf4<kFrom>(bytes0, four0);
    PutOf4<kFrom>(bytes1, four1);
  }
  template <int kFrom>
  HWY_INLINE void PutOf4(Codes bytes, Floats four) {
    PutIndex4(hn::ShiftRight<kFrom>(hn::PromoteTo(du32, bytes)), four);
  }
  HWY_INLINE void PutIndex4(U32x16 index, Floats four) {
    StoreFloats(Floats{_mm512_permutevar_ps(four.raw, index.raw)});
  }

  // 16 codes as T, in half a vector; by a half, if so, when they are stored.
  template <class Value>
  HWY_INLINE static auto Narrowed(Floats q, Value value) {
    if constexpr (kByHalf<T, Value>) {
      return Narrow<T>(df, q);
    } else {
      return Narrow<T>(df, value(df, q));
    }
  }
  // What `map` makes of 0 to 15 as T. Of 16 bits, the upper half is anything.
  template <class Map, class Value>
  HWY_INLINE static auto Table(Map map, Value value) {
    const Floats q = FloatsOf(map(LoadCodes(kAllCodes)));
    if constexpr (sizeof(T) == 4) {
      return value(df, q);
    } else {
      return hn::ResizeBitCast(du16, Narrowed(q, value));
    }
  }
  // What it makes of 0 to 3, eight times.
  template <class Map, class Value>
  HWY_INLINE static U16x32 TableOfFour(Map map, Value value) {
    const auto four = Narrowed(FloatsOf(map(LoadCodes(kFour))), value);
    return hn::Combine(du16, four, four);
  }
  template <int kFrom>
  HWY_INLINE void PutOf16(Codes bytes, Floats table) {
    const auto index = hn::ShiftRight<kFrom>(hn::PromoteTo(du32, bytes));
    StoreFloats(Floats{_mm512_permutexvar_ps(index.raw, table.raw)});
  }
  template <int kFrom, class Value>
  HWY_INLINE void PutRowOf(RowCodes bytes, U16x32 table, Value value) {
    PutIndices(hn::ShiftRight<kFrom>(hn::PromoteTo(du16, bytes)), table, value);
  }
  template <class Value>
  HWY_INLINE void PutIndices(U16x32 index, U16x32 table, Value value) {
    const U16x32 v{_mm512_permutexvar_epi16(index.raw, table.raw)};
    if constexpr (kByHalf<T, Value>) {
      const hn::FixedTag<hwy::float16_t, 32> dh;
      StoreRow(value.TimesHalf(dh, hn::BitCast(dh, v)));
    } else {
      StoreRow(v);
    }
  }

  HWY_INLINE void StoreFloats(Floats v) {
    hn::StoreU(v, df, reinterpret_cast<float*>(to_));
    to_ += 64;
  }
  // 32 elements of 16 bits.
  template <class V>
  HWY_INLINE void StoreRow(V v) {
    hn::StoreU(hn::BitCast(du16, v), du16, reinterpret_cast<uint16_t*>(to_));
    to_ += 64;
  }

  uint8_t* to_;
};

}  // namespace HWY_NAMESPACE
}  // namespace dequant
HWY_AFTER_NAMESPACE();
#endif  // HWY_TARGET

#endif  // per-target include guard
