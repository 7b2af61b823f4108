// blocks -> values, once per target: the sink that codes go to.
//
// Sink<T> turns codes into T and stores them: the only code that depends on the
// vector's width or on the output type. AVX2 and AVX-512 have their own.

#if defined(DEQUANT_KERNELS_SINK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef DEQUANT_KERNELS_SINK_INL_H_
#undef DEQUANT_KERNELS_SINK_INL_H_
#else
#define DEQUANT_KERNELS_SINK_INL_H_
#endif

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <type_traits>

#include "hwy/highway.h"
#include "kernels/codes-inl.h"
#include "kernels/narrow-inl.h"
#include "kernels/scalar.h"
#include "kernels/tables/fp4.h"

#if HWY_TARGET > HWY_AVX3 && HWY_TARGET != HWY_AVX2
HWY_BEFORE_NAMESPACE();
namespace dequant {
namespace HWY_NAMESPACE {

// What is added to 16 codes, in which kInAll is set, for indices of a table of
// groups.
template <class Values, size_t kPerScale>
HWY_INLINE Codes IndexOf(Codes q, size_t of_table) {
  const size_t group = of_table / (kPerScale / 16);
  const size_t bits = group << kGroupAt<Values> ^ Values::kInAll;
  return hn::Xor(q, hn::Set(dcodes, static_cast<uint8_t>(bits)));
}
// From the order of the groups' values in vectors to that of the index.
alignas(16) inline constexpr uint8_t kOrderOfTwo[16] = {
    0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15};
alignas(16) inline constexpr uint8_t kOrderOfFour[16] = {
    0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15};

// Writes groups of codes as T, one after the other. Codes without a sign are
// below 128. With an offset, scale and code must have 24 bits between them.
template <typename T, bool kStream = false>
class Sink {
  // Looked up are the bytes of 16-bit values.
  static constexpr bool kLookUp = !HWY_HAVE_SCALABLE && HWY_TARGET != HWY_SSE2;
  static constexpr bool kTables = kLookUp && sizeof(T) == 2;

 public:
  HWY_INLINE explicit Sink(uint8_t* to) : to_(to) {}
  template <class V, class... F>
  HWY_INLINE void operator()(V q, F... scale) {
    Put(q, Formula(scale...));
  }

  // The bytes of rows, as codes(d, i) below may call them.
  HWY_INLINE static RowBytes Bytes(const uint8_t* p) { return {p}; }

  // A row of 32 elements with one scale: codes(d, i) are codes i on, as many as
  // the tag d has, below 32 or, with a sign, from -16 to 15.
  template <class Fn, class... F>
  HWY_INLINE void Row(const Fn& codes, F... scale) {
    PutRow(codes, Formula(scale...), Formula(scale...));
  }
  template <class... F>
  HWY_INLINE void Row(ByteRow row, F... scale) {
    Put(LoadCodes(row.p), Formula(scale...));
    Put(LoadCodes(row.p + 16), Formula(scale...));
  }
  // A row of 32 of which each half has a scale.
  template <class Fn>
  HWY_INLINE void Halves(const Fn& codes, const float* scale) {
    PutRow(codes, Formula(scale[0]), Formula(scale[1]));
  }

  // The same of what Values has for codes below 8, -4 to 3; or of codes that
  // stand for themselves, where there are no kGroupTables. LookedUpBytes are
  // for these.
  HWY_INLINE static RowBytes LookedUpBytes(const uint8_t* p) { return {p}; }
  // More rows at once are for AVX-512.
  static constexpr bool kTwoRows = false;
  static constexpr size_t kRowsAtOnce = 1;
  static constexpr bool kPipelines = false;
  static constexpr bool kCodesFirst = false;
  // Rows codes(0) to codes(kRows - 1), constants; each half has a scale.
  template <class Values, size_t kRows, class Fn>
  HWY_INLINE void RowsOfEight(const Fn& codes, const float* scale) {
    ForEach(kTimes<kRows>, [&](auto r) DEQUANT_LAMBDA {
      HalvesOfEight<Values>(codes(r), scale + 2 * r());
    });
  }

