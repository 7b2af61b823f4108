// What the IQ1, IQ2 and IQ3 formats share. Their codes are indices of a grid,
// whose rows are the bytes of 8 (IQ3: 4) neighbours. Indices, signs and scales
// of a block are unpacked for 16 rows at once; only the rows themselves are
// loaded one by one.

#include <bit>
#include <cstdint>
#include <cstring>
#include <iterator>

#include "kernels/tables/grids.h"
#include "kernels/unpack-inl.h"

#ifndef DEQUANT_KERNELS_GRID_H_
#define DEQUANT_KERNELS_GRID_H_
namespace dequant {

/// Byte j of a row, for the references.
inline int RowByte(uint64_t row, int j) {
  return static_cast<int8_t>(row >> (8 * j));
}

/// Sign j of the 8 that 7 bits stand for: the number of minus signs is even.
inline int EvenSign(uint32_t bits, int j) {
  const bool minus = j < 7 ? bits >> j & 1 : std::popcount(bits & 127) % 2 != 0;
  return minus ? -1 : 1;
}

/// Group g of 16 elements has two rows of 8: bytes 2 g and 2 g + 1 of what is
/// kept per row, 8 times each.
#define DEQUANT_PER_ROW(r) r, r, r, r, r, r, r, r
alignas(32) inline constexpr uint8_t kPerRow[8][16] = {
    {DEQUANT_PER_ROW(0), DEQUANT_PER_ROW(1)},
    {DEQUANT_PER_ROW(2), DEQUANT_PER_ROW(3)},
    {DEQUANT_PER_ROW(4), DEQUANT_PER_ROW(5)},
    {DEQUANT_PER_ROW(6), DEQUANT_PER_ROW(7)},
    {DEQUANT_PER_ROW(8), DEQUANT_PER_ROW(9)},
    {DEQUANT_PER_ROW(10), DEQUANT_PER_ROW(11)},
    {DEQUANT_PER_ROW(12), DEQUANT_PER_ROW(13)},
    {DEQUANT_PER_ROW(14), DEQUANT_PER_ROW(15)}};
#undef DEQUANT_PER_ROW

}  // namespace dequant
#endif

