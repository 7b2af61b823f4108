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
alignas(16) inline constexpr uint8_t kPerRow[8][16] = {
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

// The 16 bytes of consecutive rows.
HWY_INLINE I8x16 Rows(uint64_t r0, uint64_t r1) {
  return hn::BitCast(di8, hn::Dup128VecFromValues(du64, r0, r1));
}
HWY_INLINE I8x16 Rows(uint32_t r0, uint32_t r1, uint32_t r2, uint32_t r3) {
  return hn::BitCast(di8, hn::Dup128VecFromValues(du32, r0, r1, r2, r3));
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
  Sink<float> sink(reinterpret_cast<uint8_t*>(scales));
  sink(Signed(odd), d);
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
HWY_INLINE U8x16 PerRow(U8x16 bytes, int g) {
  return hn::TableLookupBytes(bytes, Load16Bytes(kPerRow[g]));
}
// The bits of bytes 2 g and 2 g + 1, the lowest first.
HWY_INLINE hn::Mask<decltype(du8)> GroupBits(U8x16 bytes, int g) {
  const U8x16 bit = hn::BitCast(du8, hn::Set(du64, 0x8040201008040201));
  return hn::TestBit(PerRow(bytes, g), bit);
}
HWY_INLINE I8x16 ApplySigns(I8x16 q, U8x16 signs, int g) {
  const auto minus = hn::RebindMask(di8, GroupBits(signs, g));
  return hn::MaskedSubOr(q, minus, hn::Zero(di8), q);
}

}  // namespace HWY_NAMESPACE
}  // namespace dequant
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