  // Where that is less work, T is computed once for each of the 16 codes, and
  // looked up.
  template <class Map, class Value>
  HWY_INLINE void Nibbles(const NibblesOf<Map, Value>& row) {
    const Codes bytes = LoadCodes(row.p);
    PutPair(LowNibbles(bytes), HighNibbles(bytes), row.map, row.value);
  }
  static constexpr size_t kTablesAhead = 0;
  // Two rows, the low and the high nibbles of 32 bytes.
  template <class Value>
  HWY_INLINE void Nibbles(const TwoNibblesOf<Value>& rows) {
    const Codes bytes0 = LoadCodes(rows.p), bytes1 = LoadCodes(rows.p + 16);
    PutPair(LowNibbles(bytes0), LowNibbles(bytes1), Same(), rows.value0);
    PutPair(HighNibbles(bytes0), HighNibbles(bytes1), Same(), rows.value1);
  }
  // Whether scales of nibbles that stand for themselves are not times kUnit.
  static constexpr bool kWidensNibbles = false;

  // Whether values of 4-bit codes are looked up in memory, where they are known
  // there: as Looked, which for F32 are its upper bytes.
  // (Vectors of 256 bits compute F32 with less work.)
  static constexpr bool kKnownValues =
      kTables || (kLookUp && HWY_TARGET != HWY_SVE_256);
  using Known =
      ValueBytes<std::conditional_t<sizeof(T) == 2, T, hwy::bfloat16_t>>;
  using KnownOfRow = Known;
#if !HWY_HAVE_SCALABLE
  HWY_INLINE void Nibbles(const uint8_t* p, const Known& values) {
    const auto codes = [&](auto tag, size_t i)
                           DEQUANT_LAMBDA { return NibblesOfRow(tag, p, i); };
    Halves(codes, values, values);
  }
  template <class Fn>
  HWY_INLINE void Halves(const Fn& codes, const Known& values0,
                         const Known& values1) {
    const Codes q0 = codes(dcodes, size_t{0}), q1 = codes(dcodes, size_t{16});
    PutFromTable(q0, LoadCodes(values0.low), LoadCodes(values0.high));
    PutFromTable(q1, LoadCodes(values1.low), LoadCodes(values1.high));
  }
#endif

  // Whether groups with few values have a table of them: of four codes (Values
  // has what they stand for) for each of four scales, an index is the code in
  // bits 2 and 3, the group in bits 0 and 1, or, which takes two operations
  // more, the other way round; of eight for each of two, the group is in bit 0.
  static constexpr bool kGroupTables = kTables;
#if !HWY_HAVE_SCALABLE
  // use(low, high): the low and high bytes of 16 values, which the byte shuffle
  // looks up.
  template <class Values, class Use, class... Offset>
  HWY_INLINE static void OfGroups(const Use& use, const float* scale,
                                  Offset... offset) {
    constexpr bool kFour = std::size(Values::kOf) == 4;
    const hn::FixedTag<float, 4> df;
    // Of four, each for all groups; or four of one group.
    const auto lanes = [&](size_t i) DEQUANT_LAMBDA {
      if constexpr (!kFour) {
        return hn::Mul(hn::LoadU(df, Values::kOf + 4 * (i % 2)),
                       hn::Set(df, scale[i / 2]));
      } else if constexpr (sizeof...(Offset) == 0) {
        return hn::Mul(hn::Set(df, Values::kOf[i]), hn::LoadU(df, scale));
      } else {
        return Values::Value(hn::Set(df, Values::kOf[i]), hn::LoadU(df, scale),
                             hn::LoadU(df, offset...));
      }
    };
    const auto first = Narrow2<T>(df, lanes(0), lanes(1));
    const auto second = Narrow2<T>(df, lanes(2), lanes(3));
    const Codes low = LowBytes(first, second), high = HighBytes(first, second);
    if constexpr (kFour && kGroupAt<Values> == 0) return use(low, high);
    const auto order = LoadCodes(kFour ? kOrderOfFour : kOrderOfTwo);
    use(hn::TableLookupBytes(low, order), hn::TableLookupBytes(high, order));
  }
  HWY_INLINE void PutFromTable(Codes q, Codes low, Codes high) {
    PutBytes(hn::TableLookupBytes(low, q), hn::TableLookupBytes(high, q));
  }
  // With the top bits of `sign` in those of the values.
  HWY_INLINE void PutSigned(Codes q, Codes sign, Codes low, Codes high) {
    PutBytes(hn::TableLookupBytes(low, q),
             hn::Xor(hn::TableLookupBytes(high, q), sign));
  }
#endif

