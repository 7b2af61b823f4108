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
#include <iterator>
#include <type_traits>

#include "hwy/highway.h"
#include "kernels/codes-inl.h"
#include "kernels/narrow-inl.h"
#include "kernels/scalar.h"
#include "kernels/tables/fp4.h"

#if HWY_TARGET == HWY_AVX2
HWY_BEFORE_NAMESPACE();
namespace dequant {
namespace HWY_NAMESPACE {

// The values of four codes, or of eight, as the lanes of two vectors that make
// a table of four groups, or of two.
template <class Values, bool kInTurn>
struct TableLanes {
  alignas(32) float of[2][8];
  constexpr TableLanes() : of{} {
    for (size_t i = 0; i < 8; ++i) {
      if (std::size(Values::kOf) == 8) {
        // All of one group, and of the other; or four of both, and the others.
        of[0][i] = Values::kOf[kInTurn ? i : i % 4];
        of[1][i] = Values::kOf[kInTurn ? i : i % 4 + 4];
      } else {  // of all groups two values, and the other two
        of[0][i] = Values::kOf[kInTurn ? i / 4 * 2 : i / 4];
        of[1][i] = Values::kOf[kInTurn ? i / 4 * 2 + 1 : i / 4 + 2];
      }
    }
  }
};
template <class Values, bool kInTurn>
inline constexpr TableLanes<Values, kInTurn> kTableLanes;

// The values of 16 codes, those at even places and those at odd ones; of four,
// twice; and eight magnitudes.
template <class Map>
struct CodeLanes {
  alignas(32) float of[2][8];
  constexpr CodeLanes() : of{} {
    for (int i = 0; i < 16; ++i) of[i % 2][i / 2] = Map::Of(i) / kUnit;
  }
};
template <class Map>
inline constexpr CodeLanes<Map> kCodeLanes;
template <class Map>
struct FourLanes {
  alignas(32) float of[1][8];
  constexpr FourLanes() : of{} {
    for (int i = 0; i < 8; ++i) of[0][i] = Map::Of(i % 4) / kUnit;
  }
};
template <class Map>
inline constexpr FourLanes<Map> kFourLanes;
struct Magnitudes {
  alignas(32) float of[1][8];
  constexpr Magnitudes() : of{} {
    for (int i = 0; i < 8; ++i) of[0][i] = (i + 1) / kUnit;
  }
};
inline constexpr Magnitudes kMagnitudes;

// The factors of RoundedBf16 for such constants.
template <const auto& kLanes>
struct Bf16Factors {
  alignas(32) float less[std::size(kLanes.of)][8];
  alignas(32) float whole[std::size(kLanes.of)][8];
  constexpr Bf16Factors() : less{}, whole{} {
    for (size_t v = 0; v < std::size(kLanes.of); ++v) {
      for (size_t i = 0; i < 8; ++i) {
        less[v][i] = kLanes.of[v][i] * 0xFFFFp0f;
        whole[v][i] = kLanes.of[v][i] * 0x10000p0f;
      }
    }
  }
};
template <const auto& kLanes>
inline constexpr Bf16Factors<kLanes> kBf16Factors;

// What is added to the codes of a row of RowTag<8>, in which kInAll is set, for
// indices of such a table.
template <size_t kGroups, int kAt, size_t kPerScale, uint8_t kInAll>
struct GroupsOfRows {
  alignas(32) uint8_t of[4][32];
  constexpr GroupsOfRows() : of{} {
    for (size_t row = 0; row < 4; ++row) {
      for (size_t i = 0; i < 32; ++i) {
        const size_t group = kPerScale == 32 ? row : 2 * row + i / 8 % 2;
        const size_t bits = group % kGroups << kAt;
        of[row][i] = static_cast<uint8_t>(bits ^ kInAll);
      }
    }
  }
};
template <class Values, size_t kPerScale>
HWY_INLINE Codes IndexOf(Codes row, size_t row_of_table) {
  constexpr size_t kGroups = 16 / std::size(Values::kOf);
  static constexpr GroupsOfRows<kGroups, kGroupAt<Values>, kPerScale,
                                Values::kInAll>
      kGroupsOf;
  return hn::Xor(row, hn::Load(dcodes, kGroupsOf.of[row_of_table]));
}

// Where the codes of a row of 2-bit fields are, of 8 low nibbles and 8 high
// ones.
struct TwoBitPlaces {
  alignas(32) uint8_t nibble[32];
  alignas(32) uint8_t bits[32];
  constexpr TwoBitPlaces() : nibble{}, bits{} {
    for (size_t i = 0; i < 32; ++i) {
      const size_t code = RowTag<8>::Code(i);
      nibble[i] = static_cast<uint8_t>(code / 4 + code % 4 / 2 * 8);
      bits[i] = code % 2 == 0 ? 0b0011 : 0b1100;
    }
  }
};
inline constexpr TwoBitPlaces kTwoBitPlaces;

// For each nibble, of which bits 0 and 1 or 2 and 3 are a code: where the bytes
// of its value are, of four F16, the first of them kFirst, or of four F32 with
// BF16 above.
template <bool kIsBf16, int kFirst = 0>
struct FourInNibbles {
  alignas(32) uint8_t low[32];
  alignas(32) uint8_t high[32];
  constexpr FourInNibbles() : low{}, high{} {
    for (int i = 0; i < 32; ++i) {
      const int code = kFirst + (i % 16 < 4 ? i % 4 : i % 16 / 4);
      low[i] = static_cast<uint8_t>(kIsBf16 ? 4 * code + 2 : 2 * code);
      high[i] = static_cast<uint8_t>(low[i] + 1);
    }
  }
};
template <bool kIsBf16, int kFirst = 0>
inline constexpr FourInNibbles<kIsBf16, kFirst> kFourInNibbles;

// For -8 to 7 times a scale: where the bytes of their magnitudes are, which as
// F16 are in order in each block, while those of BF16 are in turn four that
// belong there and four of the other block; and what is kept and added of the
// upper ones.
template <bool kInTurn>
struct SignedNibbles {
  alignas(32) uint8_t low[32];
  alignas(32) uint8_t high[32];
  alignas(32) uint8_t kept[32];
  alignas(32) uint8_t sign[32];
  constexpr SignedNibbles() : low{}, high{}, kept{}, sign{} {
    for (size_t i = 0; i < 32; ++i) {
      const size_t q = i % 16, magnitude = q < 8 ? 8 - q : q - 8;
      const size_t at = magnitude == 0 ? 0 : magnitude - 1;
      const size_t word =
          kInTurn ? at % 4 * 2 + (at / 4 == i / 16 ? 0 : 1) : at;
      low[i] = static_cast<uint8_t>(magnitude == 0 ? 0x80 : 2 * word);
      high[i] = static_cast<uint8_t>(2 * word + 1);
      kept[i] = magnitude == 0 ? 0x80 : 0xFF;  // the sign of a 0
      sign[i] = q < 8 ? 0x80 : 0;
    }
  }
};
template <bool kInTurn>
inline constexpr SignedNibbles<kInTurn> kSignedNibbles;

// 1 to 4, for four groups each.
struct FourMagnitudes {
  alignas(32) float of[2][8];
  constexpr FourMagnitudes() : of{} {
    for (int i = 0; i < 16; ++i) of[i / 8][i % 8] = (i / 4 + 1) / kUnit;
  }
};
inline constexpr FourMagnitudes kFourMagnitudes;

// The group of a row of RowTag<8>, in bit 3.
struct GroupInBit3 {
  alignas(32) uint8_t of[32];
  constexpr GroupInBit3() : of{} {
    for (size_t i = 0; i < 32; ++i) of[i] = RowTag<8>::Code(i) / 16 * 8;
  }
};
inline constexpr GroupInBit3 kGroupInBit3;

// Codes, which are below 128, and SignedCodes have a scale times kUnit.
template <typename T, bool kStream = false>
class Sink {
  static constexpr bool kIsBf16 =
      sizeof(T) == 2 && !std::is_same_v<T, hwy::float16_t>;

