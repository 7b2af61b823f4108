// blocks -> values: the sink of AVX2, which takes rows of 32 codes in turn.
//
// What it does is what sink-inl.h does. Loads count: CPUs do one or two of 256
// bits in a cycle, and a store in the same one.

#if defined(DEQUANT_KERNELS_SINK_AVX2_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef DEQUANT_KERNELS_SINK_AVX2_INL_H_
#undef DEQUANT_KERNELS_SINK_AVX2_INL_H_
#else
#define DEQUANT_KERNELS_SINK_AVX2_INL_H_
#endif

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "hwy/highway.h"
#include "kernels/codes-inl.h"
#include "kernels/narrow-inl.h"
#include "kernels/scalar.h"

#if HWY_TARGET == HWY_AVX2
HWY_BEFORE_NAMESPACE();
namespace dequant {
namespace HWY_NAMESPACE {

// Codes, which are below 128, and SignedCodes have a scale times kUnit.
template <typename T>
class Sink {
  static constexpr bool kIsBf16 = std::is_same_v<T, hwy::bfloat16_t>;

 public:
  // The order of rows that are computed: F32 is widened eight by eight; BF16
  // those at even and those at odd places of 16.
  using ComputedRow = RowTag<kIsBf16 ? 8 : 4>;
  // And of rows that are looked up.
  using LookedUpRow = RowTag<sizeof(T) == 2 ? 8 : 4>;

  HWY_INLINE explicit Sink(uint8_t* to) : to_(to) {}
  template <class V>
  HWY_INLINE void operator()(V q, float scale) {
    Widened(WidenTo<0, 1, 3>(q), WidenTo<8, 1, 3>(q), scale);
  }
  // Sixteen codes that have their own scale, not times kUnit.
  HWY_INLINE void operator()(I8x16 q, float scale) {
    const hn::Half<decltype(di8)> dhalf;
    Widened(hn::PromoteTo(di, hn::LowerHalf(dhalf, q)),
            hn::PromoteTo(di, hn::UpperHalf(dhalf, q)), scale);
  }
  // A group as two vectors of integers.
  template <class V>
  HWY_INLINE void Widened(V lo, V hi, float scale) {
    const Floats f0 = Value(lo), f1 = Value(hi);
    const Scaled value{scale};
    StoreAs2<T>(df, value(df, f0), value(df, f1), to_);
    to_ += 16 * sizeof(T);
  }

  HWY_INLINE static RowBytesInTurn<ComputedRow> Bytes(const uint8_t* p) {
    return RowBytesInTurn<ComputedRow>(p);
  }
  template <class Fn, class... F>
  HWY_INLINE void Row(const Fn& codes, F... scale) {
    PutRow(codes(ComputedRow(), size_t{0}), Formula(scale...),
           Formula(scale...));
  }
  template <class... F>
  HWY_INLINE void ByteRow(const int8_t* p, F... scale) {
    PutPair(LoadCodes(p), LoadCodes(p + 16), Formula(scale...));
  }
  template <class Fn>
  HWY_INLINE void Halves(const Fn& codes, const float* scale) {
    PutRow(codes(ComputedRow(), size_t{0}), Formula(scale[0]),
           Formula(scale[1]));
  }

  template <class Map, class... F>
  HWY_INLINE void NibbleRow(const uint8_t* p, Map map, F... scale) {
    if constexpr (kIsBf16) {
      PutFromTable(NibblesOfRow(RowTag<8>(), p, 0), map, Formula(scale...));
    } else {
      const Codes bytes = LoadCodes(p);
      PutPair(map(LowNibbles(bytes)), map(HighNibbles(bytes)),
              Formula(scale...));
    }
  }
  template <int kFrom, class Map, class... F>
  HWY_INLINE void Nibbles(const uint8_t* p, Map map, F... scale) {
    if constexpr (kIsBf16) {
      PutFromTable(Field<kFrom, 4>(LoadCodes(RowTag<8>(), p)), map,
                   Formula(scale...));
    } else {
      PutPair(map(Field<kFrom, 4>(LoadCodes(p))),
              map(Field<kFrom, 4>(LoadCodes(p + 16))), Formula(scale...));
    }
  }

  static constexpr bool kFourValues = std::is_same_v<T, float>;

