// blocks -> values: the sink of AVX-512, which takes rows of 32 codes.
//
// What it does is what sink-inl.h does. Its look-ups see as many bits of an
// index as the table has entries, so that codes need no mask: what is above
// them may be those of the next row. Most of its work needs one port of the
// CPU, that of shuffles: widening, packing, masks from memory.

#if defined(DEQUANT_KERNELS_SINK_AVX3_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef DEQUANT_KERNELS_SINK_AVX3_INL_H_
#undef DEQUANT_KERNELS_SINK_AVX3_INL_H_
#else
#define DEQUANT_KERNELS_SINK_AVX3_INL_H_
#endif

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <type_traits>

#include "hwy/highway.h"
#include "kernels/codes-inl.h"
#include "kernels/narrow-inl.h"
#include "kernels/scalar.h"
#include "kernels/tables/fp4.h"

#if HWY_TARGET <= HWY_AVX3
HWY_BEFORE_NAMESPACE();
namespace dequant {
namespace HWY_NAMESPACE {

using RowCodes = hn::Vec<decltype(drow)>;
using SignedRowCodes = hn::Vec<hn::RebindToSigned<decltype(drow)>>;

// Where the codes of a row are, kBits bits each: the byte for both bytes of a
// lane, and the bit in it; and from which bit of the row a lane is taken to
// have them from bit kTo on.
template <int kBits, int kTo = 0>
struct PackedLanes {
  alignas(64) uint8_t byte[64];
  alignas(64) uint16_t shift[32];
  alignas(64) uint16_t from[32];
  constexpr PackedLanes() : byte{}, shift{}, from{} {
    for (int i = 0; i < 32; ++i) {
      byte[2 * i] = byte[2 * i + 1] = static_cast<uint8_t>(i * kBits / 8);
      shift[i] = static_cast<uint16_t>(i * kBits % 8);
      from[i] = static_cast<uint16_t>((i * kBits + 64 - kTo % 8) % 64
                                      << (kTo / 8 * 8));
    }
  }
};
template <int kBits, int kTo = 0>
inline constexpr PackedLanes<kBits, kTo> kPackedLanes;

// Which code of a row is byte kAt of each 32-bit lane. Byte 63 is zero.
template <bool kUpper, int kAt>
struct WidenedHalf {
  alignas(64) uint8_t byte[64];
  constexpr WidenedHalf() : byte{} {
    for (int i = 0; i < 64; ++i) {
      byte[i] = static_cast<uint8_t>(i % 4 == kAt ? 16 * kUpper + i / 4 : 63);
    }
  }
};
template <bool kUpper, int kAt = 0>
inline constexpr WidenedHalf<kUpper, kAt> kWidenedHalf;

// Codes of 5 bits, of which those with the upper bit may stand for 32 less.
template <bool kSigned>
struct FiveBitCodes {
  alignas(64) float of[2][16];
  constexpr FiveBitCodes() : of{} {
    for (int i = 0; i < 32; ++i) {
      of[i / 16][i % 16] =
          kSigned ? (i < 16 ? i : i - 32) / kSignedUnit : static_cast<float>(i);
    }
  }
};
template <bool kSigned>
inline constexpr FiveBitCodes<kSigned> kFiveBitCodes;

// What a map makes of kCodes codes, again and again.
template <class Map, int kCodes>
struct MappedCodes {
  alignas(64) float of[16];
  constexpr MappedCodes() : of{} {
    for (int i = 0; i < 16; ++i) {
      of[i] = static_cast<float>(Map::Of(i % kCodes));
    }
  }
};
template <class Map, int kCodes>
inline constexpr MappedCodes<Map, kCodes> kMappedCodes;

// The bit from which each of 16 nibbles starts in eight bytes.
template <typename Lane>
struct NibbleLanes {
  alignas(64) Lane from[16];
  constexpr NibbleLanes() : from{} {
    for (Lane i = 0; i < 16; ++i) from[i] = i % 8 * 8 + i / 8 * 4;
  }
};
template <typename Lane>
inline constexpr NibbleLanes<Lane> kNibbleLanes;

// The values of four codes for each of eight groups, or of eight for each of
// four, as the lanes of the two vectors that make a table. An index is the
// group in bits 0 to 2 and the code above them; or the group in bits 0 and 4
// and the code between them.
template <class Values>
struct TableLanes {
  alignas(64) float of[2][16];
  constexpr TableLanes() : of{} {
    for (size_t i = 0; i < 32; ++i) {
      of[i / 16][i % 16] =
          Values::kOf[std::size(Values::kOf) == 4 ? i / 8 : i % 16 / 2];
    }
  }
};
template <class Values>
inline constexpr TableLanes<Values> kTableLanes;

// The values of four codes, again and again; and lanes whose numbers differ
// from theirs in kBits.
template <class Values>
struct FourTimesFour {
  alignas(64) float of[16];
  constexpr FourTimesFour() : of{} {
    for (size_t i = 0; i < 16; ++i) of[i] = Values::kOf[i % 4];
  }
};
template <class Values>
inline constexpr FourTimesFour<Values> kFourTimesFour;

template <uint32_t kBits>
struct XorLanes {
  alignas(64) uint32_t of[16];
  constexpr XorLanes() : of{} {
    for (uint32_t i = 0; i < 16; ++i) of[i] = i ^ kBits;
  }
};
template <uint32_t kBits>
inline constexpr XorLanes<kBits> kXorLanes;

// What is added to the codes of a row for indices of such a table; less kBits,
// which are in all codes.
template <size_t kGroups, size_t kPerScale, typename Lane, size_t kBits = 0>
struct GroupsOfRows {
  alignas(64) Lane of[8][32];
  constexpr GroupsOfRows() : of{} {
    for (size_t i = 0; i < 8 * 32; ++i) {
      const size_t group = i / kPerScale % kGroups;
      of[i / 32][i % 32] = static_cast<Lane>(
          kBits ^ (kGroups == 4 ? group % 2 + group / 2 * 16 : group));
    }
  }
};
template <size_t kGroups, size_t kPerScale, typename Lane, size_t kBits = 0>
inline constexpr GroupsOfRows<kGroups, kPerScale, Lane, kBits> kGroupsOfRows;
template <class Values, size_t kPerScale>
HWY_INLINE RowCodes IndexOf(RowCodes q, size_t row_of_table) {
  constexpr size_t kGroups = 32 / std::size(Values::kOf);
  const auto& of = kGroupsOfRows<kGroups, kPerScale, uint8_t>.of;
  return hn::Or(q, hn::Load(drow, of[row_of_table]));
}

// A row of 2-bit codes in eight bytes, from bit kTo on of lanes of 16 bits.
// Other bits may be anything.
using RowLanes = hn::Vec<hn::FixedTag<uint16_t, 32>>;
template <int kTo = 3>
HWY_INLINE RowLanes PackedCodes(const uint8_t* p) {
  const hn::FixedTag<uint16_t, 32> d;
  const hn::Repartition<uint64_t, decltype(d)> d64;
  const auto all = hn::Set(d64, Load64(p));
#if DEQUANT_HAS_VBMI
  const RowLanes from = hn::Load(d, (kPackedLanes<2, kTo>.from));
  return RowLanes{_mm512_multishift_epi64_epi8(from.raw, all.raw)};
#else
  const hn::Repartition<uint8_t, decltype(d)> d8;
  const auto bytes = hn::TableLookupBytes(hn::BitCast(d8, all),
                                          hn::Load(d8, kPackedLanes<2>.byte));
  return hn::ShiftLeft<kTo>(
      hn::Shr(hn::BitCast(d, bytes), hn::Load(d, kPackedLanes<2>.shift)));
#endif
}
template <class Values, size_t kPerScale>
HWY_INLINE RowLanes IndexOf(RowLanes codes, size_t row_of_table) {
  const hn::FixedTag<uint16_t, 32> d;
  const auto& of = kGroupsOfRows<8, kPerScale, uint16_t>.of;
  return hn::OrAnd(hn::Load(d, of[row_of_table]), codes, hn::Set(d, 3 << 3));
}

// GCC would load it into another register first, which takes three operations.
HWY_INLINE __mmask16 LoadMask16(const uint8_t* p) {
#if HWY_COMPILER_MSVC
  return static_cast<__mmask16>(Load16(p));
#else
  __mmask16 m;
  asm("kmovw %1, %0"
      : "=k"(m)
      : "m"(*reinterpret_cast<const uint8_t(*)[2]>(p)));
  return m;
#endif
}

// Which bytes make a 32-bit lane of an OffsetByteRow: nothing, the code,
// nothing, and the byte that is put behind the row.
template <bool kUpper>
struct OffsetByteLanes {
  alignas(64) uint8_t byte[64];
  constexpr OffsetByteLanes() : byte{} {
    for (int i = 0; i < 64; ++i) {
      byte[i] = static_cast<uint8_t>(i % 4 == 1   ? 16 * kUpper + i / 4
                                     : i % 4 == 3 ? 32
                                                  : 33);
    }
  }
};
template <bool kUpper>
inline constexpr OffsetByteLanes<kUpper> kOffsetByteLanes;
// What codes are XORed with to be q + 128, and what is put behind them.
struct OffsetBytes {
  alignas(64) uint8_t bits[64];
  constexpr OffsetBytes() : bits{} {
    for (int i = 0; i < 32; ++i) bits[i] = 0x80;
    bits[32] = 0x47;
  }
};
inline constexpr OffsetBytes kOffsetBytes;

// 0 to 127 as floats, but 128 for 0. And which bytes of the two vectors of 16
// bits of 64 of them are low, and which are high.
struct Magnitudes128 {
  alignas(64) float of[128];
  constexpr Magnitudes128() : of{} {
    for (int i = 0; i < 128; ++i) of[i] = static_cast<float>(i == 0 ? 128 : i);
  }
};
inline constexpr Magnitudes128 kMagnitudes128;
template <bool kHigh>
struct BytesOfWords {
  alignas(64) uint8_t byte[64];
  constexpr BytesOfWords() : byte{} {
    for (int i = 0; i < 64; ++i) byte[i] = static_cast<uint8_t>(2 * i + kHigh);
  }
};
template <bool kHigh>
inline constexpr BytesOfWords<kHigh> kBytesOfWords;
// Those below 64, and 128, are some of the others halved or doubled. These are
// their bytes, and how much less the high one is, if there is any.
template <bool kHigh>
struct HalvedBytes {
  alignas(64) uint8_t byte[64];
  alignas(64) uint8_t less[64];
  constexpr HalvedBytes() : byte{}, less{} {
    for (int i = 0; i < 64; ++i) {
      int from = i == 0 ? 64 : i, halved = i == 0 ? -1 : 0;
      for (; from < 64; from *= 2) ++halved;
      byte[i] = static_cast<uint8_t>(2 * (from - 64) + kHigh);
      less[i] = static_cast<uint8_t>(halved << (10 - 8));
    }
  }
};
template <bool kHigh>
inline constexpr HalvedBytes<kHigh> kHalvedBytes;
// The order of eight bytes each from which two rows are put together by
// interleaving bytes within 128 bits.
alignas(64) inline constexpr uint64_t kInterleaved[8] = {0, 4, 1, 5,
                                                         2, 6, 3, 7};

// A code of 5 bits from bit 18 of its lane on is a subnormal of F32 as it
// stands, 2^-131 times itself. Multiplied by a scale that takes 2^131 back, it
// needs no conversion, and has the same bits. That costs nothing on Zen 4
// (elsewhere it may: Highway picks this target on AMD's CPUs only), but the
// scale must be less than 2^-3.
constexpr int kSubnormalFrom = 18;

template <typename T, bool kStream = false, bool kAnyScale = false>
class Sink {
  static constexpr bool kIsBf16 =
      sizeof(T) == 2 && !std::is_same_v<T, hwy::float16_t>;
  static constexpr hn::FixedTag<float, 16> df{};
  static constexpr hn::FixedTag<int32_t, 16> di{};
  static constexpr hn::FixedTag<uint32_t, 16> du32{};
  static constexpr hn::FixedTag<uint16_t, 32> du16{};
  static constexpr hn::FixedTag<uint8_t, 64> dbytes{};
  using Floats = hn::Vec<hn::FixedTag<float, 16>>;
  using I32x16 = hn::Vec<hn::FixedTag<int32_t, 16>>;
  using U32x16 = hn::Vec<hn::FixedTag<uint32_t, 16>>;
  using U16x32 = hn::Vec<hn::FixedTag<uint16_t, 32>>;