 public:
  // The order of rows that are computed: F32 is widened eight by eight; BF16
  // those at even and those at odd places of 16.
  using ComputedRow = std::conditional_t<kIsBf16, RowTag<8>, BlendedRow>;
  // And of rows that are looked up.
  using LookedUpRow = std::conditional_t<sizeof(T) == 2, RowTag<8>, BlendedRow>;

  // And of rows whose bytes are looked up and interleaved.
  using InterleavedRow = RowTag<sizeof(T) == 2 ? 8 : 4>;

  HWY_INLINE explicit Sink(uint8_t* to) : to_(to) {}
  template <class V>
  HWY_INLINE void operator()(V q, float scale) {
    Widened(WidenTo<0, 1, 3>(q), WidenTo<8, 1, 3>(q), Scaled{scale});
  }
  // Sixteen codes that have their own scale, not times kUnit.
  HWY_INLINE void operator()(I8x16 q, float scale) {
    const hn::Half<decltype(di8)> dhalf;
    Widened(hn::PromoteTo(di, hn::LowerHalf(dhalf, q)),
            hn::PromoteTo(di, hn::UpperHalf(dhalf, q)), Scaled{scale});
  }
  // A group as two vectors of integers.
  template <class V, class Value0>
  HWY_INLINE void Widened(V lo, V hi, Value0 value) {
    const Floats f0 = Value(lo), f1 = Value(hi);
    StoreAs2<T, kStream>(df, value(df, f0), value(df, f1), to_);
    to_ += 16 * sizeof(T);
  }

