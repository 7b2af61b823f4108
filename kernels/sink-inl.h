// blocks -> values, once per target: codes, and the sink that they go to.
//
// Every block format is, in element order, a run of groups of 16 signed bytes
// with one F32 scale and at most one F32 offset:
//
//   value = q * scale [+ offset]
//
// Codes are 128-bit work, the same on every target. Sink<T> turns groups into T
// and stores them: the only code that depends on the vector's width or on the
// output type.
//
// Vectors never stand in structs or arrays: SVE's have no size.

#if defined(DEQUANT_KERNELS_SINK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef DEQUANT_KERNELS_SINK_INL_H_
#undef DEQUANT_KERNELS_SINK_INL_H_
#else
#define DEQUANT_KERNELS_SINK_INL_H_
#endif

#include <cstddef>
#include <cstdint>
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

#if HWY_TARGET <= HWY_AVX3
// A row of 32 codes: AVX-512 takes them at once.
constexpr hn::FixedTag<uint8_t, 32> drow;
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
HWY_INLINE Codes LoadCodes(const uint8_t* p) { return LoadCodes(dcodes, p); }
HWY_INLINE SignedCodes LoadCodes(const int8_t* p) {
  return LoadCodes(dcodes, p);
}

template <class V>
HWY_INLINE hn::Vec<hn::RebindToSigned<hn::DFromV<V>>> Signed(V v) {
  return hn::BitCast(hn::RebindToSigned<hn::DFromV<V>>(), v);
}

// Moves the kBits-bit field that starts at bit kFrom of each byte to bit kTo,
// other bits zero. Shifts 16-bit lanes: x86 has no byte shift, and the mask is
// needed anyway.
template <int kFrom, int kBits, int kTo = 0, class V>
HWY_INLINE V Field(V v) {
  const hn::DFromV<V> d;
  const hn::Repartition<uint16_t, decltype(d)> du16;
  const V mask = hn::Set(d, static_cast<uint8_t>(((1 << kBits) - 1) << kTo));
  const auto wide = hn::BitCast(du16, v);
  if constexpr (kFrom > kTo) {
    v = hn::BitCast(d, hn::ShiftRight<kFrom - kTo>(wide));
  } else if constexpr (kFrom < kTo) {
    v = hn::BitCast(d, hn::ShiftLeft<kTo - kFrom>(wide));
  }
  return hn::And(v, mask);
}
template <class V>
HWY_INLINE V LowNibbles(V v) {
  return Field<0, 4>(v);
}
template <class V>
HWY_INLINE V HighNibbles(V v) {
  return Field<4, 4>(v);
}

// Codes i on, as many as D has, of a row of 32 in 16 bytes: their low nibbles,
// then their high ones.
template <class D>
HWY_INLINE hn::Vec<D> NibblesOfRow(D d, const uint8_t* p, size_t i) {
#if HWY_TARGET <= HWY_AVX3
  if constexpr (hn::MaxLanes(d) == 32) {
    alignas(32) static constexpr uint32_t kShift[8] = {0, 0, 0, 0, 4, 4, 4, 4};
    const hn::Repartition<uint32_t, D> du32;
    const auto twice = hn::BitCast(du32, hn::LoadDup128(d, p));
    return LowNibbles(hn::BitCast(d, hn::Shr(twice, hn::Load(du32, kShift))));
  }
#endif
  const hn::Vec<D> bytes = LoadCodes(d, p);
  return i == 0 ? LowNibbles(bytes) : HighNibbles(bytes);
}

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
template <class F, size_t... i>
HWY_INLINE void EachIn(std::index_sequence<i...>, const F& f) {
  (f(i), ...);
}
template <class F, size_t n>
HWY_INLINE void EachOf(std::integral_constant<size_t, n>, const F& f) {
#if HWY_IS_ASAN
  EachOf(n, f);
#else
  EachIn(std::make_index_sequence<n>(), f);
#endif
}
template <size_t n>
constexpr std::integral_constant<size_t, n> kTimes{};