#if defined(DEQUANT_KERNELS_GRID_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef DEQUANT_KERNELS_GRID_INL_H_
#undef DEQUANT_KERNELS_GRID_INL_H_
#else
#define DEQUANT_KERNELS_GRID_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace dequant {
namespace HWY_NAMESPACE {

constexpr hn::FixedTag<uint16_t, 8> du16;
constexpr hn::FixedTag<uint32_t, 4> du32;
constexpr hn::FixedTag<uint64_t, 2> du64;
using U16x8 = hn::Vec<decltype(du16)>;
using U32x4 = hn::Vec<decltype(du32)>;

HWY_INLINE U16x8 Load8Words(const uint8_t* p) {
  return hn::BitCast(du16, Load16Bytes(p));
}
// 8 bytes at p, then zeros.
HWY_INLINE U8x16 Load8Bytes(const uint8_t* p) {
  return hn::ZeroExtendVector(du8, hn::LoadU(hn::FixedTag<uint8_t, 8>(), p));
}

// Index i = low[i] | high[i] << 8.
HWY_INLINE void StoreIndices(U8x16 low, U8x16 high,
                             uint16_t* HWY_RESTRICT indices) {
  auto* to = reinterpret_cast<uint8_t*>(indices);
  hn::StoreU(hn::InterleaveLower(du8, low, high), du8, to);
  hn::StoreU(hn::InterleaveUpper(du8, low, high), du8, to + 16);
}

#if HWY_TARGET <= HWY_AVX3
// 32 indices of 10 bits, the upper two in eight bytes.
HWY_INLINE void StoreIndices(const uint8_t* low, const uint8_t* high,
                             uint16_t* HWY_RESTRICT indices) {
  const hn::FixedTag<uint16_t, 32> d;
  const auto words = hn::PromoteTo(d, hn::LoadU(drow, low));
  hn::StoreU(hn::OrAnd(words, PackedCodes<8>(high), hn::Set(d, 3 << 8)), d,
             indices);
}
#endif

// Moves the kBits-bit field that starts at bit kFrom of each lane to bit kTo,
// other bits zero.
template <int kFrom, int kBits, int kTo, class V>
HWY_INLINE V LaneField(V v) {
  const hn::DFromV<V> d;
  if constexpr (kFrom > kTo) v = hn::ShiftRight<kFrom - kTo>(v);
  if constexpr (kFrom < kTo) v = hn::ShiftLeft<kTo - kFrom>(v);
  return hn::And(v,
                 hn::Set(d, hn::TFromD<decltype(d)>{(1 << kBits) - 1} << kTo));
}

#if DEQUANT_HAS_VBMI
// Where the four lowest fields of each lane start, in eight bytes.
template <int kLaneBits, int kBits>
struct FieldsFrom {
  alignas(32) uint8_t bit[32];
  constexpr FieldsFrom() : bit{} {
    for (int i = 0; i < 32; ++i) {
      bit[i] = static_cast<uint8_t>((i / 4 * kLaneBits + i % 4 * kBits) % 64);
    }
  }
};
template <int kLaneBits, int kBits>
inline constexpr FieldsFrom<kLaneBits, kBits> kFieldsFrom;
// Those of 16-bit lanes as bytes, of the lower and of the upper eight bytes.
template <int kBits, class V>
HWY_INLINE U8x16 FieldsOf(V twice) {
  const auto bits =
      BitsFrom(hn::BitCast(du8, twice), kFieldsFrom<16, kBits>.bit);
  return hn::And(bits, hn::Set(du8, (1 << kBits) - 1));
}
template <int kBits>
HWY_INLINE U8x16 LowerFields(U16x8 w) {
  const auto v = hn::BitCast(du64, w);
  return FieldsOf<kBits>(hn::InterleaveLower(du64, v, v));
}
template <int kBits>
HWY_INLINE U8x16 UpperFields(U16x8 w) {
  const auto v = hn::BitCast(du64, w);
  return FieldsOf<kBits>(hn::InterleaveUpper(du64, v, v));
}
#else
// The four lowest fields of kBits bits of each word as bytes, of the lower and
// of the upper four words.
template <int kBits>
HWY_INLINE U16x8 FirstFields(U16x8 w) {
  return hn::Or(LaneField<0, kBits, 0>(w), LaneField<kBits, kBits, 8>(w));
}
template <int kBits>
HWY_INLINE U16x8 LastFields(U16x8 w) {
  return hn::Or(LaneField<2 * kBits, kBits, 0>(w),
                LaneField<3 * kBits, kBits, 8>(w));
}
template <int kBits>
HWY_INLINE U8x16 LowerFields(U16x8 w) {
  return hn::BitCast(du8, hn::InterleaveLower(du16, FirstFields<kBits>(w),
                                              LastFields<kBits>(w)));
}
template <int kBits>
HWY_INLINE U8x16 UpperFields(U16x8 w) {
  return hn::BitCast(du8, hn::InterleaveUpper(du16, FirstFields<kBits>(w),
                                              LastFields<kBits>(w)));
}
#endif

// Words that have something of each 32 elements, for AVX-512 those of a whole
// block.
constexpr size_t kWords = HWY_TARGET <= HWY_AVX3 ? 8 : 4;
constexpr hn::FixedTag<uint32_t, kWords> dwords;
constexpr hn::Repartition<uint8_t, decltype(dwords)> dword_bytes;
using Words = hn::Vec<decltype(dwords)>;
HWY_INLINE Words LoadWords(const uint8_t* p) {
  return hn::BitCast(dwords, hn::LoadU(dword_bytes, p));
}
HWY_INLINE Words LoadHalfWords(const uint8_t* p) {
  const hn::Rebind<uint16_t, decltype(dwords)> d16;
  return hn::PromoteTo(dwords,
                       hn::LoadU(d16, reinterpret_cast<const uint16_t*>(p)));
}
// (Their tag, as SVE's vectors are longer.)
template <class V>
HWY_INLINE void StoreScales(V scales, float* HWY_RESTRICT to) {
  hn::StoreU(scales, hn::Rebind<float, decltype(dwords)>(), to);
}

// IQ2_XXS and IQ3_XXS: a word has 7 sign bits for each of four rows of 8, and
// above them a scale of 4 bits.
HWY_INLINE auto SignFields(Words w) {
#if DEQUANT_HAS_VBMI
  // Above 7 bits is one of the next.
  return BitsFrom(hn::BitCast(dword_bytes, w), kFieldsFrom<32, 7>.bit);
#else
  const Words first = hn::Or(LaneField<0, 7, 0>(w), LaneField<7, 7, 8>(w));
  const Words last = hn::Or(LaneField<14, 7, 16>(w), LaneField<21, 7, 24>(w));
  return hn::BitCast(dword_bytes, hn::Or(first, last));
#endif
}
#if DEQUANT_HAS_VBMI
// Where multishift finds scales of kBits bits for bit 16 of 32-bit lanes: four
// in each kGroup bits of what all lanes have, or one of each lane, from kFrom.
template <int kBits, int kGroup, int kFrom = 0>
struct ScaleBits {
  alignas(64) uint8_t from[64];
  constexpr ScaleBits() : from{} {
    for (int i = 0; i < 16; ++i) {
      from[4 * i + 2] = static_cast<uint8_t>(
          kGroup == 0 ? (32 * i + kFrom) % 64
                      : (i / 4 * kGroup + i % 4 * kBits) % 64);
    }
  }
};
template <int kBits, int kGroup, int kFrom = 0>
inline constexpr ScaleBits<kBits, kGroup, kFrom> kScaleBits;

// d * unit * (2 code + 1), of a power of two. Such a code with a bit below it
// is as many units of a float, which needs no conversion.
template <int kBits, class DF, class V>
HWY_INLINE hn::Vec<DF> OddScales(DF df, V bytes, const uint8_t* from, float d,
                                 float unit) {
  const hn::RebindToUnsigned<DF> du;
  const auto least = hn::Set(df, 256 * unit);
  const auto bit = hn::Or(hn::BitCast(du, least), hn::Set(du, 1 << 15));
  const auto codes = hn::BitCast(du, BitsFrom(bytes, from));
  const auto odd = hn::OrAnd(bit, codes, hn::Set(du, ((1 << kBits) - 1) << 16));
  return hn::Mul(hn::Sub(hn::BitCast(df, odd), least), hn::Set(df, d));
}
template <int kBits, int kFrom>
HWY_INLINE auto WordScales(Words w, float d, float unit) {
  return OddScales<kBits>(hn::Rebind<float, decltype(dwords)>(),
                          hn::BitCast(dword_bytes, w),
                          kScaleBits<kBits, 0, kFrom>.from, d, unit);
}
// 8 or 16 scales of kBits bits, four in each 16 bits.
template <size_t kScales, int kBits>
HWY_INLINE void StoreOddScales(const uint8_t* p, float d, float unit,
                               float* HWY_RESTRICT scales) {
  const hn::FixedTag<float, kScales> df;
  const hn::Repartition<uint64_t, decltype(df)> d64;
  const hn::Repartition<uint8_t, decltype(df)> d8;
  const uint64_t all = kScales == 8 ? Load32(p) : Load64(p);
  hn::StoreU(OddScales<kBits>(df, hn::BitCast(d8, hn::Set(d64, all)),
                              kScaleBits<kBits, 16>.from, d, unit),
             df, scales);
}
#else
template <int kBits, int kFrom>
HWY_INLINE auto WordScales(Words w, float d, float unit) {
  const Words odd = hn::Or(LaneField<kFrom, kBits, 1>(w), hn::Set(dwords, 1));
  const hn::Rebind<float, decltype(dwords)> df;
  const hn::Rebind<int32_t, decltype(dwords)> di;
  return hn::Mul(hn::ConvertTo(df, hn::BitCast(di, odd)),
                 hn::Set(df, d * unit));
}
// 8 or 16 scales of kBits bits, four in each 16 bits; anything behind 8.
template <size_t kScales, int kBits>
HWY_INLINE void StoreOddScales(const uint8_t* p, float d, float unit,
                               float* HWY_RESTRICT scales) {
  const U8x16 bytes =
      kScales == 8 ? hn::BitCast(du8, hn::Set(du32, Load32(p))) : Load8Bytes(p);
  U8x16 codes;
  if constexpr (kBits == 4) {
    codes = hn::InterleaveLower(du8, LowNibbles(bytes), HighNibbles(bytes));
  } else {
    codes = LowerFields<kBits>(hn::BitCast(du16, bytes));
  }
  const U8x16 odd = hn::Or(hn::Add(codes, codes), hn::Set(du8, 1));
  if constexpr (kScales == 8) {
    Scales8(Signed(odd), d * unit, scales);
  } else {
    Scales16(Signed(odd), d * unit, scales);
  }
}
#endif

// 7 sign bits to 8: the number of minus signs is even.
template <class V>
HWY_INLINE V EvenSigns(V bits) {
#if DEQUANT_HAS_VBMI
  // Their sum on top of them, whatever is there.
  return BitsOf<FieldMatrix(0, 7, 0, 6) | 0x7F>(bits);
#else
  const auto parity =
      hn::Dup128VecFromValues(hn::DFromV<V>(), 0, 128, 128, 0, 128, 0, 0, 128,
                              128, 0, 0, 128, 0, 128, 128, 0);
  const V folded = hn::Xor(bits, HighNibbles(bits));
  return hn::Or(bits, hn::TableLookupBytes(parity, LowNibbles(folded)));
#endif
}

// Of the uppermost 7 bits of 16 words.
HWY_INLINE U8x16 EvenSignsOnTop(U16x8 w0, U16x8 w1) {
#if DEQUANT_HAS_VBMI
  const U8x16 bytes =
      hn::ConcatOdd(du8, hn::BitCast(du8, w1), hn::BitCast(du8, w0));
  return BitsOf<FieldMatrix(1, 7, 0, 6) | 0xFE>(bytes);
#else
  const hn::RebindToSigned<decltype(du16)> di16;
  return EvenSigns(
      hn::OrderedDemote2To(du8, hn::BitCast(di16, hn::ShiftRight<9>(w0)),
                           hn::BitCast(di16, hn::ShiftRight<9>(w1))));
#endif
}

// What turns codes of kGridIq1Codes into indices of Iq1Signed, of 16 rows, for
// StoreOffsets: where the offset is negative, bit 3 of a nibble, the opposite
// code, and the sign on top; and the group, of two rows.
HWY_INLINE I8x16 Iq1Flips(U8x16 nibbles) {
  alignas(16) static constexpr uint8_t kFlip[16] = {
      0,    0,    0,    0,    0,    0,    0,    0,  //
      0x88, 0x88, 0x88, 0x88, 0x88, 0x88, 0x88, 0x88};
  alignas(16) static constexpr uint8_t kGroup[16] = {0, 0, 1, 1, 2, 2, 3, 3,
                                                     0, 0, 1, 1, 2, 2, 3, 3};
  return Signed(hn::Or(hn::TableLookupBytes(hn::Load(du8, kFlip), nibbles),
                       hn::Load(du8, kGroup)));
}

// Byte i of the rows of group g, 8 times each.
HWY_INLINE U8x16 PerRow(U8x16 bytes, size_t g) {
  return hn::TableLookupBytes(bytes, Load16Bytes(kPerRow[g]));
}
// The bits of bytes 2 g and 2 g + 1, the lowest first.
HWY_INLINE hn::Mask<decltype(du8)> GroupBits(U8x16 bytes, size_t g) {
  const U8x16 bit = hn::BitCast(du8, hn::Set(du64, 0x8040201008040201));
  return hn::TestBit(PerRow(bytes, g), bit);
}

// The magnitudes of a grid's rows, for tables of 16 values; which bits of a
// byte tell them apart, and what these are in all. The group is below the code:
// AVX-512 has tables of 32 for eight groups.
constexpr int kFourTo = HWY_TARGET <= HWY_AVX3 ? 3 : 2;
struct Iq2Bytes {
  // Byte look-ups of x86 ignore bits 4 to 6.
  static constexpr bool kAsTheyAre = HWY_ARCH_X86 && HWY_TARGET > HWY_AVX3;
  static constexpr float kOf[4] = {8, 25, 0, 43};
  static constexpr uint8_t kInAll = kAsTheyAre ? 8 : 0;
  static constexpr int kCodeAt = HWY_TARGET <= HWY_AVX3 ? kFourTo : 0;
  template <class V>
  HWY_INLINE static V Index(V bytes) {
    if constexpr (kAsTheyAre) return bytes;
    return Field<0, 2, kCodeAt>(bytes);
  }
};
struct Iq1Rows {  // less the offset that their group adds to all of them
  // The grid's rows are indices: AVX-512 ignores what is above two bits.
  static constexpr const auto& kRows =
      HWY_TARGET <= HWY_AVX3 ? kGridIq1 : kGridIq1Codes;
  static constexpr float kOf[4] = {0, 8, 0, -8};
  static constexpr uint8_t kInAll = 0;
  static constexpr int kCodeAt = kFourTo;
  template <class V>
  HWY_INLINE static V Value(V q, V scale, V offset) {
    return hn::Mul(hn::Add(q, offset), scale);
  }
};
struct Iq1Signed {  // times the sign of the offset, with which that is 1
  static constexpr float kOf[4] = {1, 9, 1, -7};
  static constexpr int kCodeAt = 2;
  static constexpr bool kHasGroup = true;  // the index comes with it
};
struct Iq3xxsBytes {
  static constexpr float kOf[8] = {4 / kUnit,  12 / kUnit, 20 / kUnit,
                                   28 / kUnit, 36 / kUnit, 44 / kUnit,
                                   52 / kUnit, 62 / kUnit};
  static constexpr uint8_t kInAll = 0;
  template <class V>
  HWY_INLINE static V Index(V bytes) {
    return Field<3, 3, 1>(bytes);
  }
};
struct Iq3sBytes {
  static constexpr float kOf[8] = {1 / kUnit,  3 / kUnit, 5 / kUnit,
                                   7 / kUnit,  9 / kUnit, 11 / kUnit,
                                   13 / kUnit, 15 / kUnit};
  static constexpr uint8_t kInAll = HWY_TARGET <= HWY_AVX3 ? 0 : 1;
  template <class V>
  HWY_INLINE static V Index(V bytes) {
    if constexpr (kInAll != 0) return bytes;
    return Field<1, 3, 1>(bytes);
  }
};

#if HWY_TARGET <= HWY_AVX3
// The same of rows of 8 as codes of 2 bits: these are indices, and a look-up in
// four lanes gives F32.
struct Iq2Codes {
  static constexpr float kOf[4] = {8, 25, 43, 0};
  static constexpr uint32_t kBelow[3] = {0, 0, 0};
};
// The bytes of a row of 8 are such codes as well, in bits 4 and 5; the lower
// ones are 8, 9 and 11.
struct Iq2BytesAsCodes : Iq2Codes {
  static constexpr size_t kInAll = 8;
  static constexpr uint32_t kBelow[3] = {8 ^ 8, 25 % 16 ^ 8, 43 % 16 ^ 8};
};
struct Iq1Codes {
  static constexpr float kOf[4] = {-8, 0, 8, 0};
};
struct Iq1Plus1 {  // with an offset of 1
  static constexpr float kOf[4] = {-7, 1, 9, 0};
  static constexpr uint32_t kBelow[3] = {0, 0, 0};
};

// A block of 256, in rows of 32.
struct alignas(64) PackedRows {
  uint8_t of[8][8];
};
template <class Packed>
HWY_INLINE void PackRows(const Packed& grid, const uint16_t* index,
                         PackedRows& rows) {
  EachOf(kTimes<8>, [&](size_t i) DEQUANT_LAMBDA {
    uint64_t row = 0;
    EachOf(kTimes<4>, [&](size_t j) DEQUANT_LAMBDA {
      row |= uint64_t{grid[index[4 * i + j]]} << (16 * j);
    });
#if !HWY_COMPILER_MSVC
    // Not by vectors, which would be full of inserts; and to memory, from where
    // broadcasts are free.
    asm("" : "+r"(row));
#endif
    std::memcpy(rows.of[i], &row, sizeof(row));
  });
#if !HWY_COMPILER_MSVC
  asm("" : "+m"(rows));
#endif
}
#endif

// Rows as codes: 16, or 32, which for AVX2 have the order of RowTag<8>.
template <class Grid, class Index>
HWY_INLINE auto LoadRows(const Grid& grid, const Index* i) {
#if HWY_TARGET <= HWY_AVX2
  // Blends are cheaper than inserts.
  const hn::FixedTag<uint64_t, 4> d64;
  const hn::FixedTag<uint8_t, 32> d;
  const auto eight = [&](size_t r) HWY_ATTR {
    if constexpr (sizeof(grid[0]) == 8) {
      return hn::Set(d64, grid[i[r]]);
    } else {
      const hn::FixedTag<uint32_t, 8> d32;
      return hn::BitCast(d64, hn::OddEven(hn::Set(d32, grid[i[2 * r + 1]]),
                                          hn::Set(d32, grid[i[2 * r]])));
    }
  };
  constexpr size_t kSecond = HWY_TARGET == HWY_AVX2 ? 2 : 1;
  const auto lower = hn::OddEven(eight(kSecond), eight(0));
  const auto upper = hn::OddEven(eight(3), eight(3 - kSecond));
  return hn::BitCast(d, hn::ConcatUpperLower(d64, upper, lower));
#else
  if constexpr (sizeof(grid[0]) == 8) {
    return hn::BitCast(du8,
                       hn::Dup128VecFromValues(du64, grid[i[0]], grid[i[1]]));
  } else {
    return hn::BitCast(
        du8, hn::Dup128VecFromValues(du32, grid[i[0]], grid[i[1]], grid[i[2]],
                                     grid[i[3]]));
  }
#endif
}

#if DEQUANT_HAS_VBMI
// The codes of 32 rows of 8, found by look-ups of words: 64 entries of a grid
// in one instruction, which leaves indices of others as they are.
template <int kIndexBits>
HWY_INLINE RowLanes FindPacked(const uint16_t* grid, RowLanes index) {
  const hn::FixedTag<uint16_t, 32> d;
  constexpr int kBit = 1 << (kIndexBits - 1);
  const auto upper = hn::TestBit(index, hn::Set(d, kBit));
  if constexpr (kIndexBits == 7) {
    const auto find = [&](RowLanes from, __mmask32 m,
                          const uint16_t* of) DEQUANT_LAMBDA {
      return RowLanes{_mm512_mask2_permutex2var_epi16(
          hn::LoadU(d, of).raw, from.raw, m, hn::LoadU(d, of + 32).raw)};
    };
    return find(find(index, ~upper.raw, grid), upper.raw, grid + kBit);
  } else {
    return hn::IfThenElse(upper, FindPacked<kIndexBits - 1>(grid + kBit, index),
                          FindPacked<kIndexBits - 1>(grid, index));
  }
}
template <class Packed>
HWY_INLINE void FindPacked(const Packed& grid, RowLanes index,
                           PackedRows& rows) {
  constexpr int kIndexBits = std::countr_zero(std::tuple_size_v<Packed>);
  const auto codes = FindPacked<kIndexBits>(grid.data(), index);
  hn::StoreU(codes, hn::FixedTag<uint16_t, 32>(),
             reinterpret_cast<uint16_t*>(rows.of));
}

// The rows of 4 of a block, found by look-ups of bytes: 128 entries of a table
// in one instruction. (Byte by byte they need fewer loads than row by row.)
struct FoundRows {
  uint8_t of[256];
  uint32_t operator[](size_t i) const { return Load32(of + 4 * i); }
};
HWY_INLINE RowCodes LoadRows(const FoundRows&, const uint8_t* row) {
  return hn::LoadU(drow, row);
}

// Index i is low[i] and, of 9 bits, bit i of high[]. value_of<kFrom>(pairs) are
// the values of the codes that start at bit kFrom.
template <int kIndexBits, class ValueOf>
HWY_INLINE void FindRows(const GridPairs<kIndexBits>& grid, const uint8_t* low,
                         const uint8_t* high, const ValueOf& value_of,
                         FoundRows& rows) {
  // So that the values of four neighbours, interleaved, are in order.
  alignas(64) static constexpr uint32_t kOrder[16] = {
      0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15};
  const hn::FixedTag<uint8_t, 64> d;
  const hn::Repartition<uint16_t, decltype(d)> d16;
  const hn::Repartition<uint32_t, decltype(d)> d32;
  using V = hn::Vec<decltype(d)>;
  const auto ordered = [&](V v) DEQUANT_LAMBDA {
    const auto order = hn::SetTableIndices(d32, kOrder);
    return hn::BitCast(d, hn::TableLookupLanes(hn::BitCast(d32, v), order));
  };
  const V index = ordered(hn::LoadU(d, low));
  const auto pairs = [&](const uint8_t* table) DEQUANT_LAMBDA {
    const V first = LookUp256(table, index);
    if constexpr (kIndexBits == 8) {
      return first;
    } else {
      const hn::Mask<decltype(d)> bits{Load64(high)};
      const auto bit8 = hn::RebindMask(
          d, hn::IsNegative(Signed(ordered(hn::VecFromMask(d, bits)))));
      return hn::IfThenElse(bit8, LookUp256(table + 256, index), first);
    }
  };
  const V p0 = pairs(grid.of[0]), p1 = pairs(grid.of[1]);
  const V v0 = value_of.template operator()<0>(p0);
  const V v1 = value_of.template operator()<4>(p0);
  const V v2 = value_of.template operator()<0>(p1);
  const V v3 = value_of.template operator()<4>(p1);
  const auto store = [&](V pairs0, V pairs1, size_t at) DEQUANT_LAMBDA {
    const auto w0 = hn::BitCast(d16, pairs0), w1 = hn::BitCast(d16, pairs1);
    hn::StoreU(hn::BitCast(d, hn::InterleaveLower(d16, w0, w1)), d,
               rows.of + at);
    hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(d16, w0, w1)), d,
               rows.of + at + 64);
  };
  store(hn::InterleaveLower(d, v0, v1), hn::InterleaveLower(d, v2, v3), 0);
  store(hn::InterleaveUpper(d, v0, v1), hn::InterleaveUpper(d, v2, v3), 128);
}
#endif