  // Whether nibbles are looked up 16 at a time, in vectors that have as many
  // lanes: then codes need no mask. In halves of vectors, a shuffle is half the
  // work on Zen 4.
  static constexpr bool kBySixteen =
      sizeof(T) == 4 || HWY_TARGET == HWY_AVX3_ZEN4;

  // One instruction narrows two vectors to BF16, in the time of one. So nibbles
  // come in pairs of rows, with one table for both.
  static constexpr bool kNarrowsTwo = std::is_same_v<T, NormalBf16>;

 public:
  using Value = T;
  using LookedUpRow = hn::FixedTag<uint8_t, 32>;

  HWY_INLINE explicit Sink(uint8_t* to) : to_(to) {}

  // Whether EightRows takes an OffsetByteRow. A lane with q + 128 in bits 8 to
  // 15 and 0x47 in its top byte is the float 2^15 + 128 + q as it stands, which
  // needs no conversion. That times a scale, less kByteOffset times the scale,
  // is q times the scale, rounded once: the latter product is exact. But a 0
  // would be +0, so scales must be above 0.
  static constexpr bool kTakesOffsetBytes =
      HWY_TARGET == HWY_AVX3_ZEN4 && sizeof(T) == 2 && !kAnyScale;

  // Whether Rows and SubnormalRow take such codes, where the scale goes with
  // it.
  static constexpr bool kTakesSubnormals =
      HWY_TARGET == HWY_AVX3_ZEN4 && sizeof(T) == 4 && !kAnyScale;

  template <class V>
  HWY_INLINE void operator()(V q, float scale) {
    StoreAs<T, kStream>(df, Formula(scale)(df, FloatsOf(q)), to_);
    to_ += 16 * sizeof(T);
  }
  HWY_INLINE static RowBytes Bytes(const uint8_t* p) { return {p}; }
  template <class Fn, class... F>
  HWY_INLINE void Row(const Fn& codes, F... scale) {
    const auto q = codes(drow, size_t{0});
    const auto value = Formula(scale...);
    if constexpr (kIsBf16 || kTwoTables) {
      // All values of 5 bits are as much work as a row.
      constexpr bool kIsSigned = !hwy::IsSame<decltype(q), const RowCodes>();
      constexpr const auto& kCodes = kFiveBitCodes<kIsSigned>.of;
      const Floats lower = value(df, hn::Load(df, kCodes[0]));
      const Floats upper = value(df, hn::Load(df, kCodes[1]));
      const RowCodes bits = hn::BitCast(drow, q);
      if constexpr (kIsBf16) {
        PutRowOf<0>(bits, Narrow2<T>(df, lower, upper), value);
      } else {
        PutFromTwo<kIsSigned>(bits, Narrow<T>(df, lower), Narrow<T>(df, upper));
      }
    } else {
      PutRow(q, value, value);
    }
  }
  template <class... F>
  HWY_INLINE void Row(ByteRow row, F... scale) {
    const auto value = Formula(scale...);
    if constexpr (kByHalf<T, std::remove_const_t<decltype(value)>>) {
      PutRow(LoadCodes(drow, row.p), value, value);
    } else {
      PutFloats(HalfOfRow<false>(row), HalfOfRow<true>(row), value, value);
    }
  }
  // Several rows at once: what waits for the step before it keeps what is
  // behind it in the CPU's queue waiting. codes(i) are as for Row or Halves,
  // value(i, half) is a formula; i is a constant. Rows that 16 bits look up, or
  // compute as F16, come one by one.
  static constexpr size_t kRowsAtOnce = sizeof(T) == 4 ? 4 : 1;
  static constexpr bool kCodesFirst = false;

