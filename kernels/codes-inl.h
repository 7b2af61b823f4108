// blocks -> values, once per target: codes, on their way to the sink.
//
// Every block format is, in element order, a run of groups of 16 signed bytes
// with one F32 scale and at most one F32 offset:
//
//   value = q * scale [+ offset]
//
// Codes are 128-bit work, the same on every target; AVX2 and AVX-512 take rows
// of 32.
//
// Vectors never stand in structs or arrays: SVE's have no size.

#if defined(DEQUANT_KERNELS_CODES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef DEQUANT_KERNELS_CODES_INL_H_
#undef DEQUANT_KERNELS_CODES_INL_H_
#else
#define DEQUANT_KERNELS_CODES_INL_H_
#endif

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <utility>

#include "hwy/highway.h"
#include "kernels/narrow-inl.h"
#include "kernels/scalar.h"

HWY_BEFORE_NAMESPACE();
namespace dequant {
namespace HWY_NAMESPACE {

#ifndef HWY_DISABLED_TARGETS
#error \
    "CMakeLists.txt says which targets are built, for kernels and tests alike"
#endif

namespace hn = hwy::HWY_NAMESPACE;

// 16 bytes, codes or scales.
constexpr hn::FixedTag<uint8_t, 16> du8;
constexpr hn::FixedTag<int8_t, 16> di8;
using U8x16 = hn::Vec<decltype(du8)>;
using I8x16 = hn::Vec<decltype(di8)>;

HWY_INLINE U8x16 Load16Bytes(const uint8_t* p) { return hn::LoadU(du8, p); }

// 16 codes. AVX2 holds them twice, once in each 128-bit block: a load does that
// for nothing, operations on bytes cost the same, and the byte shuffle, which
// stays within its block, then widens them for less than a conversion.
#if HWY_TARGET == HWY_AVX2
constexpr hn::FixedTag<uint8_t, 32> dcodes;
#else
constexpr hn::FixedTag<uint8_t, 16> dcodes;
#endif
constexpr hn::RebindToSigned<decltype(dcodes)> dsigned;
using Codes = hn::Vec<decltype(dcodes)>;
using SignedCodes = hn::Vec<decltype(dsigned)>;

// A row of 32 codes. AVX-512 takes them at once, in order. AVX2 takes them in
// turn: the first kRun in the lower 128-bit block, the next kRun in the upper,
// and so on, from where the byte shuffle widens them in order.
#if HWY_TARGET <= HWY_AVX3
constexpr hn::FixedTag<uint8_t, 32> drow;
#elif HWY_TARGET == HWY_AVX2
// In a block, the second run of four may also be third: so blends put them.
template <size_t kRun, bool kBlended = false>
struct RowTag : hn::FixedTag<uint8_t, 32> {
  // Which code byte i is.
  static constexpr size_t Code(size_t i) {
    const size_t at = i % 16 / kRun, run = kBlended ? at % 2 * 2 + at / 2 : at;
    return run * (2 * kRun) + i / 16 * kRun + i % kRun;
  }
};
using BlendedRow = RowTag<4, true>;
#endif

template <class D>
HWY_INLINE hn::Vec<D> LoadCodes(D d, const uint8_t* p) {
#if HWY_TARGET == HWY_AVX2
  return hn::LoadDup128(d, p);
#else
  return hn::LoadU(d, p);
#endif
}
template <class D>
HWY_INLINE hn::Vec<hn::RebindToSigned<D>> LoadCodes(D d, const int8_t* p) {
  return hn::BitCast(hn::RebindToSigned<D>(),
                     LoadCodes(d, reinterpret_cast<const uint8_t*>(p)));
}
#if HWY_TARGET == HWY_AVX2
// A row of two groups, each of which stands in both blocks.
HWY_INLINE Codes InTurn(RowTag<8>, Codes q0, Codes q1) {
  const hn::Repartition<double, decltype(dcodes)> df64;
  const auto a = hn::BitCast(df64, q0), b = hn::BitCast(df64, q1);
  return Codes{_mm256_castpd_si256(_mm256_shuffle_pd(a.raw, b.raw, 0b1100))};
}
// Half of a row is where it belongs when all of it is loaded, the other half
// when other bytes are.
HWY_INLINE Codes LoadCodes(RowTag<8>, const uint8_t* p) {
  const Codes all = hn::LoadU(dcodes, p), middle = LoadCodes(dcodes, p + 8);
  return Codes{_mm256_blend_epi32(all.raw, middle.raw, 0b00111100)};
}
HWY_INLINE Codes LoadCodes(RowTag<16> d, const uint8_t* p) {
  return hn::LoadU(d, p);  // in order
}
HWY_INLINE Codes LoadCodes(BlendedRow d, const uint8_t* p) {
  const Codes others = hn::ConcatUpperLower(d, LoadCodes(dcodes, p + 4),
                                            LoadCodes(dcodes, p + 12));
  const Codes all = hn::LoadU(dcodes, p);
  return Codes{_mm256_blend_epi32(all.raw, others.raw, 0b01011010)};
}
#endif
HWY_INLINE Codes LoadCodes(const uint8_t* p) { return LoadCodes(dcodes, p); }
HWY_INLINE SignedCodes LoadCodes(const int8_t* p) {
  return LoadCodes(dcodes, p);
}

template <class V>
HWY_INLINE hn::Vec<hn::RebindToSigned<hn::DFromV<V>>> Signed(V v) {
  return hn::BitCast(hn::RebindToSigned<hn::DFromV<V>>(), v);
}

#if DEQUANT_HAS_VBMI
// One instruction (GFNI) makes each bit of a byte from any of its bits: from
// those that byte 7 - i of the matrix has, for bit i.
template <uint64_t kMatrix, uint8_t kFlipped = 0, class V>
HWY_INLINE V BitsOf(V v) {
  const hn::Repartition<uint64_t, hn::DFromV<V>> du64;
  const auto matrix = hn::Set(du64, kMatrix).raw;
  if constexpr (sizeof(v.raw) == 16) {
    return V{_mm_gf2p8affine_epi64_epi8(v.raw, matrix, kFlipped)};
  } else if constexpr (sizeof(v.raw) == 32) {
    return V{_mm256_gf2p8affine_epi64_epi8(v.raw, matrix, kFlipped)};
  } else {
    return V{_mm512_gf2p8affine_epi64_epi8(v.raw, matrix, kFlipped)};
  }
}
// And one instruction (VBMI) makes bytes of any eight bits of eight bytes: byte
// i of those from bit from[i] on. It gathers short fields: scales.
template <class V>
HWY_INLINE V BitsFrom(V v, const uint8_t* from) {
  const auto bit = hn::LoadU(hn::DFromV<V>(), from).raw;
  if constexpr (sizeof(v.raw) == 16) {
    return V{_mm_multishift_epi64_epi8(bit, v.raw)};
  } else if constexpr (sizeof(v.raw) == 64) {
    return V{_mm512_multishift_epi64_epi8(bit, v.raw)};
  } else {
    return V{_mm256_multishift_epi64_epi8(bit, v.raw)};
  }
}
// And one (VBMI) looks up 64 bytes in a table of 128, whatever their top bits
// are. In one of 256 it takes two.
using U8x64 = hn::Vec<hn::FixedTag<uint8_t, 64>>;
HWY_INLINE U8x64 LookUp128(U8x64 lower, U8x64 upper, U8x64 index) {
  return U8x64{_mm512_permutex2var_epi8(lower.raw, index.raw, upper.raw)};
}
HWY_INLINE U8x64 LookUp128(const uint8_t* table, U8x64 index) {
  const hn::FixedTag<uint8_t, 64> d;
  return LookUp128(hn::Load(d, table), hn::Load(d, table + 64), index);
}
HWY_INLINE U8x64 LookUp256(const uint8_t* table, U8x64 index) {
  const hn::FixedTag<int8_t, 64> d;
  const auto upper = hn::IsNegative(hn::BitCast(d, index));
  return hn::IfThenElse(hn::RebindMask(hn::FixedTag<uint8_t, 64>(), upper),
                        LookUp128(table + 128, index), LookUp128(table, index));
}
// The field of BitsOf, the top bit of which is repeated up to bit kLast.
constexpr uint64_t FieldMatrix(int from, int bits, int to, int last) {
  uint64_t matrix = 0;
  for (int i = to; i <= last; ++i) {
    const int bit = from + HWY_MIN(i - to, bits - 1);
    matrix |= uint64_t{1} << bit << (8 * (7 - i));
  }
  return matrix;
}
#endif

// Bytes kBy bits lower, or higher; with bits of their neighbours, since x86
// shifts 16-bit lanes, no bytes.
template <int kBy, class V>
HWY_INLINE V Shifted(V v) {
  const hn::DFromV<V> d;
  const hn::Repartition<uint16_t, decltype(d)> du16;
  const auto wide = hn::BitCast(du16, v);
  if constexpr (kBy == 0) return v;
  if constexpr (kBy < 0) return hn::BitCast(d, hn::ShiftLeft<-kBy>(wide));
  return hn::BitCast(d, hn::ShiftRight<HWY_MAX(kBy, 0)>(wide));
}
// Moves the kBits-bit field that starts at bit kFrom of each byte to bit kTo,
// other bits zero.
template <int kFrom, int kBits, int kTo = 0, class V>
HWY_INLINE V Field(V v) {
  const hn::DFromV<V> d;
#if DEQUANT_HAS_VBMI
  if constexpr (kFrom != kTo) {
    return BitsOf<FieldMatrix(kFrom, kBits, kTo, kTo + kBits - 1)>(v);
  }
#endif
  const V mask = hn::Set(d, static_cast<uint8_t>(((1 << kBits) - 1) << kTo));
  return hn::And(Shifted<kFrom - kTo>(v), mask);
}
// The same as the upper bits of codes that stand for themselves less half of
// their range.
template <int kFrom, int kBits, int kTo, class V>
HWY_INLINE V CenteredField(V v) {
  constexpr int kHalf = 1 << (kTo + kBits - 1);
#if DEQUANT_HAS_VBMI
  return BitsOf<FieldMatrix(kFrom, kBits, kTo, 7), 256 - kHalf>(v);
#else
  const hn::DFromV<V> d;
  return hn::Sub(Field<kFrom, kBits, kTo>(v),
                 hn::Set(d, static_cast<uint8_t>(kHalf)));
#endif
}
// Two fields of as many bits of each byte, moved as Field moves one; and kAlso,
// bits that are in neither.
template <int kFrom0, int kFrom1, int kBits, int kTo0, int kTo1,
          uint8_t kAlso = 0, class V>
HWY_INLINE V TwoFields(V v) {
#if DEQUANT_HAS_VBMI
  return BitsOf<FieldMatrix(kFrom0, kBits, kTo0, kTo0 + kBits - 1) |
                    FieldMatrix(kFrom1, kBits, kTo1, kTo1 + kBits - 1),
                kAlso>(v);
#else
  V both;
  if constexpr (kFrom0 - kTo0 == kFrom1 - kTo1) {
    constexpr int kMask = (1 << kTo0 | 1 << kTo1) * ((1 << kBits) - 1);
    both = hn::And(Shifted<kFrom0 - kTo0>(v), hn::Set(hn::DFromV<V>(), kMask));
  } else {
    both = hn::Or(Field<kFrom0, kBits, kTo0>(v), Field<kFrom1, kBits, kTo1>(v));
  }
  return kAlso == 0 ? both : hn::Or(both, hn::Set(hn::DFromV<V>(), kAlso));
#endif
}
template <class V>
HWY_INLINE V LowNibbles(V v) {
  return Field<0, 4>(v);
}
template <class V>
HWY_INLINE V HighNibbles(V v) {
  return Field<4, 4>(v);
}

#if DEQUANT_HAS_VBMI
// 16 codes of 6 bits, less 32: of 4 lower bits and 2 upper ones.
HWY_INLINE I8x16 SixBitCodes(U8x16 low, const uint8_t* low_bits, U8x16 high,
                             const uint8_t* high_bits) {
  const U8x16 upper = CenteredField<0, 2, 4>(BitsFrom(high, high_bits));
  return hn::BitCast(
      di8, hn::OrAnd(upper, BitsFrom(low, low_bits), hn::Set(du8, 15)));
}
#endif

#if HWY_TARGET == HWY_AVX2
// Where the nibbles of a row are, of 16 bytes in each block; and its bits, of
// four bytes.
template <class Row, size_t kGroup>
struct RowPlaces {
  alignas(32) uint8_t nibble[32];
  alignas(32) uint32_t shift[8];
  alignas(32) uint8_t byte[32];
  alignas(32) uint8_t bit[32];
  constexpr RowPlaces() : nibble{}, shift{}, byte{}, bit{} {
    for (size_t i = 0; i < 32; ++i) {
      const size_t code = Row::Code(i);
      nibble[i] =
          static_cast<uint8_t>(code / (2 * kGroup) * kGroup + code % kGroup);
      shift[i / 4] = code / kGroup % 2 * 4;
      byte[i] = static_cast<uint8_t>(code / 8);
      bit[i] = static_cast<uint8_t>(1 << code % 8);
    }
  }
};
template <class Row, size_t kGroup = 16>
inline constexpr RowPlaces<Row, kGroup> kRowPlaces;
#endif

// What stands for codes below 16.
template <class V>
HWY_INLINE hn::Vec<hn::RebindToSigned<hn::DFromV<V>>> ValuesOf(
    const int8_t* values, V q) {
  const hn::RebindToSigned<hn::DFromV<V>> d;
  return hn::TableLookupBytes(hn::LoadDup128(d, values), Signed(q));
}

// Codes i on, as many as D has, of a row of 32 in 16 bytes: the low nibbles of
// kGroup bytes, then their high ones; with those bits above them (0xF0: less
// 16), or from bit kTo of a byte on, which only a row of AVX-512 has for
// nothing.
template <size_t kGroup = 16, uint8_t kAbove = 0, int kTo = 0, class D>
HWY_INLINE hn::Vec<D> NibblesOfRow(D d, const uint8_t* p, size_t i) {
  static_assert(kGroup == 16 || kGroup == 8);
  static_assert(kTo == 0 || (DEQUANT_HAS_VBMI && hn::MaxLanes(D()) == 32));
  static_assert(kAbove == 0 ||
                (HWY_TARGET <= HWY_AVX3 && hn::MaxLanes(D()) == 32));
  const hn::Repartition<uint64_t, D> du64;
#if HWY_TARGET <= HWY_AVX3
  if constexpr (hn::MaxLanes(d) == 32) {
    // All bytes twice, the second time four bits lower.
    alignas(32) static constexpr uint64_t kShift[4] = {0, 4 * (kGroup == 8),
                                                       4 * (kGroup == 16), 4};
    const auto twice =
        kGroup == 16 ? hn::BitCast(du64, hn::LoadDup128(d, p))
                     : hn::ConcatUpperLower(du64, hn::Set(du64, Load64(p + 8)),
                                            hn::Set(du64, Load64(p)));
#if DEQUANT_HAS_VBMI
    constexpr uint64_t kLow = FieldMatrix(0, 4, kTo, kTo + 3);
    constexpr uint64_t kHigh = FieldMatrix(4, 4, kTo, kTo + 3);
    alignas(32) static constexpr uint64_t kMatrix[4] = {
        kLow, kGroup == 8 ? kHigh : kLow, kGroup == 8 ? kLow : kHigh, kHigh};
    return hn::Vec<D>{_mm256_gf2p8affine_epi64_epi8(
        twice.raw, hn::Load(du64, kMatrix).raw, kAbove)};
#endif
    const auto q = hn::BitCast(d, hn::Shr(twice, hn::Load(du64, kShift)));
    if constexpr (kAbove == 0xF0) return hn::Or(q, hn::Set(d, kAbove));
    return hn::Or(LowNibbles(q), hn::Set(d, kAbove));
  }
#endif
  const hn::Vec<D> bytes = LoadCodes(d, p);
  if constexpr (kGroup == 16) {
    return i == 0 ? LowNibbles(bytes) : HighNibbles(bytes);
  } else {
    const auto lo = hn::BitCast(du64, LowNibbles(bytes));
    const auto hi = hn::BitCast(du64, HighNibbles(bytes));
    return hn::BitCast(d, i == 0 ? hn::InterleaveLower(du64, lo, hi)
                                 : hn::InterleaveUpper(du64, lo, hi));
  }
}
#if HWY_TARGET == HWY_AVX2
template <size_t kGroup = 16, size_t kRun, bool kBlended>
HWY_INLINE Codes NibblesOfRow(RowTag<kRun, kBlended> d, const uint8_t* p,
                              size_t) {
  constexpr const auto& kPlaces = kRowPlaces<decltype(d), kGroup>;
  const hn::Repartition<uint32_t, decltype(dcodes)> du32;
  Codes bytes = hn::LoadDup128(d, p);
  if constexpr (kRun != 16 || kGroup != 16) {
    bytes = hn::TableLookupBytes(bytes, hn::Load(d, kPlaces.nibble));
  }
  return LowNibbles(hn::BitCast(
      d, hn::Shr(hn::BitCast(du32, bytes), hn::Load(du32, kPlaces.shift))));
}
#endif

// A row of 32 codes that are whole bytes.
struct ByteRow {
  const int8_t* p;
};

// The same, which a sink may take as floats that are kByteOffset more: see its
// kTakesOffsetBytes.
struct OffsetByteRow {
  const int8_t* p;
};
constexpr float kByteOffset = 0x1p15f + 128;

// 32 bytes that several rows are made of: bytes(d, i) are those from i on, as
// many as the tag d has.
struct RowBytes {
  const uint8_t* p;
  template <class D>
  HWY_INLINE hn::Vec<D> operator()(D d, size_t i) const {
    return LoadCodes(d, p + i);
  }
};
#if HWY_TARGET == HWY_AVX2
// Loaded once. (A vector of AVX2 has a size and may stand here.)
template <class Row>
struct RowBytesInTurn {
  Codes bytes;
  HWY_INLINE explicit RowBytesInTurn(const uint8_t* p)
      : bytes(LoadCodes(Row(), p)) {}
  HWY_INLINE Codes operator()(Row, size_t) const { return bytes; }
};
#endif

// Loops over blocks and groups must not become calls.
#if HWY_COMPILER_MSVC || HWY_IS_ASAN
#define DEQUANT_LAMBDA HWY_ATTR
#else
#define DEQUANT_LAMBDA HWY_ATTR __attribute__((always_inline))
#endif

// f(0) to f(n - 1); without a loop if n is known. (With AddressSanitizer, that
// was not compiled after a quarter of an hour.)
template <class F>
HWY_INLINE void EachOf(size_t n, const F& f) {
  for (size_t i = 0; i < n; ++i) f(i);
}
template <size_t n>
constexpr std::integral_constant<size_t, n> kTimes{};
template <class F, size_t... i>
HWY_INLINE void EachIn(std::index_sequence<i...>, const F& f) {
  (f(kTimes<i>), ...);
}
template <class F, size_t n>
HWY_INLINE void EachOf(std::integral_constant<size_t, n>, const F& f) {
#if HWY_IS_ASAN
  EachOf(n, f);
#else
  EachIn(std::make_index_sequence<n>(), f);
#endif
}
// The same where f needs its argument as a constant.
template <class F, size_t n>
HWY_INLINE void ForEach(std::integral_constant<size_t, n>, const F& f) {
  EachIn(std::make_index_sequence<n>(), f);
}

// Compilers move nothing over this. Theirs is an order for results to be there
// in time; what counts as well is the order in which the CPU queues
// instructions.
HWY_INLINE void KeepOrder() {
#if !HWY_COMPILER_MSVC
  asm volatile("");
#endif
}

// What comes behind the last rows, where rows are pipelined.
struct NoRows {};

// Rows that were unpacked to memory, if the target's sink has kCodesFirst.
template <size_t kRows>
class StoredCodes {
 public:
#if HWY_TARGET == HWY_AVX2
  HWY_INLINE uint8_t* Row(size_t i) { return rows_[i]; }
  HWY_INLINE const uint8_t* Row(size_t i) const { return rows_[i]; }