// What each of a block's 32 rows of 8 has, signs or an offset, as groups of two
// rows want it. Group g has numbers 2 g and 2 g + 1.
#if HWY_TARGET == HWY_AVX2
// Eight codes in 32-bit lanes: that takes one instruction from a row in memory,
// and signs then two.
constexpr hn::FixedTag<int32_t, 8> drow;
using Row8 = hn::Vec<decltype(drow)>;
struct RowData {
  int32_t of[32];
};

// Of rows 16 half to 16 half + 15. Sign j is at bit j + 1, above a bit that is
// never 0.
HWY_INLINE void StoreSigns(U8x16 signs, size_t half, RowData& to) {
  const hn::Half<decltype(du8)> dhalf;
  const auto store = [](auto eight, int32_t* at) HWY_ATTR {
    const Row8 wide = hn::PromoteTo(drow, eight);
    hn::StoreU(hn::Or(hn::Add(wide, wide), hn::Set(drow, 1)), drow, at);
  };
  store(hn::LowerHalf(dhalf, signs), to.of + 16 * half);
  store(hn::UpperHalf(dhalf, signs), to.of + 16 * half + 8);
}
// Signs that a block has bit by bit, of all its rows.
using BlockSigns = RowData;
HWY_INLINE void StoreSigns(const uint8_t* signs, BlockSigns& to) {
  StoreSigns(Load16Bytes(signs), 0, to);
  StoreSigns(Load16Bytes(signs + 16), 1, to);
}
HWY_INLINE const RowData& SignsOfBlock(const uint8_t*, const BlockSigns& to) {
  return to;
}
HWY_INLINE void StoreOffsets(I8x16 offsets, size_t half, RowData& to) {
  const hn::Half<decltype(di8)> dhalf;
  hn::StoreU(hn::PromoteTo(drow, hn::LowerHalf(dhalf, offsets)), drow,
             to.of + 16 * half);
  hn::StoreU(hn::PromoteTo(drow, hn::UpperHalf(dhalf, offsets)), drow,
             to.of + 16 * half + 8);
}