  // Whether rows are pipelined: each is widened kRowsAhead rows before it is
  // converted, and so are the next eight, unless next is NoRows.
  static constexpr bool kPipelines =
      !(HWY_HAVE_FLOAT16 && std::is_same_v<T, hwy::float16_t>);
  // (Without VBMI, codes take more registers.)
  static constexpr size_t kRowsAhead = DEQUANT_HAS_VBMI ? 7 : 6;
  template <class V>
  struct WideRow {
    V lower, upper;
  };
  template <class Row>
  struct RowsAhead {
    Row row[kRowsAhead];
  };
  template <class Fn>
  HWY_INLINE static auto BeginRows(const Fn& codes) {
    RowsAhead<decltype(Wide(codes(kTimes<0>)))> ahead;
    ForEach(kTimes<kRowsAhead>,
            [&](auto i) DEQUANT_LAMBDA { ahead.row[i] = Wide(codes(i)); });
    return ahead;
  }
  template <class Fn, class Value, class Row, class Next>
  HWY_INLINE void EightRows(const Fn& codes, const Value& value,
                            RowsAhead<Row>& ahead, const Next& next) {
    constexpr size_t n = 8;
    Row row[n + kRowsAhead];
    ForEach(kTimes<kRowsAhead>,
            [&](auto i) DEQUANT_LAMBDA { row[i] = ahead.row[i]; });
    ForEach(kTimes<n>, [&](auto k) DEQUANT_LAMBDA {
      constexpr size_t i = k() + kRowsAhead;
      if constexpr (i < n) {
        row[i] = Wide(codes(kTimes<i>));
      } else if constexpr (!std::is_same_v<Next, NoRows>) {
        row[i] = Wide(next(kTimes<i - n>));
      }
      PutFloats(ToFloats(row[k].lower), ToFloats(row[k].upper), value(k, 0),
                value(k, 1));
      KeepOrder();
    });
    if constexpr (!std::is_same_v<Next, NoRows>) {
      ForEach(kTimes<kRowsAhead>,
              [&](auto i) DEQUANT_LAMBDA { ahead.row[i] = row[n + i]; });
    }
  }
  // Step by step.
  template <bool kSubnormals = false, class Fn, class Value>
  HWY_INLINE void FourRows(const Fn& codes, const Value& value) {
    constexpr auto n = kTimes<4>;
    decltype(Loaded(codes(kTimes<0>))) q[n];
    Floats lower[n], upper[n];
    ForEach(n, [&](auto i) DEQUANT_LAMBDA { q[i] = Loaded(codes(i)); });
    ForEach(n, [&](auto i) DEQUANT_LAMBDA {
      if constexpr (kSubnormals) {
        lower[i] = HalfOfSubnormals<false>(q[i]);
        upper[i] = HalfOfSubnormals<true>(q[i]);
      } else {
        lower[i] = HalfOfRow<false>(q[i]);
        upper[i] = HalfOfRow<true>(q[i]);
      }
    });
    ForEach(n, [&](auto i) DEQUANT_LAMBDA {
      PutFloats(lower[i], upper[i], value(i, 0), value(i, 1));
    });
  }
#if DEQUANT_HAS_VBMI
  template <class Fn, class Value>
  HWY_INLINE void SubnormalRow(const Fn& codes, Value value) {
    const RowCodes q = codes(drow, size_t{0});
    PutFloats(HalfOfSubnormals<false>(q), HalfOfSubnormals<true>(q), value,
              value);
  }
#endif
  template <class Fn>
  HWY_INLINE void Halves(const Fn& codes, const float* scale) {
    Halves(Signed(codes(drow, size_t{0})), scale[0], scale[1]);
  }
  HWY_INLINE void Halves(SignedRowCodes q, ScaledAlike value) {
    PutRow(q, value, value);
  }
  HWY_INLINE void Halves(SignedRowCodes q, float scale0, float scale1) {
    PutRow(q, Formula(scale0), Formula(scale1));
  }

#if DEQUANT_HAS_VBMI
  // Signed bytes, many of which share an F32 scale. 16 bits of Zen 4 compute
  // the values of their 128 magnitudes once, and look up bytes: low and high
  // ones, interleaved, are a row, and no code is widened. Entry 0 is for 128;
  // zeros are put in by a mask. Each step is for the values of another block or
  // other rows, so that none waits for the one before it.
  static constexpr bool kLooksUpMagnitudes =
      HWY_TARGET == HWY_AVX3_ZEN4 && sizeof(T) == 2;
  // F16 computes 64 of them: half of a value is one less in its exponent, if
  // none is 0, subnormal or Inf.
  static constexpr bool kHalvesMagnitudes =
      std::is_same_v<T, hwy::float16_t> && !kAnyScale;
  HWY_INLINE static bool TakesMagnitudes(uint32_t scale) {
    const uint32_t bits = scale & 0x7FFFFFFF;
    if constexpr (kHalvesMagnitudes) {
      return bits >= (127u - 14) << 23 && bits < (127u + 15 - 7) << 23;
    } else if constexpr (kIsBf16) {
      return bits == 0 || (bits >= 1u << 23 && bits < (255u - 7) << 23);
    } else {
      return IsFiniteF32(scale);
    }
  }
  // In memory, from where a broadcast is nothing but a load: the magnitude of a
  // scale, and its sign in each byte.
  struct MagnitudeScale {
    uint32_t magnitude, minus;
    HWY_INLINE explicit MagnitudeScale(uint32_t scale)
        : magnitude(scale & 0x7FFFFFFF), minus((scale >> 31) * 0x80808080) {}
  };
  struct Magnitudes {
    U8x64 low[2], high[2];
  };
  // (All of a kind in one step: BF16 1 %, F16 5 % slower.)
  class MagnitudesToMake {
   public:
    template <int kStep>
    HWY_INLINE void Do(const MagnitudeScale& scale) {
      constexpr auto kAll = kTimes<kWords>;
      constexpr auto kHalf = kTimes<kWords / 2>;
      if constexpr (kStep == 0) {
        ForEach(kAll, [&](auto i) DEQUANT_LAMBDA { Multiply<i()>(scale); });
      } else if constexpr (kStep == 1) {
        ForEach(kHalf, [&](auto i) DEQUANT_LAMBDA { Narrow<i()>(); });
        ForEach(kAll,
                [&](auto i) DEQUANT_LAMBDA { Multiply<kAll + i()>(scale); });
      } else if constexpr (kStep == 2) {
        if constexpr (!kHalvesMagnitudes) {
          made_.low[0] = Bytes<0>(kBytesOfWords<false>);
          made_.high[0] = Bytes<0>(kBytesOfWords<true>);
        }
        ForEach(kHalf, [&](auto i) DEQUANT_LAMBDA { Narrow<kHalf + i()>(); });
      } else {
        made_.low[1] = Bytes<kWords - 2>(kBytesOfWords<false>);
        made_.high[1] = Bytes<kWords - 2>(kBytesOfWords<true>);
        if constexpr (kHalvesMagnitudes) {
          made_.low[0] = Bytes<0>(kHalvedBytes<false>);
          made_.high[0] = hn::Sub(Bytes<0>(kHalvedBytes<true>),
                                  hn::Load(dbytes, kHalvedBytes<true>.less));
        }
      }
    }
    HWY_INLINE const Magnitudes& Made() const { return made_; }

   private:
    // Vectors of 32 values; those of F16 are of 64 to 127.
    static constexpr size_t kWords = kHalvesMagnitudes ? 2 : 4;

    template <size_t i>
    HWY_INLINE void Multiply(const MagnitudeScale& scale) {
      const float* of = kMagnitudes128.of + 128 - 32 * kWords + 16 * i;
      const auto d = hn::BitCast(df, hn::Set(du32, scale.magnitude));
      floats_[i] = hn::Mul(d, hn::Load(df, of));
    }
    template <size_t i>
    HWY_INLINE void Narrow() {
      words_[i] = Narrow2<T>(df, floats_[2 * i], floats_[2 * i + 1]);
    }
    template <size_t i, class Places>
    HWY_INLINE U8x64 Bytes(const Places& at) const {
      return LookUp128(hn::BitCast(dbytes, words_[i]),
                       hn::BitCast(dbytes, words_[i + 1]),
                       hn::Load(dbytes, at.byte));
    }

    Floats floats_[2 * kWords];
    U16x32 words_[kWords];
    Magnitudes made_;
  };

  // Two rows: where their values are, and their signs.
  struct SignedIndices {
    U8x64 index, sign;
    hn::Mask<decltype(dbytes)> some;
  };
  HWY_INLINE static SignedIndices IndicesOf(const int8_t* p,
                                            const MagnitudeScale& scale) {
    const hn::Repartition<uint64_t, decltype(dbytes)> du64;
    const auto* bytes = reinterpret_cast<const uint8_t*>(p);
    const auto lanes = hn::BitCast(du64, hn::LoadU(dbytes, bytes));
    const auto order = hn::SetTableIndices(du64, kInterleaved);
    const auto q = hn::BitCast(dbytes, hn::TableLookupLanes(lanes, order));
    const auto minus = hn::BitCast(dbytes, hn::Set(du32, scale.minus));
    return {hn::BitCast(dbytes, hn::Abs(Signed(q))),
            hn::And(hn::Xor(q, minus), hn::Set(dbytes, 0x80)),
            hn::TestBit(q, q)};
  }
  struct BytesOfRows {
    U8x64 low, high;
  };
  HWY_INLINE static BytesOfRows LookedUp(const SignedIndices& at,
                                         const Magnitudes& of) {
    const auto byte = [&](const U8x64* table) DEQUANT_LAMBDA {
      return U8x64{_mm512_maskz_permutex2var_epi8(at.some.raw, table[0].raw,
                                                  at.index.raw, table[1].raw)};
    };
    return {byte(of.low), hn::Xor(byte(of.high), at.sign)};
  }
  HWY_INLINE void PutRows(const BytesOfRows& of) {
    StoreRow(hn::InterleaveLower(dbytes, of.low, of.high));
    StoreRow(hn::InterleaveUpper(dbytes, of.low, of.high));
  }
#else
  static constexpr bool kLooksUpMagnitudes = false;
#endif