// Scales of codes are kept times kUnit: AVX2 widens a code to the top of its
// 32-bit lane, which extends its sign for nothing but makes it 2^24 times as
// large.
#if HWY_TARGET == HWY_AVX2
constexpr float kUnit = 0x1p-24f;
#else
constexpr float kUnit = 1.0f;
#endif

// What codes stand for: themselves, or one less.
struct Same {
  template <class V>
  HWY_INLINE V operator()(V q) const {
    return q;
  }
};
struct Minus1 {
  template <class V>
  HWY_INLINE auto operator()(V q) const {
    return hn::Sub(Signed(q), Signed(hn::Set(hn::DFromV<V>(), 1)));
  }
};

// The mask of as many bits at p as D has codes, the lowest bit first.
// (LoadMaskBits may read eight bytes.)
template <class D>
HWY_INLINE hn::Mask<D> CodeBits(D d, const uint8_t* p) {
#if HWY_TARGET == HWY_AVX2
  alignas(16) static constexpr uint8_t kByte[16] = {0, 0, 0, 0, 0, 0, 0, 0,
                                                    1, 1, 1, 1, 1, 1, 1, 1};
  alignas(16) static constexpr uint8_t kBit[16] = {1, 2, 4, 8, 16, 32, 64, 128,
                                                   1, 2, 4, 8, 16, 32, 64, 128};
  const hn::Repartition<uint16_t, D> du16;
  const Codes bits = hn::BitCast(d, hn::Set(du16, Load16(p)));
  return hn::TestBit(hn::TableLookupBytes(bits, LoadCodes(kByte)),
                     LoadCodes(kBit));
#else
#if HWY_TARGET <= HWY_AVX3
  if constexpr (hn::MaxLanes(d) == 32) return hn::Mask<D>{Load32(p)};
#endif
  return hn::Dup128MaskFromMaskBits(d, Load16(p));
#endif
}
HWY_INLINE hn::Mask<decltype(dcodes)> CodeBits(const uint8_t* p) {
  return CodeBits(dcodes, p);
}

// q * scale, and q * scale + offset, whose product must be exact in F32: fused
// or not, it then has the same bits.
struct Scaled {
  float scale;
  template <class D, class V>
  HWY_INLINE V operator()(D d, V q) const {
    return hn::Mul(q, hn::Set(d, scale));
  }
};
// By an F16 of the file. Where there is F16 arithmetic, F16 output needs no
// F32: the product of an integer and an F16 is rounded once in either.
struct HalfScaled {
  float scale;
  const uint8_t* half;
  template <class D, class V>
  HWY_INLINE V operator()(D d, V q) const {
    return hn::Mul(q, hn::Set(d, scale));
  }
};
struct ScaledOffset {
  float scale, offset;
  template <class D, class V>
  HWY_INLINE V operator()(D d, V q) const {
    return hn::MulAdd(q, hn::Set(d, scale), hn::Set(d, offset));
  }
};

#if HWY_TARGET == HWY_AVX2 || HWY_TARGET_IS_NEON
// Byte kAt of 32-bit lane i is code kFirst + kStep i, the others are 0.
template <int kFirst, int kStep, int kAt>
struct WidenIndex {
  alignas(32) int8_t bytes[32];
  constexpr WidenIndex() : bytes{} {
    for (int i = 0; i < 32; ++i) {
      bytes[i] =
          static_cast<int8_t>(i % 4 == kAt ? kFirst + kStep * (i / 4) : -1);
    }
  }
};
template <int kFirst, int kStep, int kAt>
inline constexpr WidenIndex<kFirst, kStep, kAt> kWidenIndex;