// The same of four rows as bytes of RowTag<8>: signs as top bits, and offsets.
struct RowDataPlaces {
  alignas(32) uint8_t sign_byte[32];
  alignas(32) uint8_t sign_bit[32];
  alignas(32) uint8_t offset[32];
  constexpr RowDataPlaces() : sign_byte{}, sign_bit{}, offset{} {
    for (size_t i = 0; i < 32; ++i) {
      const size_t code = RowTag<8>::Code(i), bit = code % 8 + 1;
      offset[i] = static_cast<uint8_t>(code / 8 * 4);
      sign_byte[i] = static_cast<uint8_t>(offset[i] + bit / 8);
      sign_bit[i] = static_cast<uint8_t>(1 << bit % 8);
    }
  }
};
inline constexpr RowDataPlaces kRowDataPlaces;
HWY_INLINE Codes FourOf(const RowData& rows, size_t four,
                        const uint8_t* places) {
  const auto* p = reinterpret_cast<const uint8_t*>(rows.of + 4 * four);
  return hn::TableLookupBytes(LoadCodes(p), hn::Load(dcodes, places));
}
HWY_INLINE Codes SignsOf(const RowData& signs, size_t four) {
  const Codes bits = FourOf(signs, four, kRowDataPlaces.sign_byte);
  return hn::IfThenElseZero(
      hn::TestBit(bits, hn::Load(dcodes, kRowDataPlaces.sign_bit)),
      hn::Set(dcodes, 0x80));
}
HWY_INLINE Codes OffsetsOf(const RowData& offsets, size_t four) {
  return FourOf(offsets, four, kRowDataPlaces.offset);
}