  static constexpr bool kGroupTables = sizeof(T) == 2;
  HWY_INLINE static RowBytes LookedUpBytes(const uint8_t* p) { return {p}; }
  // Two rows of codes below 8, the first in bits 1 to 3, the second in bits 5
  // to 7, which stand for what Values has. Each half of them has a scale. Lanes
  // that are widened for the first row serve the second, four bits lower.
  static constexpr bool kTwoRows = true;
  template <class Values, class Fn>
  HWY_INLINE void TwoRowsOfEight(const Fn& codes, const float* scale) {
    alignas(32) static constexpr uint8_t kGroup[32] = {
        0,    0,    0,    0,    0,    0,    0,    0,    0,    0,    0,
        0,    0,    0,    0,    0,    0x11, 0x11, 0x11, 0x11, 0x11, 0x11,
        0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11};
    const RowCodes q = hn::Or(codes(drow, size_t{0}), hn::Load(drow, kGroup));
    const Floats values0 = Lanes<Values, 0>(scale);
    const Floats values1 = Lanes<Values, 0>(scale + 2);
    if constexpr (sizeof(T) == 4) {
      const U32x16 lower = Widened<false>(q), upper = Widened<true>(q);
      PutOf16<0>(lower, values0);
      PutOf16<0>(upper, values0);
      PutOf16<4>(lower, values1);
      PutOf16<4>(upper, values1);
    } else {
      const U16x32 wide = hn::PromoteTo(du16, q);
      if constexpr (kIsBf16) {
        PutTwo(wide, Narrow2<T>(df, values1, values0));
      } else {
        StoreRow(LookedUp(hn::And(wide, hn::Set(du16, 15)),
                          hn::ResizeBitCast(du16, Narrow<T>(df, values0))));
        StoreRow(LookedUp(hn::ShiftRight<4>(wide),
                          hn::ResizeBitCast(du16, Narrow<T>(df, values1))));
      }
    }
  }
  // use(table): 32 values.
  template <class Values, class Use, class... Offset>
  HWY_INLINE static void OfGroups(const Use& use, const float* scale,
                                  Offset... offset) {
    use(Narrow2<T>(df, Lanes<Values, 0>(scale, offset...),
                   Lanes<Values, 1>(scale, offset...)));
  }
  // Four values for each of eight groups; a row of such codes, below anything,
  // by the four of its group. A broadcast is nothing but a load, and saves what
  // puts the group into an index.
  template <class Values>
  HWY_INLINE static void StoreFours(hn::Vec<hn::Half<decltype(df)>> scale,
                                    uint16_t* to) {
    alignas(64) static constexpr uint32_t kLane[2][16] = {
        {0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3},
        {4, 4, 4, 4, 5, 5, 5, 5, 6, 6, 6, 6, 7, 7, 7, 7}};
    const Floats all = hn::ZeroExtendVector(df, scale);
    const Floats four = hn::Load(df, kFourTimesFour<Values>.of);
    const auto values = [&](const uint32_t* lanes) DEQUANT_LAMBDA {
      return hn::Mul(Permuted(lanes, all), four);
    };
    hn::StoreU(Narrow2<T>(df, values(kLane[0]), values(kLane[1])), du16, to);
  }
  HWY_INLINE void PutOfFour(RowLanes codes, hn::Mask<decltype(drow)> minus,
                            const uint16_t* four) {
    const hn::Repartition<uint64_t, decltype(du16)> du64;
    const auto* p = reinterpret_cast<const uint8_t*>(four);
    const auto table = hn::BitCast(du16, hn::Set(du64, Load64(p)));
    StoreSigned(LookedUp(codes, table), minus);
  }

  HWY_INLINE void PutFromTable(RowCodes q, U16x32 table) {
    PutFromTable(hn::PromoteTo(du16, q), table);
  }
  HWY_INLINE void PutFromTable(RowLanes q, U16x32 table) {
    StoreRow(LookedUp(q, table));
  }
  // Indices below 32.
  HWY_INLINE void PutSigned(RowCodes q, hn::Mask<decltype(drow)> minus,
                            U16x32 table) {
    if constexpr (HWY_TARGET == HWY_AVX3_ZEN4) {
      // To set bit 5 in bytes is half the work of a sign in words; it then
      // looks up what is behind the table.
      const RowCodes index = hn::MaskedAddOr(q, minus, q, hn::Set(drow, 32));
      StoreRow(LookedUpOfTwo(hn::PromoteTo(du16, index), table,
                             hn::Xor(table, hn::Set(du16, 0x8000))));
    } else {
      PutSigned(hn::PromoteTo(du16, q), minus, table);
    }
  }
  HWY_INLINE void PutSigned(RowLanes q, hn::Mask<decltype(drow)> minus,
                            U16x32 table) {
    StoreSigned(LookedUp(q, table), minus);
  }

  template <class Map, class Value>
  HWY_INLINE void Nibbles(const NibblesOf<Map, Value>& row) {
    const auto table = Table(row.map, row.value);
    if constexpr (kBySixteen) {
      PutOf16<0>(LoadCodes(row.p), table);
      PutOf16<4>(LoadCodes(row.p), table);
    } else {
      PutRowOf<0>(NibblesOfRow(drow, row.p, 0), table, row.value);
    }
  }
  // The same in two steps. What waits for the table keeps what is behind it in
  // the CPU's queue waiting, so 16 bits of Zen 4 make a few rows ready ahead.
  static constexpr size_t kTablesAhead =
      sizeof(T) == 2 && kBySixteen ? (kNarrowsTwo ? 2 : 6) : 0;
  static constexpr bool kTablesApart = false;
  struct ReadyNibbles {
    static constexpr size_t kTables = 1;
    hn::Vec<hn::Half<decltype(du16)>> codes;
    U16x32 table;
  };
  template <class Map, class Value>
  HWY_INLINE static ReadyNibbles MadeReady(const NibblesOf<Map, Value>& row) {
    const hn::Half<decltype(du16)> dhalf;
    return {hn::PromoteTo(dhalf, LoadCodes(row.p)), Table(row.map, row.value)};
  }
  HWY_INLINE void Put(const ReadyNibbles& row) {
    PutOf16<0>(row.codes, row.table);
    PutOf16<4>(row.codes, row.table);
  }
  struct ReadyTwoNibbles {
    static constexpr size_t kTables = 2;
    hn::Vec<hn::Half<decltype(du16)>> codes0, codes1;
    U16x32 table0, table1;
  };
  HWY_INLINE void Put(const ReadyTwoNibbles& rows) {
    PutOf16<0>(rows.codes0, rows.table0);
    PutOf16<0>(rows.codes1, rows.table0);
    PutOf16<4>(rows.codes0, rows.table1);
    PutOf16<4>(rows.codes1, rows.table1);
  }
  struct ReadyTwoRows {
    static constexpr size_t kTables = 2;
    RowCodes codes0, codes1;
    U16x32 table;
  };
  template <class Map, class Value>
  requires(kNarrowsTwo) HWY_INLINE static ReadyTwoRows
      MadeReady(const NibblesOf<Map, Value>& row0,
                const NibblesOf<Map, Value>& row1) {
    return {NibblesOfRow(drow, row0.p, 0),
            NibblesOfRow<16, 0x10>(drow, row1.p, 0),
            TableOfTwo(row0.map, row0.value, row1.value)};
  }
  HWY_INLINE void Put(const ReadyTwoRows& rows) {
    PutFromTable(rows.codes0, rows.table);
    PutFromTable(rows.codes1, rows.table);
  }
  // A pair that shares its bytes.
  struct ReadyTwoInOne {
    static constexpr size_t kTables = 2;
    U16x32 codes, table;
  };
  HWY_INLINE void Put(const ReadyTwoInOne& rows) {
    PutTwo(rows.codes, rows.table);
  }
  template <class Value>
  HWY_INLINE static auto MadeReady(const TwoNibblesOf<Value>& rows) {
    if constexpr (kNarrowsTwo) {
      return ReadyTwoInOne{hn::PromoteTo(du16, LoadCodes(drow, rows.p)),
                           TableOfTwo(Same(), rows.value1, rows.value0)};
    } else {
      const hn::Half<decltype(du16)> dhalf;
      return ReadyTwoNibbles{hn::PromoteTo(dhalf, LoadCodes(rows.p)),
                             hn::PromoteTo(dhalf, LoadCodes(rows.p + 16)),
                             Table(Same(), rows.value0),
                             Table(Same(), rows.value1)};
    }
  }
  template <class Value>
  HWY_INLINE void Nibbles(const TwoNibblesOf<Value>& rows) {
    NibblesFrom<0>(rows.p, rows.value0, Table(Same(), rows.value0));
    NibblesFrom<4>(rows.p, rows.value1, Table(Same(), rows.value1));
  }
  static constexpr bool kWidensNibbles = false;