  template <int kFrom, class Fn, class Map>
  HWY_INLINE void TwoBits(const Fn& bytes, Map map, const float* scale,
                          const float* offset) {
    const ScaledOffset value0{scale[0], offset[0]};
    const ScaledOffset value1{scale[1], offset[1]};
    const Codes q0 = bytes(dcodes, size_t{0}), q1 = bytes(dcodes, size_t{16});
    if constexpr (kFourValues) {
      PutTwoBits<kFrom>(q0, q1, FourValues(map, value0),
                        FourValues(map, value1));
    } else {
      PutPair(map(Field<kFrom, 2>(q0)), map(Field<kFrom, 2>(q1)), value0,
              value1);
    }
  }
  template <int kFrom, class Fn, class Map>
  HWY_INLINE void TwoBitsOfMany(const Fn& bytes, Map map, float scale) {
    if constexpr (kFourValues) {
      TwoBitsOfMany<kFrom>(map, scale, bytes(dcodes, size_t{0}),
                           bytes(dcodes, size_t{16}));
    } else {
      TwoBitsOfMany<kFrom>(map, scale, bytes(LookedUpRow(), size_t{0}));
    }
  }
  // Of a row that has the order of LookedUpRow.
  template <int kFrom, class Map>
  HWY_INLINE void TwoBitsOfMany(Map map, float scale, Codes bytes) {
    if constexpr (kFourValues) {
      const Floats four = FourValues(map, Formula(scale));
      const hn::Repartition<uint16_t, decltype(dcodes)> d16;
      const Codes q =
          hn::BitCast(dcodes, hn::ShiftRight<kFrom>(hn::BitCast(d16, bytes)));
      PutOfFour(four, four, WidenTo<0, 1, 0, true>(q),
                WidenTo<4, 1, 0, true>(q), WidenTo<8, 1, 0, true>(q),
                WidenTo<12, 1, 0, true>(q));
    } else {
      PutFromTable(Field<kFrom, 2>(bytes), map, Formula(scale));
    }
  }
  template <int kFrom, class Map>
  HWY_INLINE void TwoBitsOfMany(Map map, float scale, Codes bytes0,
                                Codes bytes1) {
    if constexpr (kFourValues) {
      const Floats four = FourValues(map, Formula(scale));
      PutTwoBits<kFrom>(bytes0, bytes1, four, four);
    } else {
      PairOfMany(Field<kFrom, 2>(bytes0), Field<kFrom, 2>(bytes1), map, scale);
    }
  }

  // Rows of codes of kBits bits, the lowest first; `map` gets two bits. If
  // kFourValues.
  template <int kBits, class Map, class... F>
  HWY_INLINE void PackedRow(const uint8_t* p, Map map, F... scale) {
    const Floats four = FourValues(map, Formula(scale...));
    EachOf(kTimes<kBits>, [&](size_t word) DEQUANT_LAMBDA {
      const auto all = hn::Set(du, Load32(p + 4 * word));
      EachOf(kTimes<32 / kBits / 8>, [&](size_t i) DEQUANT_LAMBDA {
        const uint32_t* shift = kShifts<kBits>.of + 8 * i;
        PutFloats(OfFour(four, hn::Shr(all, hn::LoadU(du, shift))));
      });
    });
  }

  template <class Fn, class Map, class... F>
  HWY_INLINE void RowOfMany(const Fn& codes, Map map, F... scale) {
    PutFromTable(codes(LookedUpRow(), size_t{0}), map, Formula(scale...));
  }
  template <class Map, class... F>
  HWY_INLINE void PairOfMany(Codes q0, Codes q1, Map map, F... scale) {
    PutFromTable(InTurn(LookedUpRow(), q0, q1), map, Formula(scale...));
  }

 private:
  static constexpr hn::FixedTag<float, 8> df{};
  static constexpr hn::FixedTag<int32_t, 8> di{};
  static constexpr hn::FixedTag<uint32_t, 8> du{};
  static constexpr hn::FixedTag<uint16_t, 16> du16{};
  using Floats = hn::Vec<hn::FixedTag<float, 8>>;
  using U32x8 = hn::Vec<hn::FixedTag<uint32_t, 8>>;
  using U16x16 = hn::Vec<hn::FixedTag<uint16_t, 16>>;

  template <class V>
  HWY_INLINE static Floats Value(V lanes) {
    return hn::ConvertTo(df, hn::BitCast(di, lanes));
  }

  // Codes of a row, and of two groups.
  template <class V, class Value0, class Value1>
  HWY_INLINE void PutRow(V q, Value0 value0, Value1 value1) {
    constexpr int kFirst1 = kIsBf16 ? 1 : 4, kStep = kIsBf16 ? 2 : 1;
    PutFour(WidenTo<0, kStep, 3, true>(q), WidenTo<kFirst1, kStep, 3, true>(q),
            WidenTo<8, kStep, 3, true>(q),
            WidenTo<8 + kFirst1, kStep, 3, true>(q), value0, value1);
  }
  template <class V, class Value0>
  HWY_INLINE void PutPair(V q0, V q1, Value0 value) {
    PutPair(q0, q1, value, value);
  }
  template <class V, class Value0, class Value1>
  HWY_INLINE void PutPair(V q0, V q1, Value0 value0, Value1 value1) {
    constexpr int kFirst1 = kIsBf16 ? 1 : 8, kStep = kIsBf16 ? 2 : 1;
    PutFour(WidenTo<0, kStep, 3>(q0), WidenTo<kFirst1, kStep, 3>(q0),
            WidenTo<0, kStep, 3>(q1), WidenTo<kFirst1, kStep, 3>(q1), value0,
            value1);
  }
  // 16 values each from two vectors.
  template <class V, class Value0, class Value1>
  HWY_INLINE void PutFour(V a, V b, V c, V d, Value0 value0, Value1 value1) {
    const Floats f0 = Value(a), f1 = Value(b), f2 = Value(c), f3 = Value(d);
    const Floats v0 = value0(df, f0), v1 = value0(df, f1);
    const Floats v2 = value1(df, f2), v3 = value1(df, f3);
    if constexpr (kIsBf16) {
      const U16x16 first = Bf16InTurn(df, v0, v1);
      const U16x16 second = Bf16InTurn(df, v2, v3);
      hn::StoreU(first, du16, reinterpret_cast<uint16_t*>(to_));
      hn::StoreU(second, du16, reinterpret_cast<uint16_t*>(to_) + 16);
    } else {
      StoreAs2<T>(df, v0, v1, to_);
      StoreAs2<T>(df, v2, v3, to_ + 16 * sizeof(T));
    }
    to_ += 32 * sizeof(T);
  }