// 8 codes: one row of 8 or two of 4; those times 2^24.
template <class Grid, class Index>
HWY_INLINE Row8 LoadRow8(const Grid& grid, const Index* index) {
  if constexpr (sizeof(grid[0]) == 8) {
    const hn::FixedTag<int8_t, 8> d;
    const auto* row = reinterpret_cast<const int8_t*>(&grid[index[0]]);
    return hn::PromoteTo(drow, hn::LoadU(d, row));
  } else {
    const hn::RebindToUnsigned<decltype(drow)> du;
    return Signed(WidenTo<0, 1, 3>(hn::ConcatUpperLower(
        du, hn::Set(du, grid[index[1]]), hn::Set(du, grid[index[0]]))));
  }
}

// Rows of 8 have scales that are not times kUnit.
template <class Grid, class Index, class Sink>
HWY_INLINE void PutSigned16(const Grid& grid, const Index* index,
                            const RowData& signs, size_t g, float scale,
                            Sink& sink) {
  constexpr size_t kRows = 8 / sizeof(grid[0]);
  alignas(32) static constexpr uint32_t kToTop[8] = {30, 29, 28, 27,
                                                     26, 25, 24, 23};
  const hn::RebindToUnsigned<decltype(drow)> du;
  const auto to_top = hn::Load(du, kToTop);
  const auto put = [&](const Index* i, int32_t sign) HWY_ATTR {
    const auto top = hn::BitCast(
        drow, hn::Shl(hn::BitCast(du, hn::Set(drow, sign)), to_top));
    return hn::IfNegativeThenNegOrUndefIfZero(top, LoadRow8(grid, i));
  };
  sink.Widened(put(index, signs.of[2 * g]),
               put(index + kRows, signs.of[2 * g + 1]), Scaled{scale});
}
template <class Grid, class Index, class Sink>
HWY_INLINE void PutOffset16(const Grid& grid, const Index* index,
                            const RowData& offsets, size_t g, float scale,
                            Sink& sink) {
  const auto offset0 = hn::Set(drow, offsets.of[2 * g]);
  const auto offset1 = hn::Set(drow, offsets.of[2 * g + 1]);
  sink.Widened(hn::Add(LoadRow8(grid, index), offset0),
               hn::Add(LoadRow8(grid, index + 1), offset1), Scaled{scale});
}
#else
struct RowData {
  uint8_t of[32];
};