  // Whether there is a PackedRow, which looks codes up from bits as they are.
  static constexpr bool kSignRows = false;
  template <int kBits>
  static constexpr bool kPackedRows = false;
  static constexpr bool kTwoOfFour = false;

  // Eight rows of 2-bit fields: four in 32 bytes, the first in their lowest
  // bits, and four in the next 32. Each half of a row has a scale and an
  // offset.
  HWY_INLINE void TwoBitRows(const uint8_t* p, const float* scale,
                             const float* offset) {
    EachOf(kTimes<2>, [&](size_t i) DEQUANT_LAMBDA {
      const Codes bytes0 = LoadCodes(p + 32 * i);
      const Codes bytes1 = LoadCodes(p + 32 * i + 16);
      const float* scales = scale + 8 * i;
      const float* offsets = offset + 8 * i;
      TwoBitRowPair<0>(bytes0, bytes1, scales, offsets);
      TwoBitRowPair<4>(bytes0, bytes1, scales + 4, offsets + 4);
    });
  }
  // A row of the 2-bit fields that start at bit kFrom of bytes(d, i), which
  // stand for what `map` makes of them, where more than these have that scale.
  template <int kFrom, class Fn, class Map, class F>
  HWY_INLINE void TwoBitsOfMany(const Fn& bytes, Map map, F scale) {
    TwoBitsOfMany<kFrom>(map, scale, bytes(dcodes, size_t{0}),
                         bytes(dcodes, size_t{16}));
  }
  // Of two groups of bytes.
  template <int kFrom, class Map, class F>
  HWY_INLINE void TwoBitsOfMany(Map map, F scale, Codes bytes0, Codes bytes1) {
    PairOfMany(Field<kFrom, 2>(bytes0), Field<kFrom, 2>(bytes1), map, scale);
  }

  // A row of codes below 16 where more than this one have that scale.
  template <class Fn, class Map, class... F>
  HWY_INLINE void RowOfMany(const Fn& codes, Map map, F... scale) {
    PairOfMany(codes(dcodes, size_t{0}), codes(dcodes, size_t{16}), map,
               scale...);
  }
  // Of two groups of codes.
  template <class Map, class... F>
  HWY_INLINE void PairOfMany(Codes q0, Codes q1, Map map, F... scale) {
    PutPair(q0, q1, map, Formula(scale...));
  }

 private:
  template <class Values, class Fn>
  HWY_INLINE void HalvesOfEight(const Fn& codes, const float* scale) {
#if !HWY_HAVE_SCALABLE
    if constexpr (kGroupTables) {
      static_assert(Values::kOf[0] == -4);
      const Codes q0 = codes(dcodes, size_t{0}), q1 = codes(dcodes, size_t{16});
      const hn::FixedTag<float, 4> df;
      const auto magnitudes = hn::Iota(df, 1);
      const auto words =
          Narrow2<T>(df, hn::Mul(magnitudes, hn::Set(df, scale[0])),
                     hn::Mul(magnitudes, hn::Set(df, scale[1])));
      Codes low, high;
      SplitEights(kSignedEights<4, 1, 2>, hn::BitCast(dcodes, words), low,
                  high);
      PutFromTable(q0, low, high);
      PutFromTable(hn::Xor(q1, hn::Set(dcodes, 8)), low, high);
      return;
    }
#endif
    Halves(codes, scale);
  }

  template <class Map, class Value>
  HWY_INLINE void PutPair(Codes q0, Codes q1, Map map, Value value) {
    if constexpr (kTables && !kByHalf<T, Value>) {
      PutFromTable(q0, q1, map(LoadCodes(kAllCodes)), value);
    } else {
      Put(map(q0), value);
      Put(map(q1), value);
    }
  }

  template <class Fn, class Value0, class Value1>
  HWY_INLINE void PutRow(const Fn& codes, Value0 value0, Value1 value1) {
    // Before the first store, after which all would be loaded again.
    const auto q0 = codes(dcodes, size_t{0});
    const auto q1 = codes(dcodes, size_t{16});
    Put(q0, value0);
    Put(q1, value1);
  }

#if HWY_HAVE_FLOAT16
  template <class D16, class V>
  HWY_INLINE static void StoreByHalf(D16, V q, HalfScaled scale, uint8_t* to) {
    const hn::Rebind<hwy::float16_t, D16> dh;
    hn::StoreU(scale.OfCodes(dh, q), dh, reinterpret_cast<hwy::float16_t*>(to));
  }