  // For a row, half of the table is less to read and a sign more; for 16 codes,
  // that is more.
  static constexpr bool kKnownValues = true;
  using Known16 = std::conditional_t<kIsBf16, hwy::bfloat16_t, T>;
  using Known =
      std::conditional_t<sizeof(T) == 4, ValueScale, ValueWords<Known16>>;
  using KnownOfRow =
      std::conditional_t<sizeof(T) == 4, ValueScale, HalfOfValueWords<Known16>>;
  HWY_INLINE void Nibbles(const uint8_t* p, const KnownOfRow& values) {
    const auto table = LoadTable(values);
    if constexpr (kBySixteen) {
      PutOf16<0>(LoadCodes(p), table);
      PutOf16<4>(LoadCodes(p), table);
    } else {
      PutFromTable(NibblesOfRow(drow, p, 0), table);
    }
  }
  template <class Fn>
  HWY_INLINE void Halves(const Fn& codes, const Known& values0,
                         const Known& values1) {
    const RowCodes q = codes(drow, size_t{0});
    const auto table0 = LoadTable(values0), table1 = LoadTable(values1);
    if constexpr (sizeof(T) == 4) {
      PutOf16<0>(hn::LowerHalf(dcodes, q), table0);
      PutOf16<0>(hn::UpperHalf(dcodes, q), table1);
    } else {
      alignas(32) static constexpr uint8_t kTable[32] = {
          0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,
          16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16};
      PutFromTable(hn::Or(q, hn::Load(drow, kTable)),
                   hn::ConcatLowerLower(du16, table1, table0));
    }
  }

#if DEQUANT_HAS_VBMI
  // 16 nibbles in eight bytes, the low ones first.
  HWY_INLINE void NibbleGroup(const uint8_t* p, const Known& values) {
    using Lane = std::conditional_t<sizeof(T) == 4, uint32_t, uint16_t>;
    const hn::FixedTag<Lane, 16> d;
    const hn::Repartition<uint64_t, decltype(d)> du64;
    // A look-up sees four bits of a lane.
    const auto from = hn::Load(d, kNibbleLanes<Lane>.from).raw;
    const auto all = hn::Set(du64, Load64(p)).raw;
    if constexpr (sizeof(T) == 4) {
      const __m512i index = _mm512_multishift_epi64_epi8(from, all);
      StoreFloats(Floats{_mm512_permutexvar_ps(index, LoadTable(values).raw)});
    } else {
      const __m256i index = _mm256_multishift_epi64_epi8(from, all);
      const auto table = hn::Load(d, values.word);
      const hn::Vec<decltype(d)> v{_mm256_permutexvar_epi16(index, table.raw)};
      Store<kStream>(d, v, to_);
      to_ += 32;
    }
  }
#endif

#if DEQUANT_HAS_VBMI
  // What the codes of 2 bits of 16 groups stand for: as 16 bits, codes 0 and 1
  // of all groups, then 2 and 3; or, for every fourth group on from the first,
  // the second and so on, four of a group.
  struct FourOf16 {
    std::conditional_t<sizeof(T) == 4, Floats, U16x32> of[sizeof(T)];
  };
  // The codes of scales that come with it, in lanes.
  using ScaleLanes = hn::Vec<hn::FixedTag<int32_t, 16>>;
  HWY_INLINE static ScaleLanes WidenScales(Codes q) {
    return hn::PromoteTo(di, hn::BitCast(di8, q));
  }
  HWY_INLINE static FourOf16 MakeFourOf16(ScaleLanes scales, float d,
                                          ScaleLanes offsets, float doffset) {
    const auto times = [](ScaleLanes q, float of) DEQUANT_LAMBDA {
      return hn::Mul(hn::ConvertTo(df, q), Broadcast(df, of));
    };
    const Floats scale = times(scales, d), offset = times(offsets, doffset);
    const auto all = [&](float code) DEQUANT_LAMBDA {
      return hn::MulAdd(hn::Set(df, code), scale, offset);
    };
    const Floats v0 = all(0), v1 = hn::Add(scale, offset), v2 = all(2),
                 v3 = all(3);
    if constexpr (sizeof(T) == 4) {
      const hn::Repartition<double, decltype(df)> df64;
      const auto pairs = [&](auto of)
                             DEQUANT_LAMBDA { return hn::BitCast(df64, of); };
      const auto a = pairs(hn::InterleaveLower(df, v0, v1));
      const auto b = pairs(hn::InterleaveUpper(df, v0, v1));
      const auto c = pairs(hn::InterleaveLower(df, v2, v3));
      const auto d = pairs(hn::InterleaveUpper(df, v2, v3));
      return {{hn::BitCast(df, hn::InterleaveLower(df64, a, c)),
               hn::BitCast(df, hn::InterleaveUpper(df64, a, c)),
               hn::BitCast(df, hn::InterleaveLower(df64, b, d)),
               hn::BitCast(df, hn::InterleaveUpper(df64, b, d))}};
    } else {
      return {{Narrow2<T>(df, v0, v1), Narrow2<T>(df, v2, v3)}};
    }
  }
  // The same of 16 bits and three codes without an offset. Codes may come with
  // bits below them, which then are where the group is as well: kInAll, and
  // what each code has in kBelow.
  template <class Values>
  HWY_INLINE static FourOf16 MakeThreeOf16(const float* scale) {
    const auto all = [&](auto code) DEQUANT_LAMBDA {
      constexpr uint32_t kBelow = Values::kBelow[code()];
      Floats scales = hn::LoadU(df, scale);
      if constexpr (kBelow != 0) {
        scales = Permuted(kXorLanes<kBelow>.of, scales);
      }
      return hn::Mul(hn::Set(df, Values::kOf[code()]), scales);
    };
    const U16x32 first = Narrow2<T>(df, all(kTimes<0>), all(kTimes<1>));
    const Floats last = all(kTimes<2>);
    if constexpr (kIsBf16) {
      return {{first, Narrow2<T>(df, last, last)}};
    } else {
      return {{first, hn::ResizeBitCast(du16, Narrow<T>(df, last))}};
    }
  }
  // Row kRow of such codes, in bits 4 and 5.
  template <int kRow, class Values>
  HWY_INLINE void PutSignedOf16(RowCodes codes, hn::Mask<decltype(drow)> minus,
                                const FourOf16& values) {
    StoreSigned(LookedUpOf16<kRow, Values::kInAll>(codes, values), minus);
  }
  template <int kRow, class Values>
  HWY_INLINE void PutSignedOf16(RowLanes codes, hn::Mask<decltype(drow)> minus,
                                const FourOf16& values) {
    StoreSigned(LookedUpOf16<kRow>(codes, values), minus);
  }
  // 32 bytes that have the codes of four rows, from bits 0, 2, 4 and 6 on. For
  // 16 bits they are widened once, ahead of the rows.
  struct NotAhead {};
  using RowsOfFour = std::conditional_t<sizeof(T) == 4, NotAhead, RowLanes>;
  HWY_INLINE static RowsOfFour WidenRowsOfFour(const uint8_t* p) {
    if constexpr (sizeof(T) == 4) {
      return {};
    } else {
      return hn::PromoteTo(du16, LoadCodes(drow, p));
    }
  }
  // Rows kRow to kRow + 3, and what is ahead of them.
  template <int kRow>
  HWY_INLINE void FourRowsOfFour(const uint8_t* p, RowsOfFour lanes,
                                 const FourOf16& values) {
    if constexpr (sizeof(T) == 4) {
      TwoRowsOfFour<kRow, 0>(p, values);
      TwoRowsOfFour<kRow + 2, 4>(p, values);
    } else {
      // A look-up sees six bits of a lane.
      PutOf16<kRow>(hn::ShiftLeft<4>(lanes), values);
      PutOf16<kRow + 1>(FieldTo4<2>(lanes), values);
      PutOf16<kRow + 2>(FieldTo4<4>(lanes), values);
      PutOf16<kRow + 3>(FieldTo4<6>(lanes), values);
    }
  }
#else
  HWY_INLINE void TwoBitRows(const uint8_t* p, const float* scale,
                             const float* offset) {
    FourTwoBitRows(p, scale, offset);
    FourTwoBitRows(p + 32, scale + 8, offset + 8);
  }
  HWY_INLINE void FourTwoBitRows(const uint8_t* p, const float* scale,
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
      const auto use = [&](U16x32 table) DEQUANT_LAMBDA {
        const U16x32 bytes = hn::PromoteTo(du16, LoadCodes(drow, p));
        PutOfGroups<0>(bytes, table);
        PutOfGroups<1>(bytes, table);
        PutOfGroups<2>(bytes, table);
        PutOfGroups<3>(bytes, table);
      };
      OfGroups<TwoBitCodes>(use, scale, offset);
    }
  }
#endif
  template <int kFrom, class Fn, class Map, class F>
  HWY_INLINE void TwoBitsOfMany(const Fn& bytes, Map map, F scale) {
    if constexpr (sizeof(T) == 4) {
      TwoBitsOfMany<kFrom>(map, scale, bytes(dcodes, size_t{0}),
                           bytes(dcodes, size_t{16}));
    } else {
      TwoBitsOfMany<kFrom>(map, scale, bytes(drow, size_t{0}));
    }
  }
  template <int kFrom, class Map, class F>
  HWY_INLINE void TwoBitsOfMany(Map map, F scale, Codes bytes0, Codes bytes1) {
    if constexpr (sizeof(T) == 4) {
      const auto four = FourValues(map, Formula(scale));
      PutOf4<kFrom>(bytes0, four);
      PutOf4<kFrom>(bytes1, four);
    } else {
      TwoBitsOfMany<kFrom>(map, scale, hn::Combine(drow, bytes1, bytes0));
    }
  }
  template <int kFrom, class Map, class F>
  HWY_INLINE void TwoBitsOfMany(Map map, F scale, RowCodes bytes) {
    if constexpr (sizeof(T) == 4) {
      TwoBitsOfMany<kFrom>(map, scale, hn::LowerHalf(dcodes, bytes),
                           hn::UpperHalf(dcodes, bytes));
    } else {
      const auto value = Formula(scale);
      PutRowOf<kFrom>(bytes, TableOfFour(map, value), value);
    }
  }