 private:
  alignas(32) uint8_t rows_[kRows][32];
#else
  HWY_INLINE uint8_t* Row(size_t) const { return nullptr; }
#endif
};

// codes(r) are those of row r, a constant.
template <class Sink, size_t kRows, class Fn>
HWY_INLINE void StoreRows(const Fn& codes, StoredCodes<kRows>& to) {
  ForEach(kTimes<kRows>, [&](auto r) DEQUANT_LAMBDA {
    Sink::StoreCodes(codes(r), to.Row(r));
  });
}
// value(r, half) is the formula of half a row.
template <size_t kRows, class Value, class Sink>
HWY_INLINE void PutStoredRows(const StoredCodes<kRows>& codes,
                              const Value& value, Sink& sink) {
  EachOf(kTimes<kRows>, [&](size_t r) DEQUANT_LAMBDA {
    sink.StoredRow(codes.Row(r), value(r, 0), value(r, 1));
  });
}

// A row of nibbles in 16 bytes, the low ones first, what `map` makes of 0 to
// 15, and a formula.
template <class Map, class Value>
struct NibblesOf {
  const uint8_t* p;
  Map map;
  Value value;
};
template <class Map, class Value>
NibblesOf(const uint8_t*, Map, Value) -> NibblesOf<Map, Value>;

// Two rows, the low and the high nibbles of 32 bytes, which stand for
// themselves, and their formulas.
template <class Value>
struct TwoNibblesOf {
  const uint8_t* p;
  Value value0, value1;
};
template <class Value>
TwoNibblesOf(const uint8_t*, Value, Value) -> TwoNibblesOf<Value>;

// make(i) and use(i) for i below n, use kAhead steps later: what is used at
// once waits for what was made, and stops what comes behind it.
template <size_t n, size_t kAhead, bool kInOrder = true, class Make, class Use>
HWY_INLINE void MakeAhead(const Make& make, const Use& use) {
  ForEach(kTimes<n + kAhead>, [&](auto i) DEQUANT_LAMBDA {
    if constexpr (i() < n) make(i);
    if constexpr (kInOrder) KeepOrder();
    if constexpr (i() >= kAhead) use(kTimes<i() - kAhead>);
    if constexpr (kInOrder) KeepOrder();
  });
}

// How many of rows that are such the sink makes ready at once, and those of
// them that are i-th.
template <class Sink, class Rows>
constexpr size_t kMadeAtOnce = 1;
template <class Sink, class Rows>
requires requires(const Rows& rows) { Sink::MadeReady(rows(0), rows(1)); }
constexpr size_t kMadeAtOnce<Sink, Rows> = 2;
template <class Sink, class Rows>
HWY_INLINE auto MadeReady(const Rows& rows, size_t i) {
  if constexpr (kMadeAtOnce<Sink, Rows> == 2) {
    return Sink::MadeReady(rows(2 * i), rows(2 * i + 1));
  } else {
    return Sink::MadeReady(rows(i));
  }
}

// rows(0) to rows(n - 1), which are such. They are made ready some tables
// ahead.
template <size_t n, class Rows, class Sink>
HWY_INLINE void PutNibbles(const Rows& rows, Sink& sink) {
  if constexpr (Sink::kTablesAhead > 0) {
    using Ready = decltype(MadeReady<Sink>(rows, 0));
    constexpr size_t kTimesMade = n / kMadeAtOnce<Sink, Rows>;
    constexpr size_t kAhead = Sink::kTablesAhead / Ready::kTables;
    static_assert(n % kMadeAtOnce<Sink, Rows> == 0);
    Ready ready[kTimesMade];
    MakeAhead<kTimesMade, kAhead, Sink::kTablesApart>(
        [&](auto i) DEQUANT_LAMBDA { ready[i()] = MadeReady<Sink>(rows, i()); },
        [&](auto i) DEQUANT_LAMBDA { sink.Put(ready[i()]); });
  } else {
    EachOf(kTimes<n>, [&](size_t i) DEQUANT_LAMBDA { sink.Nibbles(rows(i)); });
  }
}

// Scales of codes are kept times kUnit: AVX2 widens a code to the top of its
// 32-bit lane, which extends its sign for nothing but makes it 2^24 times as
// large.
#if HWY_TARGET == HWY_AVX2
constexpr float kUnit = 0x1p-24f;
#else
constexpr float kUnit = 1.0f;
#endif

// AVX-512 does that with the signed codes of a row only, by one permute of
// bytes for a half: their scales come times kSignedUnit.
constexpr float kSignedUnit = DEQUANT_HAS_VBMI ? 0x1p-24f : 1.0f;

// What codes stand for, of vectors and of one code: themselves, one less, eight
// less, or 16 values.
struct Same {
  static constexpr int Of(int code) { return code; }
  template <class V>
  HWY_INLINE V operator()(V q) const {
    return q;
  }
};
struct Minus1 {
  static constexpr int Of(int code) { return code - 1; }
  template <class V>
  HWY_INLINE auto operator()(V q) const {
    return hn::Sub(Signed(q), Signed(hn::Set(hn::DFromV<V>(), 1)));
  }
};

struct Minus8 {
  static constexpr int Of(int code) { return code - 8; }
  template <class V>
  HWY_INLINE auto operator()(V q) const {
    return hn::Sub(Signed(q), Signed(hn::Set(hn::DFromV<V>(), 8)));
  }
};

template <const int8_t (&kOf)[16]>
struct OneOf16 {
  static constexpr int Of(int code) { return kOf[code]; }
  HWY_INLINE SignedCodes operator()(Codes q) const {
    return hn::TableLookupBytes(LoadCodes(kOf), Signed(q));
  }
};

// What few codes stand for, for tables of values with a scale times kUnit; and
// bits that are set in all codes, whatever they are.
struct TwoBitCodes {
  static constexpr float kOf[4] = {0, 1 / kUnit, 2 / kUnit, 3 / kUnit};
  static constexpr uint8_t kInAll = 0;
  static constexpr int kCodeAt = HWY_TARGET > HWY_AVX3 ? 2 : 0;
  template <class V>
  HWY_INLINE static V Value(V q, V scale, V offset) {
    return hn::MulAdd(q, scale, offset);
  }
};

// Where an index of a table of groups has the group; those of eight codes have
// it in bit 0.
template <class Values>
constexpr int kGroupAt = 0;
template <class Values>
requires(std::size(Values::kOf) ==
         4) constexpr int kGroupAt<Values> = Values::kCodeAt == 0 ? 2 : 0;

// -4 to 3 times a scale, for two groups, are 16 values of four magnitudes: word
// kGroup * group + kBit0 * m % 2 + kBit1 * (m / 2) is m + 1 times the scale. An
// index is the code, 0 to 7, and the group in bit 3.
template <int kGroup, int kBit0, int kBit1>
struct SignedEights {
  alignas(32) uint8_t low[32];   // where the lower byte of a value is
  alignas(32) uint8_t high[32];  // and the upper one
  alignas(32) uint8_t kept[32];  // of the upper one; of a 0 its sign
  alignas(32) uint8_t sign[32];
  constexpr SignedEights() : low{}, high{}, kept{}, sign{} {
    for (int i = 0; i < 32; ++i) {
      const int q = i % 8, magnitude = q < 4 ? 4 - q : q - 4;
      const int m = magnitude == 0 ? 0 : magnitude - 1;
      const int word = kGroup * (i / 8 % 2) + kBit0 * (m % 2) + kBit1 * (m / 2);
      low[i] = static_cast<uint8_t>(magnitude == 0 ? 0x80 : 2 * word);
      high[i] = static_cast<uint8_t>(2 * word + 1);
      kept[i] = magnitude == 0 ? 0x80 : 0xFF;
      sign[i] = q < 4 ? 0x80 : 0;
    }
  }
};
template <int kGroup, int kBit0, int kBit1>
inline constexpr SignedEights<kGroup, kBit0, kBit1> kSignedEights;
#if !HWY_HAVE_SCALABLE
// Their tables, of the bytes of eight words.
template <class Eights>
HWY_INLINE void SplitEights(const Eights& of, Codes words, Codes& low,
                            Codes& high) {
  const Codes upper =
      hn::And(hn::TableLookupBytes(words, hn::Load(dcodes, of.high)),
              hn::Load(dcodes, of.kept));
  low = hn::TableLookupBytesOr0(words, hn::Load(dcodes, of.low));
  high = hn::Xor(upper, hn::Load(dcodes, of.sign));
}
#endif

// The mask of as many bits at p as D has codes, the lowest bit first.
// (LoadMaskBits may read eight bytes.)
template <class D>
HWY_INLINE hn::Mask<D> CodeBits(D d, const uint8_t* p) {
#if HWY_TARGET <= HWY_AVX3
  if constexpr (hn::MaxLanes(d) == 32) return hn::Mask<D>{Load32(p)};
#endif
  return hn::Dup128MaskFromMaskBits(d, Load16(p));
}
#if HWY_TARGET == HWY_AVX2
template <size_t kRun, bool kBlended>
HWY_INLINE hn::Mask<decltype(dcodes)> CodeBits(RowTag<kRun, kBlended> d,
                                               const uint8_t* p) {
  constexpr const auto& kPlaces = kRowPlaces<decltype(d)>;
  const hn::Repartition<uint32_t, decltype(dcodes)> du32;
  const Codes bits = hn::BitCast(d, hn::Set(du32, Load32(p)));
  return hn::TestBit(hn::TableLookupBytes(bits, hn::Load(d, kPlaces.byte)),
                     hn::Load(d, kPlaces.bit));
}
#endif

// Codes of 5 bits of such a row, the top ones as CodeBits has them; less 16, if
// they are centered; from bit kTo on, where nibbles are.
template <bool kCentered, int kTo = 0, class D>
HWY_INLINE auto FiveBitsOfRow(D d, const uint8_t* nibbles, const uint8_t* bits,
                              size_t i) {
  using V = hn::Vec<std::conditional_t<kCentered, hn::RebindToSigned<D>, D>>;
  const auto top = CodeBits(d, bits + i / 8);
#if HWY_TARGET <= HWY_AVX3
  if constexpr (hn::MaxLanes(d) == 32) {
    constexpr uint8_t kAbove = kCentered ? 0xF0 : 0;
    const auto q = NibblesOfRow<16, kAbove, kTo>(d, nibbles, i);
    return hn::BitCast(hn::DFromV<V>(),
                       hn::MaskedAddOr(q, top, q, hn::Set(d, 16 << kTo)));
  }
#endif
  // Subtracting 16 is setting the upper four bits, where bit 4 is clear.
  const auto above = kCentered ? hn::IfThenZeroElse(top, hn::Set(d, 0xF0))
                               : hn::IfThenElseZero(top, hn::Set(d, 16));
  return hn::BitCast(hn::DFromV<V>(),
                     hn::Or(NibblesOfRow(d, nibbles, i), above));
}

// A scale in all lanes. Of AVX-512's broadcasts from memory, those of integers
// are part of the load; those of floats take the port of shuffles on Zen 4.
template <class D>
HWY_INLINE hn::Vec<D> Broadcast(D d, float scale) {
#if HWY_TARGET <= HWY_AVX3
  const hn::RebindToSigned<D> di;
  return hn::BitCast(d, hn::Set(di, hwy::BitCastScalar<int32_t>(scale)));
#else
  return hn::Set(d, scale);
#endif
}

// q * scale, and q * scale + offset, whose product must be exact in F32:
// fused or not, it then has the same bits.
struct Scaled {
  float scale;
  template <class D, class V>
  HWY_INLINE V operator()(D d, V q) const {
    return hn::Mul(q, hn::Set(d, scale));  // which broadcasts it
  }
};
// By one that others use as well.
struct ScaledAlike {
  float scale;
  template <class D, class V>
  HWY_INLINE V operator()(D d, V q) const {
    return hn::Mul(q, Broadcast(d, scale));
  }
};
// By an F16 of the file. Where there is F16 arithmetic, F16 output needs no
// F32: the product of an integer and an F16 is rounded once in either.
struct HalfScaled {
  float scale;
  const uint8_t* half;
  template <class D, class V>
  HWY_INLINE V operator()(D d, V q) const {
    return hn::Mul(q, Broadcast(d, scale));
  }
#if HWY_HAVE_FLOAT16
  template <class DH>
  HWY_INLINE hn::Vec<DH> TimesHalf(DH dh, hn::Vec<DH> q) const {
    const auto value = hwy::float16_t::FromBits(Load16(half));
    return hn::Mul(q, hn::Set(dh, value));
  }
  // Codes in lanes of 16 bits.
  template <class DH, class V>
  HWY_INLINE hn::Vec<DH> OfCodes(DH dh, V q) const {
    return TimesHalf(dh, hn::ConvertTo(dh, q));
  }
#endif
};
// Whether a formula is a product with its scale.
template <class Value>
constexpr bool kIsProduct = requires(Value value) {
  value.scale;
}
&&!requires(Value value) { value.offset; };

// Whether output T needs no F32.
template <typename T, class Value>
constexpr bool kByHalf = HWY_HAVE_FLOAT16&& hwy::IsSame<T, hwy::float16_t>() &&
                         std::is_base_of_v<HalfScaled, Value>;
struct ScaledOffset {
  float scale, offset;
  template <class D, class V>
  HWY_INLINE V operator()(D d, V q) const {
    return hn::MulAdd(q, Broadcast(d, scale), Broadcast(d, offset));
  }
  // Of one vector only: an operand with broadcast is one register less to read,
  // and three of them get in the way of stores on Zen 4.
  template <class D, class V>
  HWY_INLINE V Once(D d, V q) const {
    return hn::MulAdd(q, Broadcast(d, scale), hn::Set(d, offset));
  }
};

// (q + offset) * scale, for whole numbers of 24 bits.
struct OffsetScaled {
  float scale, offset;
  template <class D, class V>
  HWY_INLINE V operator()(D d, V q) const {
    return hn::Mul(hn::Add(q, Broadcast(d, offset)), Broadcast(d, scale));
  }
};

HWY_INLINE Scaled Formula(float scale) { return {scale}; }
HWY_INLINE HalfScaled Formula(HalfScaled scale) { return scale; }
HWY_INLINE ScaledOffset Formula(ScaledOffset value) { return value; }
HWY_INLINE ScaledOffset Formula(float scale, float offset) {
  return {scale, offset};
}

alignas(16) inline constexpr uint8_t kAllCodes[16] = {
    0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
alignas(16) inline constexpr uint8_t kFour[16] = {0, 1, 2, 3, 0, 1, 2, 3,
                                                  0, 1, 2, 3, 0, 1, 2, 3};

#if HWY_TARGET == HWY_AVX2 || HWY_TARGET_IS_NEON
// Byte kAt of 32-bit lane i is code kFirst + kStep i, the others are 0; each
// 128-bit block of a row starts again.
template <int kFirst, int kStep, int kAt, bool kRow>
struct WidenIndex {
  alignas(32) int8_t bytes[32];
  constexpr WidenIndex() : bytes{} {
    for (int i = 0; i < 32; ++i) {
      const int lane = (kRow ? i % 16 : i) / 4;
      bytes[i] = static_cast<int8_t>(i % 4 == kAt ? kFirst + kStep * lane : -1);
    }
  }
};
template <int kFirst, int kStep, int kAt, bool kRow>
inline constexpr WidenIndex<kFirst, kStep, kAt, kRow> kWidenIndex;

template <int kFirst, int kStep, int kAt, bool kRow = false, class V>
HWY_INLINE V WidenTo(V q) {
  const hn::Repartition<int8_t, hn::DFromV<V>> d;
  const auto index = hn::Load(d, kWidenIndex<kFirst, kStep, kAt, kRow>.bytes);
  return hn::BitCast(hn::DFromV<V>(),
                     hn::TableLookupBytesOr0(hn::BitCast(d, q), index));
}
#endif

template <int kBits>
struct Shifts {
  uint32_t of[32 / kBits];
  constexpr Shifts() : of{} {
    for (uint32_t i = 0; i < 32 / kBits; ++i) of[i] = kBits * i;
  }
};
template <int kBits>
inline constexpr Shifts<kBits> kShifts;

}  // namespace HWY_NAMESPACE
}  // namespace dequant
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