  template <class... F>
  HWY_INLINE void Row(ByteRow row, F... scale) {
    PutPair(LoadCodes(row.p), LoadCodes(row.p + 16), Formula(scale...));
  }
  template <class Fn>
  HWY_INLINE void Halves(const Fn& codes, const float* scale) {
    PutRow(codes(ComputedRow(), size_t{0}), Formula(scale[0]),
           Formula(scale[1]));
  }

  // Whether 16 values are computed for each row of nibbles.
  static constexpr bool kByTable = sizeof(T) == 2;

  template <class Map, class Value>
  HWY_INLINE void Nibbles(const NibblesOf<Map, Value>& row) {
    if constexpr (kByTable) {
      Put(MadeReady(row));
    } else if constexpr (std::is_same_v<Map, Same>) {
      const U32x8 a = WidenEight(row.p), b = WidenEight(row.p + 8);
      PutFour(Low4(a), Low4(b), hn::ShiftRight<4>(a), hn::ShiftRight<4>(b),
              row.value, row.value);
    } else {
      const Codes bytes = LoadCodes(row.p);
      PutPair(row.map(LowNibbles(bytes)), row.map(HighNibbles(bytes)),
              row.value);
    }
  }
  // In two steps, as AVX-512 does it.
  static constexpr size_t kTablesAhead = kIsBf16 ? 2 : kByTable ? 3 : 0;
  // Each table, then a row.
  static constexpr bool kTablesApart = true;
  struct ReadyNibbles {
    static constexpr size_t kTables = 1;
    Codes row, low, high;
  };
  template <class Map, class Value>
  HWY_INLINE static ReadyNibbles MadeReady(const NibblesOf<Map, Value>& row) {
    return MadeReady(NibblesOfRow(RowTag<8>(), row.p, 0), row.map, row.value);
  }
  HWY_INLINE void Put(const ReadyNibbles& row) {
    PutFromTable(row.row, row.low, row.high);
  }
  struct ReadyTwoNibbles {
    static constexpr size_t kTables = 2;
    ReadyNibbles row0, row1;
  };
  template <class Value>
  HWY_INLINE static ReadyTwoNibbles MadeReady(const TwoNibblesOf<Value>& rows) {
    const Codes bytes = LoadCodes(RowTag<8>(), rows.p);
    return {MadeReady(LowNibbles(bytes), Same(), rows.value0),
            MadeReady(HighNibbles(bytes), Same(), rows.value1)};
  }
  HWY_INLINE void Put(const ReadyTwoNibbles& rows) {
    Put(rows.row0);
    Put(rows.row1);
  }
  template <class Value>
  HWY_INLINE void Nibbles(const TwoNibblesOf<Value>& rows) {
    if constexpr (kByTable) {
      Put(MadeReady(rows));
    } else {
      const U32x8 a = WidenEight(rows.p), b = WidenEight(rows.p + 8);
      const U32x8 c = WidenEight(rows.p + 16), d = WidenEight(rows.p + 24);
      PutFour(Low4(a), Low4(b), Low4(c), Low4(d), rows.value0, rows.value0);
      PutFour(hn::ShiftRight<4>(a), hn::ShiftRight<4>(b), hn::ShiftRight<4>(c),
              hn::ShiftRight<4>(d), rows.value1, rows.value1);
    }
  }
  // Nibbles that stand for themselves are widened by the load, low and high
  // ones at once; their scales are not times kUnit.
  static constexpr bool kWidensNibbles = !kByTable;

  // Whether values of 4-bit codes are looked up in memory, where they are known
  // there: as Looked, which for F32 are its upper bytes.
  static constexpr bool kKnownValues = true;
  using Known = ValueBytes<std::conditional_t<std::is_same_v<T, hwy::float16_t>,
                                              hwy::float16_t, hwy::bfloat16_t>>;
  using KnownOfRow = Known;
  HWY_INLINE void Nibbles(const uint8_t* p, const Known& values) {
    PutFromTable(NibblesOfRow(InterleavedRow(), p, 0), LoadCodes(values.low),
                 LoadCodes(values.high));
  }
  // Each half of the row is eight bytes in either block.
  template <class Fn>
  HWY_INLINE void Halves(const Fn& codes, const Known& values0,
                         const Known& values1) {
    const Codes q = codes(InterleavedRow(), size_t{0});
    const auto of = [&](const uint8_t* bytes) DEQUANT_LAMBDA {
      return hn::TableLookupBytes(LoadCodes(bytes), q);
    };
    PutWords(hn::InterleaveLower(dcodes, of(values0.low), of(values0.high)));
    PutWords(hn::InterleaveUpper(dcodes, of(values1.low), of(values1.high)));
  }

  static constexpr bool kFourValues = std::is_same_v<T, float>;