  // Codes of 2 bits at the bottom of lanes, as many as a vector has values, and
  // what stands for them. Above a code is anything.
  using CodeLane = std::conditional_t<sizeof(T) == 4, uint32_t, uint16_t>;
  template <class Map, class F>
  HWY_INLINE static auto ValuesOfFour(Map map, F scale) {
    if constexpr (sizeof(T) == 4) {
      return FourValues(map, Formula(scale));
    } else {
      return TableOfFour(map, Formula(scale));
    }
  }
  HWY_INLINE void PutLanes(U32x16 codes, Floats values) {
    StoreFloats(Floats{_mm512_permutevar_ps(values.raw, codes.raw)});
  }
  HWY_INLINE void PutLanes(U16x32 codes, U16x32 values) {
    StoreRow(LookedUp(codes, values));
  }

#if !DEQUANT_HAS_VBMI
  // A row of bytes, of which those below 256/3 stand for -1, the next for 0,
  // and those from 512/3 on for 1.
  HWY_INLINE void Thirds(float scale, RowCodes v) {
    const auto from0 = From(v, kFrom0), from1 = From(v, kFrom1);
    if constexpr (sizeof(T) == 4) {
      PutThirds(scale, from0, from1);
      PutThirds(scale, from0 >> 16, from1 >> 16);
    } else {
      const auto one = Narrow<T>(df, Broadcast(df, scale));
      const U16x32 plus = hn::Combine(du16, one, one);
      const U16x32 sign = hn::Set(du16, 0x8000);
      const hn::Mask<decltype(du16)> m0{from0}, m1{from1};
      const U16x32 low =
          hn::IfThenElse(m0, hn::And(plus, sign), hn::Xor(plus, sign));
      StoreRow(hn::IfThenElse(m1, plus, low));
    }
  }
  HWY_INLINE void Thirds(float scale, Codes v0, Codes v1) {
    if constexpr (sizeof(T) == 4) {
      PutThirds(scale, From(v0, kFrom0), From(v0, kFrom1));
      PutThirds(scale, From(v1, kFrom0), From(v1, kFrom1));
    } else {
      Thirds(scale, hn::Combine(drow, v1, v0));
    }
  }
#endif

  // What four numbers make, in every four lanes; and half a row of F32 of codes
  // of 2 bits that stand for that, without or with signs.
  template <class Value>
  HWY_INLINE static Floats PackedValues(const float* four, Value value) {
    return value(df, hn::Load(df, four));
  }
  HWY_INLINE void PackedHalf(const uint8_t* p, Floats values) {
    StoreFloats(OfPacked(p, values));
  }
  HWY_INLINE void PackedHalf(const uint8_t* p, Floats values,
                             const uint8_t* minus) {
    const __m512i bits = hn::BitCast(du32, OfPacked(p, values)).raw;
    const __mmask16 m = LoadMask16(minus);
    const U32x16 sign = hn::Set(du32, 1u << 31);
    StoreFloats(hn::BitCast(
        df, U32x16{_mm512_mask_xor_epi32(bits, m, bits, sign.raw)}));
  }

  // A row of bits, which are 1 or, clear, -1.
  static constexpr bool kSignRows = sizeof(T) == 2;
  template <class F>
  HWY_INLINE void SignRow(const uint8_t* p, F scale) {
    const Floats one = Formula(scale)(df, hn::Set(df, 1.0f));
    const auto narrow = Narrow<T>(df, one);
    const U16x32 value = hn::Combine(du16, narrow, narrow);
    const U16x32 minus = hn::Xor(value, hn::Set(du16, 0x8000));
    StoreRow(hn::IfThenElse(hn::Mask<decltype(du16)>{Load32(p)}, value, minus));
  }

  template <int kBits>
  static constexpr bool kPackedRows = true;
  static constexpr bool kTwoOfFour = false;
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
        PutLanes(hn::Shr(all, hn::LoadU(du, shift)), four);
      });
    } else {
      const hn::Repartition<uint64_t, decltype(dbytes)> du64;
      const auto all = hn::Set(du64, kBits == 1 ? Load32(p) : Load64(p));
#if DEQUANT_HAS_VBMI
      // The bits from each code on, to its lane.
      const U16x32 from = hn::Load(du16, kPackedLanes<kBits>.from);
      const U16x32 lanes{_mm512_multishift_epi64_epi8(from.raw, all.raw)};
#else
      // Each code's byte to its 16-bit lane, and its bits to the bottom.
      const auto bytes = hn::TableLookupBytes(
          hn::BitCast(dbytes, all), hn::Load(dbytes, kPackedLanes<kBits>.byte));
      const U16x32 lanes = hn::Shr(hn::BitCast(du16, bytes),
                                   hn::Load(du16, kPackedLanes<kBits>.shift));
#endif
      PutIndices(lanes, TableOfFour(map, value), value);
    }
  }

 private:
#if !DEQUANT_HAS_VBMI
  // The first bytes of thirds that stand for 0 and for 1; a bit for each byte
  // from there on.
  static constexpr uint8_t kFrom0 = 86, kFrom1 = 171;
  template <class V>
  HWY_INLINE static auto From(V v, uint8_t first) {
    return hn::Ge(v, hn::Set(hn::DFromV<V>(), first)).raw;
  }
  // Half a row of F32, by the lower 16 of these bits.
  template <class M>
  HWY_INLINE void PutThirds(float scale, M from0, M from1) {
    const Floats plus = Broadcast(df, scale);
    const hn::Mask<decltype(df)> m0{static_cast<__mmask16>(from0)};
    const hn::Mask<decltype(df)> m1{static_cast<__mmask16>(from1)};
    const Floats low =
        hn::IfThenElse(m0, hn::Mul(plus, hn::Zero(df)), hn::Neg(plus));
    StoreFloats(hn::IfThenElse(m1, plus, low));
  }
#endif

  template <class V>
  HWY_INLINE static Floats FloatsOf(V q) {
    return hn::ConvertTo(df, hn::PromoteTo(di, hn::BitCast(di8, q)));
  }

  HWY_INLINE static Floats Permuted(const uint32_t* lanes, Floats v) {
    return Floats{_mm512_permutexvar_ps(hn::Load(du32, lanes).raw, v.raw)};
  }

  HWY_INLINE static Floats OfPacked(const uint8_t* p, Floats values) {
    const auto index =
        hn::Shr(hn::Set(du32, Load32(p)), hn::LoadU(du32, kShifts<2>.of));
    return Floats{_mm512_permutevar_ps(values.raw, index.raw)};
  }

  // What HalfOfRow takes. Bytes it widens from memory: half of a vector takes
  // the port of shuffles, too.
  template <class Fn>
  HWY_INLINE static auto Loaded(const Fn& codes) {
    return codes(drow, size_t{0});
  }
  HWY_INLINE static ByteRow Loaded(ByteRow row) { return row; }
