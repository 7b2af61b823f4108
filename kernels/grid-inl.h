// What the IQ1, IQ2 and IQ3 formats share. Their codes are indices of a grid,
// whose rows are the bytes of 8 (IQ3: 4) neighbours. Indices, signs and scales
// of a block are unpacked for 16 rows at once; only the rows themselves are
// loaded one by one.

#include <bit>
#include <cstdint>

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

// IQ2_XXS and IQ3_XXS: a word has 7 sign bits for each of four rows of 8, and
// above them a scale of 4 bits.
HWY_INLINE U8x16 SignFields(U32x4 w) {
  const U32x4 first = hn::Or(LaneField<0, 7, 0>(w), LaneField<7, 7, 8>(w));
  const U32x4 last = hn::Or(LaneField<14, 7, 16>(w), LaneField<21, 7, 24>(w));
  return hn::BitCast(du8, hn::Or(first, last));
}
HWY_INLINE void WordScales(U32x4 w, float d, float* HWY_RESTRICT scales) {
  const hn::FixedTag<float, 4> df;
  const U32x4 code = hn::Or(hn::ShiftRight<27>(w), hn::Set(du32, 1));
  const auto value =
      hn::ConvertTo(df, hn::BitCast(hn::FixedTag<int32_t, 4>(), code));
  hn::StoreU(hn::Mul(value, hn::Set(df, d)), df, scales);
}

// Scale i = d * (2 * code[i] + 1).
HWY_INLINE void OddScales(U8x16 codes, float d, float* HWY_RESTRICT scales) {
  const U8x16 odd = hn::Or(hn::Add(codes, codes), hn::Set(du8, 1));
  Scales16(Signed(odd), d, scales);
}
// The nibbles of the lower 8 bytes, low ones first.
HWY_INLINE U8x16 Nibbles(U8x16 bytes) {
  return hn::InterleaveLower(du8, LowNibbles(bytes), HighNibbles(bytes));
}

// 7 sign bits to 8: the number of minus signs is even.
HWY_INLINE U8x16 EvenSigns(U8x16 bits) {
  const U8x16 parity = hn::Dup128VecFromValues(
      du8, 0, 128, 128, 0, 128, 0, 0, 128, 128, 0, 0, 128, 0, 128, 128, 0);
  const U8x16 folded = hn::Xor(bits, HighNibbles(bits));
  return hn::Or(bits, hn::TableLookupBytes(parity, LowNibbles(folded)));
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
HWY_INLINE void StoreOffsets(I8x16 offsets, size_t half, RowData& to) {
  const hn::Half<decltype(di8)> dhalf;
  hn::StoreU(hn::PromoteTo(drow, hn::LowerHalf(dhalf, offsets)), drow,
             to.of + 16 * half);
  hn::StoreU(hn::PromoteTo(drow, hn::UpperHalf(dhalf, offsets)), drow,
             to.of + 16 * half + 8);
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
               put(index + kRows, signs.of[2 * g + 1]), scale);
}
template <class Grid, class Index, class Sink>
HWY_INLINE void PutOffset16(const Grid& grid, const Index* index,
                            const RowData& offsets, size_t g, float scale,
                            Sink& sink) {
  const auto offset0 = hn::Set(drow, offsets.of[2 * g]);
  const auto offset1 = hn::Set(drow, offsets.of[2 * g + 1]);
  sink.Widened(hn::Add(LoadRow8(grid, index), offset0),
               hn::Add(LoadRow8(grid, index + 1), offset1), scale);
}
#else
struct RowData {
  uint8_t of[32];
};

// Of rows 16 half to 16 half + 15.
HWY_INLINE void StoreSigns(U8x16 signs, size_t half, RowData& to) {
  hn::StoreU(signs, du8, to.of + 16 * half);
}
HWY_INLINE void StoreOffsets(I8x16 offsets, size_t half, RowData& to) {
  hn::StoreU(hn::BitCast(du8, offsets), du8, to.of + 16 * half);
}
// Of the rows of group g and its neighbours, for group g % 8.
HWY_INLINE U8x16 LoadHalf(const RowData& rows, size_t g) {
  return Load16Bytes(rows.of + g / 8 * 16);
}