  HWY_INLINE void TwoBitRows(const uint8_t* p, const float* scale,
                             const float* offset) {
    if constexpr (kFourValues) {
      EachOf(kTimes<2>, [&](size_t i) DEQUANT_LAMBDA {
        const Codes bytes0 = LoadCodes(p + 32 * i);
        const Codes bytes1 = LoadCodes(p + 32 * i + 16);
        const auto four = [&](size_t j) DEQUANT_LAMBDA {
          const size_t half = 8 * i + j;
          return FourValues(Same(), Formula(scale[half], offset[half]));
        };
        PutTwoBits<0>(bytes0, bytes1, four(0), four(1));
        PutTwoBits<2>(bytes0, bytes1, four(2), four(3));
        PutTwoBits<4>(bytes0, bytes1, four(4), four(5));
        PutTwoBits<6>(bytes0, bytes1, four(6), four(7));
      });
    } else {
      // Each table is one of two rows.
      Codes low[4], high[4];
      const auto make = [&](auto i) DEQUANT_LAMBDA {
        OfGroups<TwoBitCodes>(Into(low[i()], high[i()]), scale + 4 * i(),
                              offset + 4 * i());
      };
      const auto use = [&](auto i) DEQUANT_LAMBDA {
        constexpr size_t kTable = i();
        constexpr int kFrom = kTable % 2 * 4;
        const Codes bytes = LoadCodes(LookedUpRow(), p + kTable / 2 * 32);
        const auto put = [&](Codes codes, size_t row) DEQUANT_LAMBDA {
          PutFromTable(IndexOf<TwoBitCodes, 16>(codes, row), low[kTable],
                       high[kTable]);
        };
        put(Field<kFrom, 2, TwoBitCodes::kCodeAt>(bytes), 0);
        put(Field<kFrom + 2, 2, TwoBitCodes::kCodeAt>(bytes), 1);
      };
      MakeAhead<4, 2>(make, use);
    }
  }
  template <int kFrom, class Fn, class Map, class F>
  HWY_INLINE void TwoBitsOfMany(const Fn& bytes, Map map, F scale) {
    if constexpr (kFourValues) {
      TwoBitsOfMany<kFrom>(map, scale, bytes(dcodes, size_t{0}),
                           bytes(dcodes, size_t{16}));
    } else {
      TwoBitsOfMany<kFrom>(map, scale, bytes(LookedUpRow(), size_t{0}));
    }
  }
  // Of a row that has the order of LookedUpRow.
  template <int kFrom, class Map, class F>
  HWY_INLINE void TwoBitsOfMany(Map map, F scale, Codes bytes) {
    if constexpr (kFourValues) {
      const Floats four = FourValues(map, Formula(scale));
      const hn::Repartition<uint16_t, decltype(dcodes)> d16;
      const Codes q =
          hn::BitCast(dcodes, hn::ShiftRight<kFrom>(hn::BitCast(d16, bytes)));
      PutOfFour(four, four, WidenTo<0, 1, 0, true>(q),
                WidenTo<8, 1, 0, true>(q), WidenTo<4, 1, 0, true>(q),
                WidenTo<12, 1, 0, true>(q));
    } else {
      PutFromFour(Field<kFrom, 2>(bytes), map, Formula(scale));
    }
  }
  template <int kFrom, class Map, class F>
  HWY_INLINE void TwoBitsOfMany(Map map, F scale, Codes bytes0, Codes bytes1) {
    if constexpr (kFourValues) {
      const Floats four = FourValues(map, Formula(scale));
      PutTwoBits<kFrom>(bytes0, bytes1, four, four);
    } else {
      PairOfMany(Field<kFrom, 2>(bytes0), Field<kFrom, 2>(bytes1), map, scale);
    }
  }

  // Rows of codes of kBits bits, the lowest first; `map` gets two bits.
  template <int kBits>
  static constexpr bool kPackedRows = kFourValues || kBits == 2;
  template <int kBits, class Map, class... F>
  HWY_INLINE void PackedRow(const uint8_t* p, Map map, F... scale) {
    if constexpr (kFourValues) {
      const Floats four = FourValues(map, Formula(scale...));
      EachOf(kTimes<kBits>, [&](size_t word) DEQUANT_LAMBDA {
        const auto all = hn::Set(du, Load32(p + 4 * word));
        EachOf(kTimes<32 / kBits / 8>, [&](size_t i) DEQUANT_LAMBDA {
          const uint32_t* shift = kShifts<kBits>.of + 8 * i;
          PutFloats(OfFour(four, hn::Shr(all, hn::LoadU(du, shift))));
        });
      });
    } else {
      PutFromFour(TwoBitRow(p), map, Formula(scale...));
    }
  }
  // Two such rows and two, of two scales, whose F16 are four each and are
  // converted at once.
  static constexpr bool kTwoOfFour = std::is_same_v<T, hwy::float16_t>;
  template <class Map>
  HWY_INLINE void PackedRowsOfTwo(const uint8_t* p0, const uint8_t* p1, Map,
                                  float scale0, float scale1) {
    const Floats scales =
        hn::ConcatUpperLower(df, hn::Set(df, scale1), hn::Set(df, scale0));
    const auto half =
        Narrow<T>(df, hn::Mul(hn::Load(df, kFourLanes<Map>.of[0]), scales));
    const Codes values = hn::BitCast(dcodes, hn::Combine(du16, half, half));
    const auto put = [&](const uint8_t* p, const auto& of) DEQUANT_LAMBDA {
      const Codes low = hn::TableLookupBytes(values, hn::Load(dcodes, of.low));
      const Codes high =
          hn::TableLookupBytes(values, hn::Load(dcodes, of.high));
      PutFromTable(TwoBitRow(p), low, high);
      PutFromTable(TwoBitRow(p + 8), low, high);
    };
    put(p0, kFourInNibbles<kIsBf16>);
    put(p1, kFourInNibbles<kIsBf16, 4>);
  }