#if DEQUANT_HAS_VBMI
  HWY_INLINE static U8x64 Loaded(OffsetByteRow row) {
    const auto* p = reinterpret_cast<const uint8_t*>(row.p);
    return hn::Xor(hn::ZeroExtendVector(dbytes, LoadCodes(drow, p)),
                   hn::Load(dbytes, kOffsetBytes.bits));
  }
#endif
  HWY_INLINE static Floats ToFloats(I32x16 q) { return hn::ConvertTo(df, q); }
  HWY_INLINE static Floats ToFloats(Floats q) { return q; }
  template <class Row>
  HWY_INLINE static auto Wide(Row codes) {
    const auto q = Loaded(codes);
    const auto lower = WidenedHalf<false>(q);
    return WideRow<std::remove_const_t<decltype(lower)>>{lower,
                                                         WidenedHalf<true>(q)};
  }
  // The lower or the upper 16 codes of a row, of signed ones over kSignedUnit.
  template <bool kUpper, class Row>
  HWY_INLINE static Floats HalfOfRow(Row row) {
    return hn::ConvertTo(df, WidenedHalf<kUpper>(row));
  }
  template <bool kUpper>
  HWY_INLINE static I32x16 WidenedHalf(ByteRow row) {
    return hn::PromoteTo(di, LoadCodes(row.p + 16 * kUpper));
  }
  template <bool kUpper>
  HWY_INLINE static I32x16 WidenedHalf(SignedRowCodes q) {
#if DEQUANT_HAS_VBMI
    return hn::BitCast(
        di, WidenedTo(kWidenedHalf<kUpper, 3>, hn::BitCast(drow, q)));
#else
    return hn::PromoteTo(
        di, kUpper ? hn::UpperHalf(di8, q) : hn::LowerHalf(di8, q));
#endif
  }
  template <bool kUpper>
  HWY_INLINE static I32x16 WidenedHalf(RowCodes q) {
#if DEQUANT_HAS_VBMI
    return hn::BitCast(di, WidenedTo(kWidenedHalf<kUpper>, q));
#else
    return WidenedHalf<kUpper>(Signed(q));
#endif
  }
#if DEQUANT_HAS_VBMI
  // One instruction takes them out and widens them.
  template <class Places>
  HWY_INLINE static U8x64 WidenedTo(const Places& at, RowCodes q) {
    return hn::TableLookupLanes(hn::ZeroExtendVector(dbytes, q),
                                hn::SetTableIndices(dbytes, at.byte));
  }
  template <bool kUpper>
  HWY_INLINE static Floats WidenedHalf(U8x64 q) {
    const auto at = hn::SetTableIndices(dbytes, kOffsetByteLanes<kUpper>.byte);
    return hn::BitCast(df, hn::TableLookupLanes(q, at));
  }
  template <bool kUpper>
  HWY_INLINE static Floats HalfOfSubnormals(RowCodes q) {
    constexpr int kByte = kSubnormalFrom / 8;
    return hn::BitCast(df, WidenedTo(kWidenedHalf<kUpper, kByte>, q));
  }
#endif

  template <class V, class Value0, class Value1>
  HWY_INLINE void PutRow(V q, Value0 value0, Value1 value1) {
    if constexpr (kByHalf<T, Value0>) {
      const hn::FixedTag<hwy::float16_t, 32> dh;
      const auto wide = hn::PromoteTo(hn::RebindToSigned<decltype(dh)>(), q);
      StoreRow(value0.OfCodes(dh, wide));
    } else {
      PutFloats(HalfOfRow<false>(q), HalfOfRow<true>(q), value0, value1);
    }
  }
  // A row of codes of four bits, whose values are the upper half of the table,
  // and the row of those above them. A look-up sees five bits of a lane.
  HWY_INLINE void PutTwo(U16x32 codes, U16x32 table) {
    StoreRow(LookedUp(hn::Or(codes, hn::Set(du16, 16)), table));
    StoreRow(LookedUp(hn::ShiftRight<4>(codes), table));
  }
  template <class Value0, class Value1>
  HWY_INLINE void PutFloats(Floats lo, Floats hi, Value0 value0,
                            Value1 value1) {
    lo = value0(df, lo);
    hi = value1(df, hi);
    if constexpr (HWY_TARGET == HWY_AVX3_ZEN4 &&
                  std::is_same_v<T, hwy::float16_t>) {
      // What converts and stores in one is slower there.
      const hn::Half<decltype(du16)> dhalf;
      Store<kStream>(dhalf, Narrow<T>(df, lo), to_);
      Store<kStream>(dhalf, Narrow<T>(df, hi), to_ + 32);
    } else {
      StoreAs2<T, kStream>(df, lo, hi, to_);
    }
    to_ += 32 * sizeof(T);
  }

  // What Map makes of 0 to 3, in every four lanes.
  template <class Map, class Value>
  HWY_INLINE static Floats FourValues(Map, Value value) {
    return value(df, hn::Load(df, kMappedCodes<Map, 4>.of));
  }
#if DEQUANT_HAS_VBMI
  template <int kRow, int kFrom>
  HWY_INLINE void TwoRowsOfFour(const uint8_t* p, const FourOf16& values) {
    // Above a code, groups that are four apart.
    const RowCodes q = TwoFields<kFrom, kFrom + 2, 2, 0, 4, kRow / 2 * 0x44>(
        LoadCodes(drow, p));
    const U32x16 lower = Widened<false>(q), upper = Widened<true>(q);
    PutOf16<0>(lower, values.of[0]);
    PutOf16<0>(upper, values.of[1]);
    PutOf16<4>(lower, values.of[2]);
    PutOf16<4>(upper, values.of[3]);
  }
  template <int kFrom>
  HWY_INLINE static RowLanes FieldTo4(RowLanes lanes) {
    return hn::BitCast(du16, Field<kFrom, 2, 4>(hn::BitCast(dbytes, lanes)));
  }
  // Row kRow of codes from bit 4 on, below which is nothing.
  template <int kRow>
  HWY_INLINE void PutOf16(RowLanes codes, const FourOf16& values) {
    const auto& groups = kGroupsOfRows<16, 16, uint16_t>.of[kRow];
    StoreRow(LookedUpOf16(hn::Or(hn::Load(du16, groups), codes), values));
  }
  template <int kRow, size_t kBits = 0>
  HWY_INLINE static U16x32 LookedUpOf16(RowCodes codes,
                                        const FourOf16& values) {
    const auto& groups = kGroupsOfRows<16, 16, uint8_t, kBits>.of[kRow];
    const RowCodes index = hn::Xor(hn::Load(drow, groups), codes);
    return LookedUpOf16(hn::PromoteTo(du16, index), values);
  }
  template <int kRow>
  HWY_INLINE static U16x32 LookedUpOf16(RowLanes codes,
                                        const FourOf16& values) {
    const auto& groups = kGroupsOfRows<16, 16, uint16_t>.of[kRow];
    return LookedUpOf16(
        hn::OrAnd(hn::Load(du16, groups), codes, hn::Set(du16, 3 << 4)),
        values);
  }
  HWY_INLINE static U16x32 LookedUpOf16(U16x32 index, const FourOf16& values) {
    return LookedUpOfTwo(index, values.of[0], values.of[1]);
  }
#else
  // The row whose codes are from bit 2 kRow on.
  template <int kRow>
  HWY_INLINE void PutOfGroups(U16x32 bytes, U16x32 table) {
    const auto groups = hn::Load(du16, kGroupsOfRows<8, 16, uint16_t>.of[kRow]);
    const auto codes = Field<2 * kRow, 2, 3>(hn::BitCast(dbytes, bytes));
    StoreRow(LookedUp(hn::Or(groups, hn::BitCast(du16, codes)), table));
  }
  template <int kFrom>
  HWY_INLINE void PutTwoBits(Codes bytes0, Codes bytes1, Floats four0,
                             Floats four1) {
    PutOf4<kFrom>(bytes0, four0);
    PutOf4<kFrom>(bytes1, four1);
  }