#if HWY_TARGET <= HWY_AVX3
// 32 codes: four rows of 8 or eight of 4. Blends are cheaper than inserts.
template <class Grid, class Index>
HWY_INLINE auto LoadRows(const Grid& grid, const Index* i) {
  const hn::Repartition<uint64_t, decltype(drow)> d64;
  const auto four = [&](auto a, auto b, auto c, auto d) HWY_ATTR {
    return hn::ConcatUpperLower(d64, hn::OddEven(d, c), hn::OddEven(b, a));
  };
  if constexpr (sizeof(grid[0]) == 8) {
    const auto row = [&](size_t r)
                         HWY_ATTR { return hn::Set(d64, grid[i[r]]); };
    return Signed(hn::BitCast(drow, four(row(0), row(1), row(2), row(3))));
  } else {
    const auto two = [&](size_t r) HWY_ATTR {
      const hn::Repartition<uint32_t, decltype(drow)> d32;
      return hn::BitCast(d64, hn::OddEven(hn::Set(d32, grid[i[r + 1]]),
                                          hn::Set(d32, grid[i[r]])));
    };
    return Signed(hn::BitCast(drow, four(two(0), two(2), two(4), two(6))));
  }
}

template <class Grid, class Index, class Sink>
HWY_INLINE void PutSigned(const Grid& grid, const Index* index,
                          const RowData& signs, size_t row, float scale0,
                          float scale1, Sink& sink) {
  const auto q = LoadRows(grid, index);
  const hn::DFromV<decltype(q)> d;
  const auto minus = hn::RebindMask(d, CodeBits(drow, signs.of + 4 * row));
  sink.Halves(hn::MaskedSubOr(q, minus, hn::Zero(d), q), scale0, scale1);
}
template <class Grid, class Index, class Sink>
HWY_INLINE void PutOffset(const Grid& grid, const Index* index,
                          const RowData& offsets, size_t row, float scale0,
                          float scale1, Sink& sink) {
  const hn::Repartition<uint32_t, decltype(drow)> d32;
  const auto four =
      hn::BitCast(drow, hn::Set(d32, Load32(offsets.of + 4 * row)));
  const auto offset = hn::TableLookupBytes(four, hn::Load(drow, kPerRow[0]));
  sink.Halves(hn::Add(LoadRows(grid, index), Signed(offset)), scale0, scale1);
}
#else
template <class Grid, class Index>
HWY_INLINE I8x16 LoadRows(const Grid& grid, const Index* i) {
  if constexpr (sizeof(grid[0]) == 8) {
    return hn::BitCast(di8,
                       hn::Dup128VecFromValues(du64, grid[i[0]], grid[i[1]]));
  } else {
    return hn::BitCast(
        di8, hn::Dup128VecFromValues(du32, grid[i[0]], grid[i[1]], grid[i[2]],
                                     grid[i[3]]));
  }
}

template <class Grid, class Index, class Sink>
HWY_INLINE void PutSigned16(const Grid& grid, const Index* index,
                            const RowData& signs, size_t g, float scale,
                            Sink& sink) {
  const I8x16 q = LoadRows(grid, index);
  const auto minus = hn::RebindMask(di8, GroupBits(LoadHalf(signs, g), g % 8));
  sink(hn::MaskedSubOr(q, minus, hn::Zero(di8), q), scale);
}
template <class Grid, class Index, class Sink>
HWY_INLINE void PutOffset16(const Grid& grid, const Index* index,
                            const RowData& offsets, size_t g, float scale,
                            Sink& sink) {
  const U8x16 offset = PerRow(LoadHalf(offsets, g), g % 8);
  sink(hn::Add(LoadRows(grid, index), Signed(offset)), scale);
}
#endif  // AVX-512
#endif

#if HWY_TARGET > HWY_AVX3
// 32 codes: four rows of 8 or eight of 4, with the signs or the offsets of row
// `row` of the block, as two groups of 16.
template <class Grid, class Index, class Sink>
HWY_INLINE void PutSigned(const Grid& grid, const Index* index,
                          const RowData& signs, size_t row, float scale0,
                          float scale1, Sink& sink) {
  constexpr size_t kRows = 16 / sizeof(grid[0]);
  PutSigned16(grid, index, signs, 2 * row, scale0, sink);
  PutSigned16(grid, index + kRows, signs, 2 * row + 1, scale1, sink);
}
template <class Grid, class Index, class Sink>
HWY_INLINE void PutOffset(const Grid& grid, const Index* index,
                          const RowData& offsets, size_t row, float scale0,
                          float scale1, Sink& sink) {
  PutOffset16(grid, index, offsets, 2 * row, scale0, sink);
  PutOffset16(grid, index + 2, offsets, 2 * row + 1, scale1, sink);
}
#endif
// Scales for them, of rows of 8: what Read gets, mended.
constexpr float kRowUnit = HWY_TARGET == HWY_AVX2 ? 1.0f / kUnit : 1.0f;

}  // namespace HWY_NAMESPACE
}  // namespace dequant
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