// Of rows 16 half to 16 half + 15.
HWY_INLINE void StoreSigns(U8x16 signs, size_t half, RowData& to) {
  hn::StoreU(signs, du8, to.of + 16 * half);
}
#if HWY_TARGET <= HWY_AVX3
HWY_INLINE void StoreSigns(RowCodes signs, size_t, RowData& to) {
  hn::StoreU(signs, drow, to.of);
}
#endif
// Signs that a block has like that are read there.
struct BlockSigns {};
HWY_INLINE void StoreSigns(const uint8_t*, BlockSigns&) {}
HWY_INLINE const RowData& SignsOfBlock(const uint8_t* signs,
                                       const BlockSigns&) {
  return *reinterpret_cast<const RowData*>(signs);
}
HWY_INLINE void StoreOffsets(I8x16 offsets, size_t half, RowData& to) {
  hn::StoreU(hn::BitCast(du8, offsets), du8, to.of + 16 * half);
}
// Of the rows of group g and its neighbours, for group g % 8.
HWY_INLINE U8x16 LoadHalf(const RowData& rows, size_t g) {
  return Load16Bytes(rows.of + g / 8 * 16);
}

#if HWY_TARGET <= HWY_AVX3
HWY_INLINE hn::Mask<decltype(drow)> SignsOf(const RowData& signs, size_t four) {
  return CodeBits(drow, signs.of + 4 * four);
}
HWY_INLINE RowCodes OffsetsOf(const RowData& offsets, size_t four) {
  const hn::Repartition<uint32_t, decltype(drow)> d32;
  const auto bytes = hn::Set(d32, Load32(offsets.of + 4 * four));
  return hn::TableLookupBytes(hn::BitCast(drow, bytes),
                              hn::Load(drow, kPerRow[0]));
}

template <size_t kPerScale, class Grid, class Index, class Sink>
HWY_INLINE void PutSigned32(const Grid& grid, const Index* index,
                            const RowData& signs, size_t row, float scale0,
                            float scale1, Sink& sink) {
  const auto q = Signed(LoadRows(grid, index));
  const hn::DFromV<decltype(q)> d;
  const auto minus = hn::RebindMask(d, SignsOf(signs, row));
  const auto codes = hn::MaskedSubOr(q, minus, hn::Zero(d), q);
  if constexpr (kPerScale == 32) {
    sink.Halves(codes, ScaledAlike{scale0});
  } else {
    sink.Halves(codes, scale0, scale1);
  }
}
template <class Grid, class Index, class Sink>
HWY_INLINE void PutOffset32(const Grid& grid, const Index* index,
                            const RowData& offsets, size_t row, float scale0,
                            float scale1, Sink& sink) {
  const auto q = hn::Add(LoadRows(grid, index), OffsetsOf(offsets, row));
  sink.Halves(Signed(q), scale0, scale1);
}
#else
HWY_INLINE Codes SignsOf(const RowData& signs, size_t g) {
  return hn::IfThenElseZero(GroupBits(LoadHalf(signs, g), g % 8),
                            hn::Set(du8, 0x80));
}
HWY_INLINE Codes OffsetsOf(const RowData& offsets, size_t g) {
  return PerRow(LoadHalf(offsets, g), g % 8);
}