  // A row of bits, which are 1 or, clear, -1.
  static constexpr bool kSignRows = sizeof(T) == 2;
  template <class F>
  HWY_INLINE void SignRow(const uint8_t* p, F scale) {
    const Floats one = Formula(scale)(df, hn::Set(df, 1 / kUnit));
    const U16x16 value = Narrowed(one, one);
    const U16x16 high = hn::ShiftRight<8>(value);
    const auto minus =
        hn::IfThenZeroElse(CodeBits(RowTag<8>(), p), hn::Set(dcodes, 0x80));
    const auto bytes = [](U16x16 v) HWY_ATTR {
      return hn::TableLookupBytes(hn::BitCast(dcodes, v), hn::Zero(dcodes));
    };
    PutBytes(bytes(value), hn::Xor(bytes(high), minus));
  }

  template <class Map, class... F>
  HWY_INLINE void PairOfMany(Codes q0, Codes q1, Map map, F... scale) {
    PutFromFour(InTurn(LookedUpRow(), q0, q1), map, Formula(scale...));
  }

  // Whether groups with few values have a table of them, not of codes below 16;
  // and the bit of such a code below 8 that is its first in an index.
  static constexpr bool kGroupTables = sizeof(T) == 2;

  HWY_INLINE static RowBytesInTurn<LookedUpRow> LookedUpBytes(
      const uint8_t* p) {
    return RowBytesInTurn<LookedUpRow>(p);
  }
  // More rows at once are for AVX-512.
  static constexpr bool kTwoRows = false;
  static constexpr size_t kRowsAtOnce = 1;
  static constexpr bool kPipelines = false;
  // Rows whose codes take many steps are unpacked to memory, in order, before
  // the values of others are computed: each step waits for the one before, and
  // the CPU's queue is too short for all of them. These codes have a scale that
  // is not times kUnit.
  static constexpr bool kCodesFirst = true;
  template <class Fn>
  HWY_INLINE static void StoreCodes(const Fn& codes, uint8_t* HWY_RESTRICT to) {
    Codes q = hn::BitCast(dcodes, codes(RowTag<16>(), size_t{0}));
    if constexpr (kIsBf16) {  // those at even places of 16 first
      alignas(16) static constexpr uint8_t kPlaces[16] = {
          0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15};
      q = hn::TableLookupBytes(q, hn::LoadDup128(dcodes, kPlaces));
    }
    hn::Store(q, dcodes, to);
  }
  template <class Value0, class Value1>
  HWY_INLINE void StoredRow(const uint8_t* HWY_RESTRICT from, Value0 value0,
                            Value1 value1) {
    const hn::FixedTag<int8_t, 8> d8;
    const auto q = [&](size_t i) DEQUANT_LAMBDA {
      const auto* p = reinterpret_cast<const int8_t*>(from + 8 * i);
      return hn::PromoteTo(di, hn::LoadU(d8, p));
    };
    PutFour(q(0), q(1), q(2), q(3), value0, value1);
  }
  // Rows of -4 to 3 times a scale for each half, whose codes, 0 to 7, are in
  // bits 0 to 2; look-ups ignore bits 4 to 6. Magnitudes are those of two rows,
  // and are made two rows before the tables, which are made two rows ahead.
  template <class Values, size_t kRows, class Fn>
  HWY_INLINE void RowsOfEight(const Fn& codes, const float* scale) {
    static_assert(kGroupTables && Values::kOf[0] * kUnit == -4);
    U16x16 magnitudes[kRows / 2];
    Codes low[kRows], high[kRows];
    ForEach(kTimes<kRows + 4>, [&](auto step) DEQUANT_LAMBDA {
      constexpr size_t s = step();
      if constexpr (s < kRows && s % 2 == 0) {
        magnitudes[s / 2] = MagnitudesOf(scale + 2 * s);
      }
      KeepOrder();
      if constexpr (s >= 2 && s - 2 < kRows) {
        constexpr size_t r = s - 2;
        SplitEights<r % 2>(magnitudes[r / 2], low[r], high[r]);
      }
      if constexpr (s >= 4) {
        constexpr size_t r = s - 4;
        const Codes q = codes(kTimes<r>)(LookedUpRow(), size_t{0});
        PutFromTable(hn::Xor(q, hn::Load(dcodes, kGroupInBit3.of)), low[r],
                     high[r]);
      }
      KeepOrder();
    });
  }