#endif
  template <int kFrom>
  HWY_INLINE void PutOf4(Codes bytes, Floats four) {
    PutLanes(hn::ShiftRight<kFrom>(hn::PromoteTo(du32, bytes)), four);
  }
  // The value of one vector, whose formula no other vector shares.
  template <class Value>
  HWY_INLINE static Floats Once(Value value, Floats q) {
    if constexpr (requires { value.Once(df, q); }) {
      return value.Once(df, q);
    } else {
      return value(df, q);
    }
  }
  // 16 codes as T, in half a vector; by a half, if so, when they are stored.
  template <class Value>
  HWY_INLINE static auto Narrowed(Floats q, Value value) {
    if constexpr (kByHalf<T, Value>) {
      return Narrow<T>(df, q);
    } else {
      return Narrow<T>(df, Once(value, q));
    }
  }
  // What Map makes of 0 to 15 as T. Of 16 bits, the upper half is anything.
  template <class Map, class Value>
  HWY_INLINE static auto Table(Map, Value value) {
    const Floats q = hn::Load(df, kMappedCodes<Map, 16>.of);
    if constexpr (sizeof(T) == 4) {
      return Once(value, q);
    } else {
      return hn::ResizeBitCast(du16, Narrowed(q, value));
    }
  }
  // The same for two, one after the other.
  template <class Map, class Value>
  HWY_INLINE static U16x32 TableOfTwo(Map, Value value0, Value value1) {
    const Floats q = hn::Load(df, kMappedCodes<Map, 16>.of);
    return Narrow2<T>(df, Once(value0, q), Once(value1, q));
  }
  // What it makes of 0 to 3, eight times.
  template <class Map, class Value>
  HWY_INLINE static U16x32 TableOfFour(Map, Value value) {
    const Floats q = hn::Load(df, kMappedCodes<Map, 4>.of);
    const auto four = Narrowed(q, value);
    return hn::Combine(du16, four, four);
  }
  // A half of a row, in 32-bit lanes; above its codes is anything.
  template <bool kUpper>
  HWY_INLINE static U32x16 Widened(RowCodes q) {
#if DEQUANT_HAS_VBMI
    const auto index = hn::Load(dbytes, kWidenedHalf<kUpper>.byte);
    return U32x16{
        _mm512_permutexvar_epi8(index.raw, _mm512_castsi256_si512(q.raw))};
#else
    return hn::PromoteTo(
        du32, kUpper ? hn::UpperHalf(dcodes, q) : hn::LowerHalf(dcodes, q));
#endif
  }
  template <int kFrom>
  HWY_INLINE void PutOf16(Codes bytes, Floats table) {
    PutOf16<kFrom>(hn::PromoteTo(du32, bytes), table);
  }
  template <int kFrom>
  HWY_INLINE void PutOf16(U32x16 bytes, Floats table) {
    const auto index = hn::ShiftRight<kFrom>(bytes);
    StoreFloats(Floats{_mm512_permutexvar_ps(index.raw, table.raw)});
  }
  template <int kFrom>
  HWY_INLINE void PutOf16(Codes bytes, U16x32 table) {
    const hn::Half<decltype(du16)> dhalf;
    PutOf16<kFrom>(hn::PromoteTo(dhalf, bytes), table);
  }
  template <int kFrom>
  HWY_INLINE void PutOf16(hn::Vec<hn::Half<decltype(du16)>> index,
                          U16x32 table) {
    const hn::Half<decltype(du16)> dhalf;
    const hn::Repartition<uint8_t, decltype(dhalf)> d8;
    if constexpr (kFrom != 0) {
      // Zen 4 does not need a pipe for that which widens or looks up.
      index = hn::BitCast(dhalf, Field<kFrom, 4>(hn::BitCast(d8, index)));
    }
    const hn::Vec<decltype(dhalf)> v{
        _mm256_permutexvar_epi16(index.raw, hn::LowerHalf(dhalf, table).raw)};
    Store<kStream>(dhalf, v, to_);
    to_ += 32;
  }
  template <int kFrom, class Value, class V>
  HWY_INLINE void NibblesFrom(const uint8_t* p, Value value, V table) {
    if constexpr (kBySixteen) {
      PutOf16<kFrom>(LoadCodes(p), table);
      PutOf16<kFrom>(LoadCodes(p + 16), table);
    } else {
      PutRowOf<0>(Field<kFrom, 4>(LoadCodes(drow, p)), table, value);
    }
  }
  template <int kFrom, class Value>
  HWY_INLINE void PutRowOf(RowCodes bytes, U16x32 table, Value value) {
    PutIndices(hn::ShiftRight<kFrom>(hn::PromoteTo(du16, bytes)), table, value);
  }
  template <class Value>
  HWY_INLINE void PutIndices(U16x32 index, U16x32 table, Value value) {
    const U16x32 v = LookedUp(index, table);
    if constexpr (kByHalf<T, Value>) {
      const hn::FixedTag<hwy::float16_t, 32> dh;
      StoreRow(value.TimesHalf(dh, hn::BitCast(dh, v)));
    } else {
      StoreRow(v);
    }
  }

  // Of two tables of 16, the upper of which has the codes with bit 4: that is
  // bit 5 of an index. On Zen 4, a table of 32 would have to be put together.
  static constexpr bool kTwoTables =
      HWY_TARGET == HWY_AVX3_ZEN4 && std::is_same_v<T, hwy::float16_t>;
  template <bool kIsSigned, class V>
  HWY_INLINE void PutFromTwo(RowCodes q, V lower, V upper) {
    // Where that is the sign, it has set bit 5 as well.
    const RowCodes index = kIsSigned
                               ? hn::And(q, hn::Set(drow, 0x2F))
                               : hn::Add(q, hn::And(q, hn::Set(drow, 0x10)));
    const U16x32 wide = hn::PromoteTo(du16, index);
    StoreRow(LookedUpOfTwo(wide, hn::ZeroExtendVector(du16, lower),
                           hn::ZeroExtendVector(du16, upper)));
  }
  HWY_INLINE static Floats LoadTable(const ValueScale& values) {
    // Less to read than 16 floats of each scale, which fill half of L1.
    return hn::Mul(FloatsOf(LoadCodes(kValuesFp4)),
                   Broadcast(df, values.scale));
  }
  template <typename W>
  HWY_INLINE static U16x32 LoadTable(const ValueWords<W>& values) {
    const hn::Half<decltype(du16)> dhalf;
    return hn::ZeroExtendVector(du16, hn::Load(dhalf, values.word));
  }
  template <typename W>
  HWY_INLINE static U16x32 LoadTable(const HalfOfValueWords<W>& values) {
    alignas(32) static constexpr uint16_t kSign[16] = {
        0, 0,      0,      0,      0,      0,      0,      0,
        0, 0x8000, 0x8000, 0x8000, 0x8000, 0x8000, 0x8000, 0x8000};
    const hn::Half<decltype(du16)> dhalf;
    return hn::ZeroExtendVector(du16, hn::Or(hn::LoadDup128(dhalf, values.word),
                                             hn::Load(dhalf, kSign)));
  }
  HWY_INLINE static U16x32 LookedUp(U16x32 index, U16x32 table) {
    return U16x32{_mm512_permutexvar_epi16(index.raw, table.raw)};
  }
  // Of 64 values.
  HWY_INLINE static U16x32 LookedUpOfTwo(U16x32 index, U16x32 lower,
                                         U16x32 upper) {
    return U16x32{_mm512_permutex2var_epi16(lower.raw, index.raw, upper.raw)};
  }
  // A vector of a table for groups.
  template <class Values, size_t kVector, class... Offset>
  HWY_INLINE static Floats Lanes(const float* scale, Offset... offset) {
    const auto load = [](const float* of) DEQUANT_LAMBDA {
      if constexpr (std::size(Values::kOf) == 4) {
        return Floats{_mm512_broadcast_f32x8(_mm256_loadu_ps(of))};
      } else {
        // As an integer: see Broadcast.
        const hn::Repartition<int64_t, decltype(df)> di64;
        int64_t two;
        std::memcpy(&two, of + 2 * kVector, sizeof(two));
        return hn::BitCast(df, hn::Set(di64, two));
      }
    };
    const Floats value = hn::Load(df, kTableLanes<Values>.of[kVector]);
    if constexpr (sizeof...(Offset) == 0) {
      return hn::Mul(value, load(scale));
    } else {
      return Values::Value(value, load(scale), load(offset...));
    }
  }

  HWY_INLINE void StoreFloats(Floats v) {
    Store<kStream>(df, v, to_);
    to_ += 64;
  }
  HWY_INLINE void StoreSigned(U16x32 v, hn::Mask<decltype(drow)> minus) {
    const hn::Mask<decltype(du16)> m{minus.raw};
    StoreRow(hn::MaskedAddOr(v, m, v, hn::Set(du16, 0x8000)));
  }
  // 32 elements of 16 bits.
  template <class V>
  HWY_INLINE void StoreRow(V v) {
    Store<kStream>(du16, hn::BitCast(du16, v), to_);
    to_ += 64;
  }

  uint8_t* to_;
};

}  // namespace HWY_NAMESPACE
}  // namespace dequant
HWY_AFTER_NAMESPACE();
#endif  // HWY_TARGET

#endif  // per-target include guard