template <class Grid, class Index, class Sink>
HWY_INLINE void PutSigned16(const Grid& grid, const Index* index,
                            const RowData& signs, size_t g, float scale,
                            Sink& sink) {
  const I8x16 q = Signed(LoadRows(grid, index));
  const auto minus = hn::RebindMask(di8, GroupBits(LoadHalf(signs, g), g % 8));
  sink(hn::MaskedSubOr(q, minus, hn::Zero(di8), q), scale);
}
template <class Grid, class Index, class Sink>
HWY_INLINE void PutOffset16(const Grid& grid, const Index* index,
                            const RowData& offsets, size_t g, float scale,
                            Sink& sink) {
  sink(Signed(hn::Add(LoadRows(grid, index), OffsetsOf(offsets, g))), scale);
}
#endif  // AVX-512
#endif

#if HWY_TARGET > HWY_AVX3
// 32 codes: four rows of 8 or eight of 4, with the signs or the offsets of row
// `row` of the block, as two groups of 16.
template <size_t kPerScale, class Grid, class Index, class Sink>
HWY_INLINE void PutSigned32(const Grid& grid, const Index* index,
                            const RowData& signs, size_t row, float scale0,
                            float scale1, Sink& sink) {
  constexpr size_t kRows = 16 / sizeof(grid[0]);
  PutSigned16(grid, index, signs, 2 * row, scale0, sink);
  PutSigned16(grid, index + kRows, signs, 2 * row + 1, scale1, sink);
}
template <class Grid, class Index, class Sink>
HWY_INLINE void PutOffset32(const Grid& grid, const Index* index,
                            const RowData& offsets, size_t row, float scale0,
                            float scale1, Sink& sink) {
  PutOffset16(grid, index, offsets, 2 * row, scale0, sink);
  PutOffset16(grid, index + 2, offsets, 2 * row + 1, scale1, sink);
}
#endif

#if HWY_TARGET > HWY_AVX3
// 32 codes that have one offset, a whole number.
template <class Grid, class Sink>
HWY_INLINE void PutOffsetRow(const Grid& grid, const uint16_t* index,
                             float offset, float scale, Sink& sink) {
#if HWY_TARGET == HWY_AVX2
  const OffsetScaled value{scale, offset};
  sink.Widened(LoadRow8(grid, index), LoadRow8(grid, index + 1), value);
  sink.Widened(LoadRow8(grid, index + 2), LoadRow8(grid, index + 3), value);
#else
  const auto put = [&](const uint16_t* i) DEQUANT_LAMBDA {
    const I8x16 rows = Signed(LoadRows(grid, i));
    sink(hn::Add(rows, hn::Set(di8, static_cast<int8_t>(offset))), scale);
  };
  put(index);
  put(index + 2);
#endif
}
#endif

#if !HWY_HAVE_SCALABLE
// A block by tables of values, two bytes each: of(i, put) calls put(index) or
// put(index, sign) with those of the next kLookedUp elements, but for their
// groups, which may have an offset as they have a scale.
constexpr size_t kLookedUp = HWY_TARGET <= HWY_AVX2 ? 32 : 16;
constexpr size_t kTableSize = HWY_TARGET <= HWY_AVX3 ? 32 : 16;
template <class Bytes, size_t kPerScale, class Sink, class Of, class... Offset>
HWY_INLINE void PutFromTables(const float* scale, Sink& sink, const Of& of,
                              Offset... offset) {
  constexpr size_t kGroups = kTableSize / std::size(Bytes::kOf);
  constexpr size_t kUses = kGroups * kPerScale / kLookedUp;
  // (AVX2 gets slower without an offset, AVX-512 with one.)
  constexpr bool kOffset = sizeof...(Offset) > 0;
  constexpr bool kInOrder =
      HWY_TARGET == HWY_AVX2 ? kOffset : HWY_TARGET <= HWY_AVX3 && !kOffset;
  EachOf(kTimes<256 / kPerScale / kGroups>, [&](size_t i) DEQUANT_LAMBDA {
    const auto use = [&](auto... table) DEQUANT_LAMBDA {
      if constexpr (kInOrder) KeepOrder();
      EachOf(kTimes<kUses>, [&](size_t j) DEQUANT_LAMBDA {
        of(kUses * i + j, [&](auto index, auto... sign) DEQUANT_LAMBDA {
          const auto q = [&]() DEQUANT_LAMBDA {
            if constexpr (requires { Bytes::kHasGroup; }) {
              return index;
            } else {
              return IndexOf<Bytes, kPerScale>(index, j);
            }
          }();
          if constexpr (sizeof...(sign) == 0) {
            sink.PutFromTable(q, table...);
          } else {
            sink.PutSigned(q, sign..., table...);
          }
        });
      });
    };
    sink.template OfGroups<Bytes>(use, scale + kGroups * i,
                                  (offset + kGroups * i)...);
  });
}
#endif

#if DEQUANT_HAS_VBMI
// A block of 256, three values a group of 16, two bytes each: codes(i) are
// those of the 32 elements from 32 i on, in bits 4 and 5.
template <class Values, class Fn, class Sink>
HWY_INLINE void PutThreeOf16(const Fn& codes, const RowData& signs,
                             const float* scale, Sink& sink) {
  const auto values = Sink::template MakeThreeOf16<Values>(scale);
  ForEach(kTimes<8>, [&](auto i) DEQUANT_LAMBDA {
    sink.template PutSignedOf16<i, Values>(codes(i), SignsOf(signs, i), values);
  });
}
#endif