  // Four values (Values has them) for each of four scales: an index is the code
  // in bits 2 and 3, the group in bits 0 and 1, or, which takes two operations
  // more, the other way round. Or eight for each of two: the group in bit 0.
  template <class Values, class Use, class... Offset>
  HWY_INLINE static void OfGroups(const Use& use, const float* scale,
                                  Offset... offset) {
    constexpr const auto& kLanes = kTableLanes<Values, kIsBf16>;
    const auto load = [](const float* of, size_t group) DEQUANT_LAMBDA {
      if constexpr (std::size(Values::kOf) == 4) return hn::LoadDup128(df, of);
      if constexpr (kIsBf16) return hn::Set(df, of[group]);
      return hn::ConcatUpperLower(df, hn::Set(df, of[1]), hn::Set(df, of[0]));
    };
    const auto lanes = [&](size_t i) DEQUANT_LAMBDA {
      const Floats value = hn::Load(df, kLanes.of[i]);
      if constexpr (sizeof...(Offset) == 0) {
        return hn::Mul(value, load(scale, i));
      } else {
        return Values::Value(value, load(scale, i), load(offset..., i));
      }
    };
    // Of two codes in turn, first all of one.
    alignas(16) static constexpr uint8_t kInTurn[16] = {
        0, 4, 8, 12, 2, 6, 10, 14, 1, 5, 9, 13, 3, 7, 11, 15};
    // Pairs of bytes, each of two values of a group.
    alignas(16) static constexpr uint8_t kPairs[16] = {
        0, 8, 2, 10, 4, 12, 6, 14, 1, 9, 3, 11, 5, 13, 7, 15};
    const auto narrowed = [&]() DEQUANT_LAMBDA {
      if constexpr (kIsBf16 && sizeof...(Offset) == 0) {
        return InTurnOfRounded(Rounded<kLanes>(load(scale, 0), 0),
                               Rounded<kLanes>(load(scale, 1), 1));
      } else {
        return Narrowed(lanes(0), lanes(1));
      }
    };
    const U16x16 values = narrowed();
    if constexpr (std::size(Values::kOf) == 4 && kGroupAt<Values> == 0) {
      Split<uint64_t>(use, values, kIsBf16 ? kInTurn : kLowHigh);
    } else if constexpr (std::size(Values::kOf) == 4) {
      Split<uint16_t>(use, values, kIsBf16 ? kLowHigh : kPairs);
    } else {
      Split<uint64_t>(use, values, kIsBf16 ? kLowHigh : kPairs);
    }
  }
  HWY_INLINE void PutFromTable(Codes row, Codes low, Codes high) {
    PutBytes(hn::TableLookupBytes(low, row), hn::TableLookupBytes(high, row));
  }
  // With the top bits of `sign` in those of the values.
  HWY_INLINE void PutSigned(Codes row, Codes sign, Codes low, Codes high) {
    PutBytes(hn::TableLookupBytes(low, row),
             hn::Xor(hn::TableLookupBytes(high, row), sign));
  }

 private:
  static constexpr hn::FixedTag<float, 8> df{};
  static constexpr hn::FixedTag<int32_t, 8> di{};
  static constexpr hn::FixedTag<uint32_t, 8> du{};
  static constexpr hn::FixedTag<uint16_t, 16> du16{};
  using Floats = hn::Vec<hn::FixedTag<float, 8>>;
  using U32x8 = hn::Vec<hn::FixedTag<uint32_t, 8>>;
  using U16x16 = hn::Vec<hn::FixedTag<uint16_t, 16>>;

  HWY_INLINE static U32x8 WidenEight(const uint8_t* p) {
    return hn::PromoteTo(du, hn::LoadU(hn::FixedTag<uint8_t, 8>(), p));
  }
  HWY_INLINE static U32x8 Low4(U32x8 bytes) {
    return hn::And(bytes, hn::Set(du, 15));
  }
  template <class V>
  HWY_INLINE static Floats Value(V lanes) {
    return hn::ConvertTo(df, hn::BitCast(di, lanes));
  }

  // Codes of a row, and of two groups.
  template <class V, class Value0, class Value1>
  HWY_INLINE void PutRow(V q, Value0 value0, Value1 value1) {
    constexpr int kStep = kIsBf16 ? 2 : 1;
    constexpr int kFirst[4] = {0, kIsBf16 ? 1 : 8, kIsBf16 ? 8 : 4,
                               kIsBf16 ? 9 : 12};
    PutFour(WidenTo<kFirst[0], kStep, 3, true>(q),
            WidenTo<kFirst[1], kStep, 3, true>(q),
            WidenTo<kFirst[2], kStep, 3, true>(q),
            WidenTo<kFirst[3], kStep, 3, true>(q), value0, value1);
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
      const U16x16 first = Bf16InTurn<T>(df, v0, v1);
      const U16x16 second = Bf16InTurn<T>(df, v2, v3);
      Store<kStream>(du16, first, to_);
      Store<kStream>(du16, second, to_ + 32);
    } else {
      StoreAs2<T, kStream>(df, v0, v1, to_);
      StoreAs2<T, kStream>(df, v2, v3, to_ + 16 * sizeof(T));
    }
    to_ += 32 * sizeof(T);
  }