  template <class V>
  HWY_INLINE void PutByHalf(V q, HalfScaled scale) {
#if HWY_HAVE_SCALABLE
    const hn::CappedTag<int16_t, 16> di16;
    const hn::Rebind<int8_t, decltype(di16)> dq;
    int8_t bytes[16];
    hn::StoreU(q, di8, bytes);
    for (size_t i = 0; i < 16; i += hn::Lanes(di16)) {
      StoreByHalf(di16, hn::PromoteTo(di16, hn::LoadU(dq, bytes + i)), scale,
                  to_ + 2 * i);
    }
#else
    const hn::CappedTag<int16_t, 16> di16;
    if constexpr (hn::MaxLanes(di16) == 16) {
      StoreByHalf(di16, hn::PromoteTo(di16, q), scale, to_);
    } else {
      StoreByHalf(di16, hn::PromoteLowerTo(di16, q), scale, to_);
      StoreByHalf(di16, hn::PromoteUpperTo(di16, q), scale, to_ + 16);
    }
#endif
  }
#endif

  template <class V, class Fn>
  HWY_INLINE void Put(V q, Fn value) {
    const hn::CappedTag<float, 16> df;
#if HWY_HAVE_FLOAT16
    if constexpr (kByHalf<T, Fn>) {
      PutByHalf(hn::BitCast(di8, q), value);
      to_ += 16 * sizeof(T);
      return;
    }
#endif
    PutWide(df, hn::BitCast(di8, q), value);
    to_ += 16 * sizeof(T);
  }

  // Two rows, from bit kFrom on.
  template <int kFrom>
  HWY_INLINE void TwoBitRowPair(Codes bytes0, Codes bytes1, const float* scale,
                                const float* offset) {
    constexpr int kTo = kGroupTables ? TwoBitCodes::kCodeAt : 0;
    const Codes q0 = Field<kFrom, 2, kTo>(bytes0);
    const Codes q1 = Field<kFrom, 2, kTo>(bytes1);
    const Codes q2 = Field<kFrom + 2, 2, kTo>(bytes0);
    const Codes q3 = Field<kFrom + 2, 2, kTo>(bytes1);
#if !HWY_HAVE_SCALABLE
    if constexpr (kGroupTables) {
      const auto use = [&](Codes low, Codes high) DEQUANT_LAMBDA {
        PutFromTable(IndexOf<TwoBitCodes, 16>(q0, 0), low, high);
        PutFromTable(IndexOf<TwoBitCodes, 16>(q1, 1), low, high);
        PutFromTable(IndexOf<TwoBitCodes, 16>(q2, 2), low, high);
        PutFromTable(IndexOf<TwoBitCodes, 16>(q3, 3), low, high);
      };
      OfGroups<TwoBitCodes>(use, scale, offset);
      return;
    }
#endif
    Put(q0, Formula(scale[0], offset[0]));
    Put(q1, Formula(scale[1], offset[1]));
    Put(q2, Formula(scale[2], offset[2]));
    Put(q3, Formula(scale[3], offset[3]));
  }

#if !HWY_HAVE_SCALABLE
  template <class V, class Fn>
  HWY_INLINE void PutFromTable(Codes q0, Codes q1, V all, Fn value) {
    const hn::FixedTag<int16_t, 8> di16;
    const hn::FixedTag<float, 4> df;
    const hn::RebindToSigned<decltype(df)> di;
    const auto half = [&](auto q) DEQUANT_LAMBDA {
      const auto lo = hn::ConvertTo(df, hn::PromoteLowerTo(di, q));
      const auto hi = hn::ConvertTo(df, hn::PromoteUpperTo(di, q));
      return Narrow2<T>(df, value(df, lo), value(df, hi));
    };
    const I8x16 codes = hn::BitCast(di8, all);
    const auto first = half(hn::PromoteLowerTo(di16, codes));
    const auto second = half(hn::PromoteUpperTo(di16, codes));
    const Codes low = LowBytes(first, second), high = HighBytes(first, second);
    PutFromTable(q0, low, high);
    PutFromTable(q1, low, high);
  }
  template <class V>
  HWY_INLINE static Codes LowBytes(V first, V second) {
    return hn::ConcatEven(dcodes, hn::BitCast(dcodes, second),
                          hn::BitCast(dcodes, first));
  }
  template <class V>
  HWY_INLINE static Codes HighBytes(V first, V second) {
    return hn::ConcatOdd(dcodes, hn::BitCast(dcodes, second),
                         hn::BitCast(dcodes, first));
  }
  HWY_INLINE void PutBytes(Codes low, Codes high) {
    PutWords(hn::InterleaveLower(dcodes, low, high));
    PutWords(hn::InterleaveUpper(dcodes, low, high));
  }
  // Eight values, or the upper halves of F32.
  HWY_INLINE void PutWords(Codes words) {
    if constexpr (sizeof(T) == 2) {
      Store<kStream>(dcodes, words, to_);
      to_ += 16;
    } else {
      const hn::FixedTag<uint16_t, 8> d16;
      const auto upper = hn::BitCast(d16, words), lower = hn::Zero(d16);
      const auto put = [&](auto v) DEQUANT_LAMBDA {
        Store<kStream>(dcodes, hn::BitCast(dcodes, v), to_);
        to_ += 16;
      };
      put(hn::InterleaveLower(d16, lower, upper));
      put(hn::InterleaveUpper(d16, lower, upper));
    }
  }
#endif

#if HWY_TARGET_IS_NEON
  // Codes kFirst to kFirst + 3. At the top of their lanes they are 2^24 times
  // as large, which the conversion takes off.
  template <int kFirst, class DF>
  HWY_INLINE static hn::Vec<DF> FromTop(DF, I8x16 q) {
    const auto top =
        hn::BitCast(hn::RebindToSigned<DF>(), WidenTo<kFirst, 1, 3>(q));
    return hn::Vec<DF>(vcvtq_n_f32_s32(top.raw, 24));
  }
#endif