  // The values of 0 to 3, in every four lanes.
  template <class Map, class Value0>
  HWY_INLINE static Floats FourValues(Map map, Value0 value) {
    return value(df, Value(WidenTo<0, 1, 3>(map(LoadCodes(kFour)))));
  }
  HWY_INLINE static Floats OfFour(Floats four, U32x8 index) {
    return Floats{_mm256_permutevar_ps(four.raw, index.raw)};
  }
  // The look-up sees two bits of a lane, whatever is above them.
  template <class V>
  HWY_INLINE void PutOfFour(Floats four0, Floats four1, V i0, V i1, V i2,
                            V i3) {
    PutFloats(OfFour(four0, hn::BitCast(du, i0)));
    PutFloats(OfFour(four0, hn::BitCast(du, i1)));
    PutFloats(OfFour(four1, hn::BitCast(du, i2)));
    PutFloats(OfFour(four1, hn::BitCast(du, i3)));
  }
  template <int kFrom>
  HWY_INLINE void PutTwoBits(Codes q0, Codes q1, Floats four0, Floats four1) {
    const auto index = [](Codes q) HWY_ATTR {
      return hn::ShiftRight<kFrom>(hn::BitCast(du, q));
    };
    PutOfFour(four0, four1, index(WidenTo<0, 1, 0>(q0)),
              index(WidenTo<8, 1, 0>(q0)), index(WidenTo<0, 1, 0>(q1)),
              index(WidenTo<8, 1, 0>(q1)));
  }
  HWY_INLINE void PutFloats(Floats v) {
    hn::StoreU(v, df, reinterpret_cast<float*>(to_));
    to_ += 32;
  }

  // A row of RowTag<8>, looked up in what `map` makes of 0 to 15.
  template <class Map, class Value0>
  HWY_INLINE void PutFromTable(Codes row, Map map, Value0 value) {
    // The byte shuffle looks up the low and the high bytes.
    alignas(16) static constexpr uint8_t kSplit[16] = {
        0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15};
    const hn::Repartition<uint64_t, decltype(dcodes)> du64;
    const auto table =
        hn::BitCast(dcodes, Narrowed(map(LoadCodes(kAllCodes)), value));
    const auto split =
        hn::BitCast(du64, hn::TableLookupBytes(table, LoadCodes(kSplit)));
    const auto first = hn::ConcatLowerLower(du64, split, split);
    const auto second = hn::ConcatUpperUpper(du64, split, split);
    const Codes low =
        hn::BitCast(dcodes, hn::InterleaveLower(du64, first, second));
    const Codes high =
        hn::BitCast(dcodes, hn::InterleaveUpper(du64, first, second));
    const Codes lo = hn::TableLookupBytes(low, row);
    const Codes hi = hn::TableLookupBytes(high, row);
    hn::StoreU(hn::InterleaveLower(dcodes, lo, hi), dcodes, to_);
    hn::StoreU(hn::InterleaveUpper(dcodes, lo, hi), dcodes, to_ + 32);
    to_ += 64;
  }
  // 16 values, in order.
  template <class V, class Value0>
  HWY_INLINE static U16x16 Narrowed(V q, Value0 value) {
    if constexpr (kIsBf16) {
      // Not like those of a row: what is looked up waits for this.
      const auto even = value(df, Value(WidenTo<0, 2, 3>(q)));
      const auto odd = value(df, Value(WidenTo<1, 2, 3>(q)));
      return hn::OddEven(hn::BitCast(du16, RoundedBf16(df, odd)),
                         hn::BitCast(du16, Bf16Bits(df, even)));
    } else {
      return Narrow2<T>(df, value(df, Value(WidenTo<0, 1, 3>(q))),
                        value(df, Value(WidenTo<8, 1, 3>(q))));
    }
  }

  uint8_t* to_;
};

}  // namespace HWY_NAMESPACE
}  // namespace dequant
HWY_AFTER_NAMESPACE();
#endif  // HWY_TARGET

#endif  // per-target include guard