  // A row of 2-bit fields: all bytes twice, the second time four bits lower; of
  // these nibbles, bits 0 and 1 are a code or bits 2 and 3.
  HWY_INLINE static Codes TwoBitRow(const uint8_t* p) {
    alignas(32) static constexpr uint64_t kShift[4] = {0, 4, 0, 4};
    const hn::Repartition<uint64_t, decltype(dcodes)> du64;
    const auto twice =
        hn::Shr(hn::Set(du64, Load64(p)), hn::Load(du64, kShift));
    const Codes nibbles = hn::TableLookupBytes(
        hn::BitCast(dcodes, twice), hn::Load(dcodes, kTwoBitPlaces.nibble));
    return hn::And(nibbles, hn::Load(dcodes, kTwoBitPlaces.bits));
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
    Store<kStream>(df, v, to_);
    to_ += 32;
  }

  // For what makes a table.
  HWY_INLINE static auto Into(Codes& low, Codes& high) {
    return [&](Codes l, Codes h) DEQUANT_LAMBDA {
      low = l;
      high = h;
    };
  }
  // A row of RowTag<8>, and the table of what `map` makes of 0 to 15.
  template <class Map, class Value>
  HWY_INLINE static ReadyNibbles MadeReady(Codes row, Map map, Value value) {
    ReadyNibbles ready;
    ready.row = row;
    MakeTable(map, value, Into(ready.low, ready.high));
    return ready;
  }
  // The same of 0 to 3: kFourInNibbles are its codes.
  template <class Map, class Value>
  HWY_INLINE void PutFromFour(Codes row, Map map, Value value) {
    Codes values;
    if constexpr (kIsBf16) {
      static_assert(kIsProduct<Value>);
      values = hn::BitCast(dcodes, Rounded<kFourLanes<Map>>(value.scale));
    } else {
      const auto half = Narrow<T>(df, FourValues(map, value));
      values = hn::BitCast(dcodes, hn::Combine(du16, half, half));
    }
    constexpr const auto& kOf = kFourInNibbles<kIsBf16>;
    PutFromTable(row, hn::TableLookupBytes(values, hn::Load(dcodes, kOf.low)),
                 hn::TableLookupBytes(values, hn::Load(dcodes, kOf.high)));
  }
  // 1 to 4 times four scales, of two rows: as F16, of all scales 1, then 2, and
  // so on, each row's together; as BF16, 1 and 3 of each scale, then 2 and 4.
  HWY_INLINE static U16x16 MagnitudesOf(const float* scale) {
    const Floats scales = hn::LoadDup128(df, scale);
    if constexpr (kIsBf16) {
      return InTurnOfRounded(Rounded<kFourMagnitudes>(scales, 0),
                             Rounded<kFourMagnitudes>(scales, 1));
    } else {
      const auto times = [&](const float* of) DEQUANT_LAMBDA {
        return hn::Mul(scales, hn::Load(df, of));
      };
      const U16x16 halves = Narrow2<T>(df, times(kFourMagnitudes.of[0]),
                                       times(kFourMagnitudes.of[1]));
      return hn::BitCast(
          du16, hn::Per4LaneBlockShuffle<3, 1, 2, 0>(hn::BitCast(du, halves)));
    }
  }
  // The table of one of the rows.
  template <size_t kRow>
  HWY_INLINE static void SplitEights(U16x16 magnitudes, Codes& low,
                                     Codes& high) {
    constexpr int kGroup = kIsBf16 ? 2 : 1, kBit0 = kIsBf16 ? 4 : 2;
    constexpr int kBit1 = kIsBf16 ? 1 : 4;
    constexpr int kQuarters = kRow == 0 ? 0b10001000 : 0b11011101;
    const Codes words{_mm256_permute4x64_epi64(magnitudes.raw, kQuarters)};
    HWY_NAMESPACE::SplitEights(kSignedEights<kGroup, kBit0, kBit1>, words, low,
                               high);
  }
  // use(low, high): the bytes of those.
  template <class Map, class Value0, class Use>
  HWY_INLINE static void MakeTable(Map map, Value0 value, const Use& use) {
    constexpr int kFirst1 = kIsBf16 ? 1 : 8, kStep = kIsBf16 ? 2 : 1;
    if constexpr (kIsBf16 && kIsProduct<Value0>) {
      constexpr const auto& kOf = kCodeLanes<Map>;
      const U16x16 values = InTurnOfRounded(Rounded<kOf>(value.scale, 0),
                                            Rounded<kOf>(value.scale, 1));
      return Split<uint64_t>(use, values, kLowHigh);
    }
    const auto q = map(LoadCodes(kAllCodes));
    const Floats v0 = value(df, Value(WidenTo<0, kStep, 3>(q)));
    const Floats v1 = value(df, Value(WidenTo<kFirst1, kStep, 3>(q)));
    Split<uint64_t>(use, Narrowed(v0, v1), kLowHigh);
  }
  // -8 to 7 times a scale are eight magnitudes.
  template <class Value0, class Use>
  HWY_INLINE static void MakeTable(Minus8, Value0 value, const Use& use) {
    constexpr const auto& kOf = kSignedNibbles<kIsBf16>;
    U16x16 words;
    if constexpr (kIsBf16) {
      static_assert(kIsProduct<Value0>);
      const U32x8 rounded = Rounded<kMagnitudes>(value.scale);
      const U32x8 other = hn::ConcatLowerUpper(du, rounded, rounded);
      words = hn::OddEven(hn::BitCast(du16, other),
                          hn::BitCast(du16, hn::ShiftRight<16>(rounded)));
    } else {
      const Floats values = value(df, hn::Load(df, kMagnitudes.of[0]));
      const auto half = Narrow<T>(df, values);
      words = hn::Combine(du16, half, half);
    }
    const Codes bytes = hn::BitCast(dcodes, words);
    const auto low = hn::TableLookupBytesOr0(bytes, hn::Load(dcodes, kOf.low));
    const auto high = hn::TableLookupBytes(bytes, hn::Load(dcodes, kOf.high));
    use(low, hn::Xor(hn::And(high, hn::Load(dcodes, kOf.kept)),
                     hn::Load(dcodes, kOf.sign)));
  }
  // RoundedBf16 of vector v of constants times a scale.
  template <const auto& kLanes>
  HWY_INLINE static U32x8 Rounded(Floats scale, size_t v = 0) {
    constexpr const auto& kFactors = kBf16Factors<kLanes>;
    return RoundedBf16(df, kFactors.less[v], kFactors.whole[v], scale);
  }
  template <const auto& kLanes>
  HWY_INLINE static U32x8 Rounded(float scale, size_t v = 0) {
    return Rounded<kLanes>(hn::Set(df, scale), v);
  }
  // Eight values and eight, BF16 in turn.
  HWY_INLINE static U16x16 Narrowed(Floats v0, Floats v1) {
    if constexpr (kIsBf16) {
      return Bf16InTurn<T>(df, v0, v1);
    } else {
      return Narrow2<T>(df, v0, v1);
    }
  }
  // The bytes of 16 values, which `order` takes to eight low and eight high
  // ones in each block; then Units of one block and the other are in turn.
  template <typename Unit, class Use>
  HWY_INLINE static void Split(const Use& use, U16x16 values,
                               const uint8_t* order) {
    const hn::Repartition<uint64_t, decltype(dcodes)> du64;
    const hn::Repartition<Unit, decltype(dcodes)> dunit;
    const auto split = hn::BitCast(
        du64,
        hn::TableLookupBytes(hn::BitCast(dcodes, values), LoadCodes(order)));
    if constexpr (sizeof(Unit) == 8) {
      // The low ones of both blocks in each, and the high ones.
      const __m256i bytes = split.raw;
      return use(Codes{_mm256_permute4x64_epi64(bytes, 0b10001000)},
                 Codes{_mm256_permute4x64_epi64(bytes, 0b11011101)});
    }
    const auto first =
        hn::BitCast(dunit, hn::ConcatLowerLower(du64, split, split));
    const auto second =
        hn::BitCast(dunit, hn::ConcatUpperUpper(du64, split, split));
    use(hn::BitCast(dcodes, hn::InterleaveLower(dunit, first, second)),
        hn::BitCast(dcodes, hn::InterleaveUpper(dunit, first, second)));
  }
  HWY_INLINE void PutBytes(Codes low, Codes high) {
    PutWords(hn::InterleaveLower(dcodes, low, high));
    PutWords(hn::InterleaveUpper(dcodes, low, high));
  }
  // 16 values, or their upper halves.
  HWY_INLINE void PutWords(Codes words) {
    if constexpr (sizeof(T) == 2) {
      Store<kStream>(dcodes, words, to_);
      to_ += 32;
    } else {
      const U16x16 upper = hn::BitCast(du16, words), lower = hn::Zero(du16);
      PutFloats(hn::BitCast(df, hn::InterleaveLower(du16, lower, upper)));
      PutFloats(hn::BitCast(df, hn::InterleaveUpper(du16, lower, upper)));
    }
  }
  alignas(16) static constexpr uint8_t kLowHigh[16] = {
      0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15};

  uint8_t* to_;
};

}  // namespace HWY_NAMESPACE
}  // namespace dequant
HWY_AFTER_NAMESPACE();
#endif  // HWY_TARGET

#endif  // per-target include guard