template <int kFirst, int kStep, int kAt, class V>
HWY_INLINE V WidenTo(V q) {
  const hn::Repartition<int8_t, hn::DFromV<V>> d;
  const auto index = hn::Load(d, kWidenIndex<kFirst, kStep, kAt>.bytes);
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

#if HWY_TARGET <= HWY_AVX3
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
#endif

// Writes groups as T, one after the other. Codes, which are below 128, and
// SignedCodes have a scale times kUnit; I8x16 is for codes that come in 128
// bits and has the scale itself. With an offset, scale and code must have 24
// bits between them.
template <typename T>
class Sink {
 public:
  HWY_INLINE explicit Sink(uint8_t* to) : to_(to) {}
  template <class V, class... F>
  HWY_INLINE void operator()(V q, F... scale) {
    Put(q, Formula(scale...));
  }

  // A row of 32 elements with one scale: codes(d, i) are codes i on, as many as
  // the tag d has.
  template <class Fn, class... F>
  HWY_INLINE void Row(const Fn& codes, F... scale) {
    PutRow(codes, Formula(scale...), Formula(scale...));
  }
  // A row of 32 of which each half has a scale.
  template <class Fn>
  HWY_INLINE void Halves(const Fn& codes, const float* scale) {
    PutRow(codes, Formula(scale[0]), Formula(scale[1]));
  }

  // A row of nibbles in 16 bytes, the low ones first, which stand for what
  // `map` makes of 0 to 15, with one scale. Where that is less work, T is
  // computed once for each of the 16 codes, and looked up.
  template <class Map, class... F>
  HWY_INLINE void NibbleRow(const uint8_t* p, Map map, F... scale) {
    const auto value = Formula(scale...);
#if HWY_TARGET <= HWY_AVX3
    const auto table = Table(map, value);
    if constexpr (sizeof(T) == 4) {
      PutLookedUp<0>(LoadCodes(p), table);
      PutLookedUp<4>(LoadCodes(p), table);
    } else {
      PutRowLookedUp<0>(NibblesOfRow(drow, p, 0), table, value);
    }
#else
    const Codes bytes = LoadCodes(p);
    PutPair<kFewTables>(LowNibbles(bytes), HighNibbles(bytes), map, value);
#endif
  }
  // The same of the nibbles that start at bit kFrom of 32 bytes.
  template <int kFrom, class Map, class... F>
  HWY_INLINE void Nibbles(const uint8_t* p, Map map, F... scale) {
    const auto value = Formula(scale...);
#if HWY_TARGET <= HWY_AVX3
    const auto table = Table(map, value);
    if constexpr (sizeof(T) == 4) {
      PutLookedUp<kFrom>(LoadCodes(p), table);
      PutLookedUp<kFrom>(LoadCodes(p + 16), table);
    } else {
      PutRowLookedUp<0>(Field<kFrom, 4>(LoadCodes(drow, p)), table, value);
    }
#else
    PutPair<kFewTables>(Field<kFrom, 4>(LoadCodes(p)),
                        Field<kFrom, 4>(LoadCodes(p + 16)), map, value);
#endif
  }

  // Whether four values are looked up faster than computed, from bits as they
  // are: the look-up sees two bits of an index and needs no mask.
  static constexpr bool kFourValues =
      HWY_TARGET <= HWY_AVX3 ||
      (HWY_TARGET == HWY_AVX2 && hwy::IsSame<T, float>());

  // A row of the 2-bit fields that start at bit kFrom of bytes(d, i), which
  // stand for what `map` makes of them; each half has a scale and an offset.
  template <int kFrom, class Fn, class Map>
  HWY_INLINE void TwoBits(const Fn& bytes, Map map, const float* scale,
                          const float* offset) {
    const ScaledOffset value0{scale[0], offset[0]};
    const ScaledOffset value1{scale[1], offset[1]};
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET <= HWY_AVX3
    if constexpr (sizeof(T) == 4) {
      PutTwoBits<kFrom>(bytes(dcodes, size_t{0}), FourValues(map, value0));
      PutTwoBits<kFrom>(bytes(dcodes, size_t{16}), FourValues(map, value1));
      return;
    }
#endif
    const auto codes = [&](auto tag, size_t i) DEQUANT_LAMBDA {
      return map(Field<kFrom, 2>(bytes(tag, i)));
    };
    PutRow(codes, value0, value1);
  }
  // The same where more than these have that scale.
  template <int kFrom, class Fn, class Map>
  HWY_INLINE void TwoBitsOfMany(const Fn& bytes, Map map, float scale) {
#if HWY_TARGET <= HWY_AVX3
    if constexpr (sizeof(T) == 2) {
      TwoBitsOfMany<kFrom>(map, scale, bytes(drow, size_t{0}));
      return;
    }
#endif
    TwoBitsOfMany<kFrom>(map, scale, bytes(dcodes, size_t{0}),
                         bytes(dcodes, size_t{16}));
  }
  // Of two groups of bytes.
  template <int kFrom, class Map>
  HWY_INLINE void TwoBitsOfMany(Map map, float scale, Codes bytes0,
                                Codes bytes1) {
#if HWY_TARGET <= HWY_AVX3
    if constexpr (sizeof(T) == 2) {
      TwoBitsOfMany<kFrom>(map, scale, hn::Combine(drow, bytes1, bytes0));
      return;
    }
#endif
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET <= HWY_AVX3
    if constexpr (sizeof(T) == 4) {
      const auto four = FourValues(map, Formula(scale));
      PutTwoBits<kFrom>(bytes0, four);
      PutTwoBits<kFrom>(bytes1, four);
      return;
    }
#endif
#if HWY_TARGET > HWY_AVX3
    PairOfMany(Field<kFrom, 2>(bytes0), Field<kFrom, 2>(bytes1), map, scale);
#endif
  }
#if HWY_TARGET <= HWY_AVX3
  // Of a row of bytes.
  template <int kFrom, class Map>
  HWY_INLINE void TwoBitsOfMany(Map map, float scale,
                                hn::Vec<decltype(drow)> bytes) {
    if constexpr (sizeof(T) == 4) {
      TwoBitsOfMany<kFrom>(map, scale, hn::LowerHalf(dcodes, bytes),
                           hn::UpperHalf(dcodes, bytes));
    } else {
      const auto value = Formula(scale);
      PutRowLookedUp<kFrom>(bytes, TableOfFour(map, value), value);
    }
  }
#endif

#if HWY_TARGET == HWY_AVX2 || HWY_TARGET <= HWY_AVX3
  // Rows of codes of kBits bits, the lowest first; `map` gets two bits. If
  // kFourValues.
  template <int kBits, class Map, class... F>
  HWY_INLINE void PackedRow(const uint8_t* p, Map map, F... scale) {
    const auto value = Formula(scale...);
#if HWY_TARGET <= HWY_AVX3
    if constexpr (sizeof(T) == 2) {
      // Each element's byte to its 16-bit lane, and its bits to the bottom.
      const hn::FixedTag<uint8_t, 64> d;
      const hn::Repartition<uint64_t, decltype(d)> du64;
      const hn::Repartition<uint16_t, decltype(d)> du16;
      const auto all =
          hn::BitCast(d, hn::Set(du64, kBits == 1 ? Load32(p) : Load64(p)));
      const auto lanes = hn::BitCast(
          du16,
          hn::TableLookupBytes(all, hn::Load(d, kPackedLanes<kBits>.byte)));
      StoreLookedUp(hn::Shr(lanes, hn::Load(du16, kPackedLanes<kBits>.shift)),
                    TableOfFour(map, value), value);
      return;
    }
#endif
    const hn::CappedTag<uint32_t, 16> du;
    const auto four = FourValues(map, value);
    constexpr size_t kLanes = hn::MaxLanes(du);
    EachOf(kTimes<kBits>, [&](size_t word) DEQUANT_LAMBDA {
      const auto all = hn::Set(du, Load32(p + 4 * word));
      EachOf(kTimes<32 / kBits / kLanes>, [&](size_t i) DEQUANT_LAMBDA {
        const uint32_t* shift = kShifts<kBits>.of + i * kLanes;
        PutOfFour(four, hn::Shr(all, hn::LoadU(du, shift)));
      });
    });
  }
#endif

#if HWY_TARGET > HWY_AVX3
  // Two groups of codes below 16 where more than these two have that scale.
  template <class Map, class... F>
  HWY_INLINE void PairOfMany(Codes q0, Codes q1, Map map, F... scale) {
    PutPair<kTables>(q0, q1, map, Formula(scale...));
  }
#endif

#if HWY_TARGET <= HWY_AVX3
  // A row of 32 codes in one vector, of which each half has a scale.
  HWY_INLINE void Halves(hn::Vec<hn::RebindToSigned<decltype(drow)>> q,
                         float scale0, float scale1) {
    PutWideRow(q, Formula(scale0), Formula(scale1));
  }
#elif HWY_TARGET == HWY_AVX2
  // A group as two vectors of integers.
  template <class V>
  HWY_INLINE void Widened(V lo, V hi, float scale) {
    const hn::FixedTag<float, 8> df;
    const Scaled value{scale};
    StoreAs2<T>(df, value(df, hn::ConvertTo(df, lo)),
                value(df, hn::ConvertTo(df, hi)), to_);
    to_ += 16 * sizeof(T);
  }
#endif

 private:
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET <= HWY_AVX3
  using Floats = hn::Vec<hn::CappedTag<float, 16>>;
  using Indices = hn::Vec<hn::CappedTag<uint32_t, 16>>;

  // The first codes of a vector.
  template <class V>
  HWY_INLINE static Floats FloatsOf(V q) {
    const hn::CappedTag<float, 16> df;
#if HWY_TARGET == HWY_AVX2
    return Widen<0, 1>(df, q);
#else
    const hn::RebindToSigned<decltype(df)> di;
    return hn::ConvertTo(df, hn::PromoteTo(di, hn::BitCast(di8, q)));
#endif
  }
  // The values of 0 to 3, in every four lanes.
  template <class Map, class Value>
  HWY_INLINE static Floats FourValues(Map map, Value value) {
    return value(hn::CappedTag<float, 16>(), FloatsOf(map(LoadCodes(kFour))));
  }

  template <int kFrom>
  HWY_INLINE void PutTwoBits(Codes bytes, Floats four) {
    const hn::CappedTag<uint32_t, 16> du;
#if HWY_TARGET == HWY_AVX2
    PutOfFour(four,
              hn::ShiftRight<kFrom>(hn::BitCast(du, WidenTo<0, 1, 0>(bytes))));
    PutOfFour(four,
              hn::ShiftRight<kFrom>(hn::BitCast(du, WidenTo<8, 1, 0>(bytes))));
#else
    PutOfFour(four, hn::ShiftRight<kFrom>(hn::PromoteTo(du, bytes)));
#endif
  }
  HWY_INLINE void PutOfFour(Floats four, Indices index) {
#if HWY_TARGET == HWY_AVX2
    const Floats v{_mm256_permutevar_ps(four.raw, index.raw)};
#else
    const Floats v{_mm512_permutevar_ps(four.raw, index.raw)};
#endif
    const hn::CappedTag<float, 16> df;
    hn::StoreU(v, df, reinterpret_cast<float*>(to_));
    to_ += sizeof(v.raw);
  }
#endif
#if HWY_TARGET > HWY_AVX3
  // Looked up are the bytes of 16-bit values. For two groups only, AVX2 gains
  // with BF16.
  static constexpr bool kTables =
      sizeof(T) == 2 && !HWY_HAVE_SCALABLE && HWY_TARGET != HWY_SSE2;
  static constexpr bool kFewTables =
      HWY_TARGET == HWY_AVX2 ? hwy::IsSame<T, hwy::bfloat16_t>() : kTables;

  template <bool kTable, class Map, class Value>
  HWY_INLINE void PutPair(Codes q0, Codes q1, Map map, Value value) {
    if constexpr (kTable && !kByHalf<Value>) {
      PutFromTable(q0, q1, map(LoadCodes(kAllCodes)), value);
    } else {
      Put(map(q0), value);
      Put(map(q1), value);
    }
  }
#endif

  HWY_INLINE static Scaled Formula(float scale) { return {scale}; }
  HWY_INLINE static HalfScaled Formula(HalfScaled scale) { return scale; }
  HWY_INLINE static ScaledOffset Formula(float scale, float offset) {
    return {scale, offset};
  }

  template <class Fn, class Value0, class Value1>
  HWY_INLINE void PutRow(const Fn& codes, Value0 value0, Value1 value1) {
#if HWY_TARGET <= HWY_AVX3
    PutWideRow(Signed(codes(drow, size_t{0})), value0, value1);
#else
    // Before the first store, after which all would be loaded again.
    const auto q0 = codes(dcodes, size_t{0});
    const auto q1 = codes(dcodes, size_t{16});
    Put(q0, value0);
    Put(q1, value1);
#endif
  }

#if HWY_HAVE_FLOAT16
  template <class Value>
  static constexpr bool kByHalf =
      hwy::IsSame<T, hwy::float16_t>() && hwy::IsSame<Value, HalfScaled>();

  template <class DH>
  HWY_INLINE static hn::Vec<DH> TimesHalf(DH dh, hn::Vec<DH> v,
                                          HalfScaled scale) {
    const auto half = hwy::float16_t::FromBits(Load16(scale.half));
    return hn::Mul(v, hn::Set(dh, half));
  }
  // Codes in lanes of 16 bits.
  template <class D16, class V>
  HWY_INLINE static void StoreByHalf(D16, V q, HalfScaled scale, uint8_t* to) {
    const hn::Rebind<hwy::float16_t, D16> dh;
    hn::StoreU(TimesHalf(dh, hn::ConvertTo(dh, q), scale), dh,
               reinterpret_cast<hwy::float16_t*>(to));
  }
#else
  template <class Value>
  static constexpr bool kByHalf = false;
#endif

#if HWY_TARGET <= HWY_AVX3
  template <class V, class Value0, class Value1>
  HWY_INLINE void PutWideRow(V q, Value0 value0, Value1 value1) {
    if constexpr (kByHalf<Value0>) {
      const hn::FixedTag<int16_t, 32> di16;
      StoreByHalf(di16, hn::PromoteTo(di16, q), value0, to_);
    } else {
      const hn::FixedTag<float, 16> df;
      const hn::FixedTag<int32_t, 16> di32;
      const hn::Half<hn::DFromV<V>> dhalf;
      const auto lo = hn::PromoteTo(di32, hn::LowerHalf(dhalf, q));
      const auto hi = hn::PromoteTo(di32, hn::UpperHalf(dhalf, q));
      StoreAs2<T>(df, value0(df, hn::ConvertTo(df, lo)),
                  value1(df, hn::ConvertTo(df, hi)), to_);
    }
    to_ += 32 * sizeof(T);
  }
#elif HWY_HAVE_FLOAT16
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
#if HWY_TARGET == HWY_AVX2
    if constexpr (!hwy::IsSame<V, I8x16>()) {
      PutTwice(df, q, value);
    } else {
      PutWide(df, q, value);
    }
#else
#if HWY_HAVE_FLOAT16 && HWY_TARGET > HWY_AVX3
    if constexpr (kByHalf<Fn>) {
      PutByHalf(hn::BitCast(di8, q), value);
      to_ += 16 * sizeof(T);
      return;
    }
#endif
    PutWide(df, hn::BitCast(di8, q), value);
#endif
    to_ += 16 * sizeof(T);
  }

#if HWY_TARGET == HWY_AVX2
  template <int kFirst, int kStep, class DF, class V>
  HWY_INLINE static hn::Vec<DF> Widen(DF df, V q) {
    const hn::Rebind<int32_t, DF> di;
    return hn::ConvertTo(df, hn::BitCast(di, WidenTo<kFirst, kStep, 3>(q)));
  }
  template <class DF, class V, class Fn>
  HWY_INLINE void PutTwice(DF df, V q, Fn value) {
    if constexpr (hwy::IsSame<T, hwy::bfloat16_t>()) {
      hn::StoreU(hn::BitCast(dcodes, Narrowed(q, value)), dcodes, to_);
    } else {
      StoreAs2<T>(df, value(df, Widen<0, 1>(df, q)),
                  value(df, Widen<8, 1>(df, q)), to_);
    }
  }

  // 16 values as T, in order.
  template <class V, class Fn>
  HWY_INLINE static hn::Vec<hn::FixedTag<uint16_t, 16>> Narrowed(V q,
                                                                 Fn value) {
    const hn::FixedTag<float, 8> df;
    if constexpr (hwy::IsSame<T, hwy::bfloat16_t>()) {
      return Bf16InTurn(df, value(df, Widen<0, 2>(df, q)),
                        value(df, Widen<1, 2>(df, q)));
    } else {
      return Narrow2<T>(df, value(df, Widen<0, 1>(df, q)),
                        value(df, Widen<8, 1>(df, q)));
    }
  }

  // `all`: what codes 0 to 15 stand for.
  template <class V, class Fn>
  HWY_INLINE void PutFromTable(Codes q0, Codes q1, V all, Fn value) {
    // The byte shuffle looks up the low and the high bytes.
    alignas(16) static constexpr uint8_t kSplit[16] = {
        0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15};
    const hn::Repartition<uint64_t, decltype(dcodes)> du64;
    const auto table = hn::BitCast(dcodes, Narrowed(all, value));
    const auto split =
        hn::BitCast(du64, hn::TableLookupBytes(table, LoadCodes(kSplit)));
    const auto first = hn::ConcatLowerLower(du64, split, split);
    const auto second = hn::ConcatUpperUpper(du64, split, split);
    const Codes low =
        hn::BitCast(dcodes, hn::InterleaveLower(du64, first, second));
    const Codes high =
        hn::BitCast(dcodes, hn::InterleaveUpper(du64, first, second));
    // Elements 0-7 of both groups, then 8-15 of both.
    const Codes q{_mm256_castpd_si256(_mm256_shuffle_pd(
        _mm256_castsi256_pd(q0.raw), _mm256_castsi256_pd(q1.raw), 0b1100))};
    const Codes lo = hn::TableLookupBytes(low, q);
    const Codes hi = hn::TableLookupBytes(high, q);
    hn::StoreU(hn::InterleaveLower(dcodes, lo, hi), dcodes, to_);
    hn::StoreU(hn::InterleaveUpper(dcodes, lo, hi), dcodes, to_ + 32);
    to_ += 64;
  }
#elif HWY_TARGET <= HWY_AVX3
  using U16x32 = hn::Vec<hn::FixedTag<uint16_t, 32>>;

  // 16 codes as T, in half a vector; by a half, if so, when they are stored.
  template <class Value>
  HWY_INLINE static hn::Vec<hn::FixedTag<uint16_t, 16>> Narrowed(Floats q,
                                                                 Value value) {
    const hn::FixedTag<float, 16> df;
    if constexpr (kByHalf<Value>) {
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
      return value(hn::FixedTag<float, 16>(), q);
    } else {
      return hn::ResizeBitCast(hn::FixedTag<uint16_t, 32>(),
                               Narrowed(q, value));
    }
  }
  // What it makes of 0 to 3, eight times.
  template <class Map, class Value>
  HWY_INLINE static U16x32 TableOfFour(Map map, Value value) {
    const auto four = Narrowed(FloatsOf(map(LoadCodes(kFour))), value);
    return hn::Combine(hn::FixedTag<uint16_t, 32>(), four, four);
  }
  // The look-up sees four bits of an index and needs no mask.
  template <int kFrom>
  HWY_INLINE void PutLookedUp(Codes bytes, Floats table) {
    const hn::FixedTag<uint32_t, 16> du;
    const auto index = hn::ShiftRight<kFrom>(hn::PromoteTo(du, bytes));
    const Floats v{_mm512_permutexvar_ps(index.raw, table.raw)};
    hn::StoreU(v, hn::FixedTag<float, 16>(), reinterpret_cast<float*>(to_));
    to_ += 64;
  }
  // It sees five bits.
  template <int kFrom, class V, class Value>
  HWY_INLINE void PutRowLookedUp(V bytes, U16x32 table, Value value) {
    const hn::FixedTag<uint16_t, 32> du16;
    StoreLookedUp(hn::ShiftRight<kFrom>(hn::PromoteTo(du16, bytes)), table,
                  value);
  }
  template <class Value>
  HWY_INLINE void StoreLookedUp(U16x32 index, U16x32 table, Value value) {
    const hn::FixedTag<uint16_t, 32> du16;
    U16x32 v{_mm512_permutexvar_epi16(index.raw, table.raw)};
    if constexpr (kByHalf<Value>) {
      const hn::FixedTag<hwy::float16_t, 32> dh;
      v = hn::BitCast(du16, TimesHalf(dh, hn::BitCast(dh, v), value));
    }
    hn::StoreU(v, du16, reinterpret_cast<uint16_t*>(to_));
    to_ += 64;
  }
#elif !HWY_HAVE_SCALABLE
  template <class V, class Fn>
  HWY_INLINE void PutFromTable(Codes q0, Codes q1, V all, Fn value) {
    const hn::FixedTag<int16_t, 8> di16;
    const hn::FixedTag<float, 4> df;
    const hn::RebindToSigned<decltype(df)> di;
    const auto half = [&](auto q) DEQUANT_LAMBDA {
      const auto lo = hn::ConvertTo(df, hn::PromoteLowerTo(di, q));
      const auto hi = hn::ConvertTo(df, hn::PromoteUpperTo(di, q));
      return hn::BitCast(dcodes, Narrow2<T>(df, value(df, lo), value(df, hi)));
    };
    const I8x16 codes = hn::BitCast(di8, all);
    const auto first = half(hn::PromoteLowerTo(di16, codes));
    const auto second = half(hn::PromoteUpperTo(di16, codes));
    // One table for the low bytes of the 16 values, one for the high bytes.
    const Codes low = hn::ConcatEven(dcodes, second, first);
    const Codes high = hn::ConcatOdd(dcodes, second, first);
    const auto put = [&](Codes q) DEQUANT_LAMBDA {
      const Codes lo = hn::TableLookupBytes(low, q);
      const Codes hi = hn::TableLookupBytes(high, q);
      hn::StoreU(hn::InterleaveLower(dcodes, lo, hi), dcodes, to_);
      hn::StoreU(hn::InterleaveUpper(dcodes, lo, hi), dcodes, to_ + 16);
      to_ += 32;
    };
    put(q0);
    put(q1);
  }
#endif

  alignas(16) static constexpr uint8_t kAllCodes[16] = {
      0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  alignas(16) static constexpr uint8_t kFour[16] = {0, 1, 2, 3, 0, 1, 2, 3,
                                                    0, 1, 2, 3, 0, 1, 2, 3};

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
    const hn::Rebind<int32_t, DF> di32;
#if HWY_HAVE_SCALABLE
    const hn::Rebind<int8_t, DF> dq;
    int8_t bytes[16];
    hn::StoreU(q, di8, bytes);
    for (size_t i = 0; i < 16; i += hn::Lanes(df)) {
      const auto wide = hn::PromoteTo(di32, hn::LoadU(dq, bytes + i));
      StoreAs<T>(df, value(df, hn::ConvertTo(df, wide)), to_ + i * sizeof(T));
    }
#else
    constexpr size_t kLanes = hn::MaxLanes(df);
    if constexpr (kLanes == 16) {
      StoreAs<T>(df, value(df, hn::ConvertTo(df, hn::PromoteTo(di32, q))), to_);
    } else if constexpr (kLanes == 8) {
      const auto lo = hn::PromoteTo(di32, hn::LowerHalf(q));
      const auto hi =
          hn::PromoteTo(di32, hn::UpperHalf(hn::Half<decltype(di8)>(), q));
      StoreAs2<T>(df, value(df, hn::ConvertTo(df, lo)),
                  value(df, hn::ConvertTo(df, hi)), to_);
    } else {
#if HWY_TARGET_IS_NEON
      StoreAs2<T>(df, value(df, FromTop<0>(df, q)),
                  value(df, FromTop<4>(df, q)), to_);
      StoreAs2<T>(df, value(df, FromTop<8>(df, q)),
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
    StoreAs2<T>(df, value(df, hn::ConvertTo(df, hn::PromoteLowerTo(di32, q))),
                value(df, hn::ConvertTo(df, hn::PromoteUpperTo(di32, q))), to);
  }

  uint8_t* to_;
};

}  // namespace HWY_NAMESPACE
}  // namespace dequant
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