// A block of 256: index(i) are the indices of the 32 elements from 32 i on,
// scale[i] is that of the next kPerScale.
template <class Bytes, size_t kPerScale, class Grid, class Index, class Sink>
HWY_INLINE void PutSigned(const Grid& grid, const Index& index,
                          const RowData& signs, const float* scale,
                          Sink& sink) {
#if DEQUANT_HAS_VBMI
  if constexpr (Sink::kGroupTables && kPerScale == 16) {
    const auto codes = [&](size_t i)
                           DEQUANT_LAMBDA { return LoadRows(grid, index(i)); };
    PutThreeOf16<Iq2BytesAsCodes>(codes, signs, scale, sink);
    return;
  }
#endif
#if !HWY_HAVE_SCALABLE
  if constexpr (Sink::kGroupTables) {
    const auto of = [&](size_t i, const auto& put) DEQUANT_LAMBDA {
      const size_t at = kLookedUp * i;
      const auto* rows = index(at / 32) + at % 32 / sizeof(grid[0]);
      put(Bytes::Index(LoadRows(grid, rows)), SignsOf(signs, i));
    };
    PutFromTables<Bytes, kPerScale>(scale, sink, of);
    return;
  }
#endif
  EachOf(kTimes<8>, [&](size_t i) DEQUANT_LAMBDA {
    const float* scales = scale + 32 / kPerScale * i;
    PutSigned32<kPerScale>(grid, index(i), signs, i, scales[0],
                           scales[32 / kPerScale - 1], sink);
  });
}
#if DEQUANT_HAS_VBMI
// Of rows that were found as codes, as bits 1 to 3, where there are tables.
template <class Bytes, size_t kPerScale, class Sink>
HWY_INLINE void PutSigned(const FoundRows& rows, const RowData& signs,
                          const float* scale, Sink& sink) {
  const auto row = [&](size_t i) DEQUANT_LAMBDA { return rows.of + 32 * i; };
  if constexpr (Sink::kGroupTables) {
    const auto of = [&](size_t i, const auto& put) DEQUANT_LAMBDA {
      put(LoadRows(rows, row(i)), SignsOf(signs, i));
    };
    PutFromTables<Bytes, kPerScale>(scale, sink, of);
  } else {
    PutSigned<Bytes, kPerScale>(rows, row, signs, scale, sink);
  }
}
#endif
#if HWY_TARGET <= HWY_AVX3
template <class Values, size_t kPerScale, class Sink>
HWY_INLINE void PutPacked(const PackedRows& rows, const RowData& signs,
                          const float* scale, Sink& sink) {
#if DEQUANT_HAS_VBMI
  if constexpr (Sink::kGroupTables && kPerScale == 16) {
    const auto codes = [&](size_t i) DEQUANT_LAMBDA {
      return PackedCodes<4>(rows.of[i]);
    };
    PutThreeOf16<Values>(codes, signs, scale, sink);
    return;
  }
#endif
  if constexpr (Sink::kGroupTables) {
    const auto of = [&](size_t i, const auto& put) DEQUANT_LAMBDA {
      put(PackedCodes(rows.of[i]), SignsOf(signs, i));
    };
    PutFromTables<Values, kPerScale>(scale, sink, of);
  } else {
    // Once for a scale: after a store, all would be loaded and computed again.
    constexpr size_t kHalves = kPerScale / 16;
    EachOf(kTimes<16 / kHalves>, [&](size_t i) DEQUANT_LAMBDA {
      const auto values =
          sink.PackedValues(kFourTimesFour<Values>.of, Scaled{scale[i]});
      EachOf(kTimes<kHalves>, [&](size_t j) DEQUANT_LAMBDA {
        const size_t half = kHalves * i + j;
        sink.PackedHalf(rows.of[half / 2] + half % 2 * 4, values,
                        signs.of + 2 * half);
      });
    });
  }
}
#endif

// IQ1's rows of 8, each with an offset, 1 or -1, or with Iq1Flips.
template <size_t kPerScale, class Sink>
HWY_INLINE void PutOffset(const uint16_t* index, const RowData& offsets,
                          const float* scale, Sink& sink) {
#if !HWY_HAVE_SCALABLE && HWY_TARGET > HWY_AVX3
  if constexpr (Sink::kGroupTables) {
    const auto of = [&](size_t i, const auto& put) DEQUANT_LAMBDA {
      const auto rows = LoadRows(kGridIq1Codes, index + kLookedUp / 8 * i);
      const Codes q = hn::Xor(rows, OffsetsOf(offsets, i));
      put(LowNibbles(q), hn::And(q, hn::Set(dcodes, 0x80)));
    };
    PutFromTables<Iq1Signed, kPerScale>(scale, sink, of);
    return;
  }
#endif
  EachOf(kTimes<8>, [&](size_t i) DEQUANT_LAMBDA {
    const float* scales = scale + 32 / kPerScale * i;
    PutOffset32(kGridIq1, index + 4 * i, offsets, i, scales[0],
                scales[32 / kPerScale - 1], sink);
  });
}

// The same where 32 elements have one offset, as they have one scale.
template <class Sink>
HWY_INLINE void PutOffsetRows(const uint16_t* index, const float* offset,
                              const float* scale, Sink& sink) {
#if !HWY_HAVE_SCALABLE
  if constexpr (Sink::kGroupTables) {
    const auto of = [&](size_t i, const auto& put) DEQUANT_LAMBDA {
      put(LoadRows(Iq1Rows::kRows, index + kLookedUp / 8 * i));
    };
    PutFromTables<Iq1Rows, 32>(scale, sink, of, offset);
    return;
  }
#endif
#if HWY_TARGET <= HWY_AVX3
  PackedRows rows;
  PackRows(kPackedIq1, index, rows);
  EachOf(kTimes<8>, [&](size_t i) DEQUANT_LAMBDA {
    const auto values = sink.PackedValues(kFourTimesFour<Iq1Codes>.of,
                                          OffsetScaled{scale[i], offset[i]});
    sink.PackedHalf(rows.of[i], values);
    sink.PackedHalf(rows.of[i] + 4, values);
  });
#else
  EachOf(kTimes<8>, [&](size_t i) DEQUANT_LAMBDA {
    PutOffsetRow(kGridIq1, index + 4 * i, offset[i], scale[i], sink);
  });
#endif
}

// Scales for them, of rows of 8: what Read gets, mended.
constexpr float kRowUnit = 1.0f / kUnit;
// And for rows that the sink converts, if it does not look up values.
template <class Sink>
constexpr float kCodeUnit = Sink::kGroupTables ? 1.0f : kSignedUnit;

}  // namespace HWY_NAMESPACE
}  // namespace dequant
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