  // A template on the tag: `if constexpr` on its size then drops the others.
  template <class DF, class Fn>
  HWY_INLINE void PutWide(DF df, I8x16 q, Fn value) {
#if HWY_HAVE_SCALABLE
    const hn::Rebind<int32_t, DF> di32;
    const hn::Rebind<int8_t, DF> dq;
    int8_t bytes[16];
    hn::StoreU(q, di8, bytes);
    for (size_t i = 0; i < 16; i += hn::Lanes(df)) {
      const auto wide = hn::PromoteTo(di32, hn::LoadU(dq, bytes + i));
      StoreAs<T, kStream>(df, value(df, hn::ConvertTo(df, wide)),
                          to_ + i * sizeof(T));
    }
#else
    constexpr size_t kLanes = hn::MaxLanes(df);
    if constexpr (kLanes == 8) {  // SVE_256
      const hn::Rebind<int32_t, DF> di32;
      const auto lo = hn::PromoteTo(di32, hn::LowerHalf(q));
      const auto hi =
          hn::PromoteTo(di32, hn::UpperHalf(hn::Half<decltype(di8)>(), q));
      StoreAs2<T, kStream>(df, value(df, hn::ConvertTo(df, lo)),
                           value(df, hn::ConvertTo(df, hi)), to_);
    } else {
#if HWY_TARGET_IS_NEON
      StoreAs2<T, kStream>(df, value(df, FromTop<0>(df, q)),
                           value(df, FromTop<4>(df, q)), to_);
      StoreAs2<T, kStream>(df, value(df, FromTop<8>(df, q)),
                           value(df, FromTop<12>(df, q)), to_ + 8 * sizeof(T));
#else
      const hn::FixedTag<int16_t, 8> di16;
      const auto lo = hn::PromoteLowerTo(di16, q);
      const auto hi = hn::PromoteUpperTo(di16, q);
      PutHalf(df, lo, value, to_);
      PutHalf(df, hi, value, to_ + 8 * sizeof(T));
#endif
    }
#endif
  }

  template <class DF, class V16, class Fn>
  HWY_INLINE void PutHalf(DF df, V16 q, Fn value, uint8_t* to) {
    const hn::Rebind<int32_t, DF> di32;
    StoreAs2<T, kStream>(
        df, value(df, hn::ConvertTo(df, hn::PromoteLowerTo(di32, q))),
        value(df, hn::ConvertTo(df, hn::PromoteUpperTo(di32, q))), to);
  }

  uint8_t* to_;
};

}  // namespace HWY_NAMESPACE
}  // namespace dequant
HWY_AFTER_NAMESPACE();
#endif  // HWY_TARGET

#endif  // per-target include guard
