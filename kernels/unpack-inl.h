// blocks -> values, once per target: what a kernel file is made of.
//
// Unpack<B> turns one block into calls of a sink, one call a group of codes;
// Run does that with a run of blocks, whatever their scales are.

#if defined(DEQUANT_KERNELS_UNPACK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef DEQUANT_KERNELS_UNPACK_INL_H_
#undef DEQUANT_KERNELS_UNPACK_INL_H_
#else
#define DEQUANT_KERNELS_UNPACK_INL_H_
#endif

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <type_traits>
#include <utility>

#include "hwy/highway.h"
#include "kernels/format.h"
#include "kernels/narrow-inl.h"
#include "kernels/scalar.h"
#include "kernels/sink-inl.h"
#include "kernels/sink_avx2-inl.h"
#include "kernels/sink_avx3-inl.h"

HWY_BEFORE_NAMESPACE();
namespace dequant {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// The byte groups of a super-block's scales are values like any other: 16 codes
// times d, kept in a small array that broadcasts load from. They come times
// kUnit if d does.
template <class V>
HWY_INLINE void Scales16(V codes, float d, float* HWY_RESTRICT scales) {
  Sink<float> sink(reinterpret_cast<uint8_t*>(scales));
  sink(codes, hwy::IsSame<V, I8x16>() ? d : d * kUnit);
}

// Of the first eight; others stand behind them, or anything.
HWY_INLINE void Scales8(I8x16 codes, float d, float* HWY_RESTRICT scales) {
#if HWY_TARGET == HWY_AVX2
  const hn::FixedTag<float, 8> df;
  const hn::RebindToSigned<decltype(df)> di;
  const auto q = hn::ConvertTo(df, hn::PromoteTo(di, hn::LowerHalf(codes)));
  hn::StoreU(hn::Mul(q, hn::Set(df, d)), df, scales);
#else
  Scales16(codes, d, scales);
#endif
}

// One format: a kernel file specializes it with
//   template <class Sink>
//   static void Do(const B& block, float scale..., Sink& sink);
// where the scales are the fields that B::kScales lists, the first of them
// times kUnit if it is an F16; or, for a block that is one row of 32 elements,
// with what Sink::Row takes, codes or a ByteRow,
//   static auto Codes(const B& block);
//   static auto Value(const B& block, float scale...);
// or, if these are nibbles in 16 bytes, with
//   static auto Nibbles(const B& block, float scale...);  // as NibblesOf
// or, where a block has more to make ready, with
//   struct Header;
//   static void Read(const B& block, float scale..., Header& header);
//   template <class Sink>
//   static void Do(const B& block, const Header& header, Sink& sink);
// where Read may be a template of the sink as well, if headers differ by it,
// and gets `const float* scale` of two or more; or, with vectors that are made
// of a block before the codes of the one before it are unpacked, and begun
// before those of the one before that, with
//   template <class Sink> struct Begun;
//   template <class Sink> struct Made;
//   template <class Sink>
//   static Begun<Sink> Begin(const B& block);
//   template <class Sink>
//   static Made<Sink> Make(const B& block, const Begun<Sink>& begun,
//                          float scale...);
//   template <class Sink>
//   static void Do(const B& block, const Made<Sink>& made, Sink& sink);
// and, if a super-block is eight rows of codes that Row or Halves take, which
// the sink may pipeline, with
//   template <class Sink>
//   static constexpr bool kPipelined = ...
//   static auto Rows(const B& block);  // codes(row), a constant
//   static auto Value(const Header& header, size_t row, size_t half);
// or, without a header, `const float* scale`; and, if these rows are signed
// bytes with one F32 scale, the values of which the sink may look up, with
//   static constexpr bool kByMagnitude = true;
// and, if two blocks share work where the sink says so, with
//   template <class Sink>
//   static constexpr bool kTwoAtOnce = ...
//   template <class Sink>
//   static void DoTwo(const B& block0, const B& block1, float scale0,
//                     float scale1, Sink& sink);
// and, if the second field is a scale of what is subtracted, which comes with
// the other sign then, with
//   static constexpr bool kSubtracts = true;
// and, if all rows are signed, so that scales come times kSignedUnit too, with
//   static constexpr bool kSignedRows = true;
// and, if headers are better read between codes than before them, with
//   template <class Sink>
//   static constexpr bool kHeadersBetween = ...
// and, if codes of 5 bits may be subnormals of F32 where the sink takes these,
//   static constexpr bool kMayBeSubnormal = true;
//   template <int kTo = 0>  // the bit of their byte from which they are
//   static auto Codes(const B& block);
// and, if rows have such codes that a sink may want them all first,
//   template <class Sink>
//   static constexpr bool kCodesFirst = ...
// with a Header that has StoredCodes, which Read fills then; and, if scales do
// not come times kUnit, as they never do of codes that are all wanted first,
//   template <class Sink>
//   static constexpr bool kPlainScales = ...
// and, if there are blocks that Do cannot take, such as
// those that would give subnormals of F32, with
//   template <class Sink>
//   static bool Takes(const B& block);
// or, for plain types, with
//   template <typename T, bool kStream>
//   static void All(const uint8_t* src, size_t n, uint8_t* dst);
template <class B>
struct Unpack;

// An F16; NaN and Inf pass through.
HWY_INLINE float Half(uint16_t bits) {
#if DEQUANT_NO_F16C
  return F16ToF32(bits);  // no F16C: bits are cheaper than emulated vectors
#else
  const hn::FixedTag<float, 4> df;
  const hn::Rebind<hwy::float16_t, decltype(df)> dh;
  const hn::Rebind<uint16_t, decltype(df)> du16;
  return hn::GetLane(hn::PromoteTo(df, hn::BitCast(dh, hn::Set(du16, bits))));
#endif
}

template <class B>
using Fields = std::make_index_sequence<std::size(B::kScales)>;

// Blocks are unpacked up to eight at a time: first what is small and slow, then
// the codes. One by one, a block's codes would wait for its scales.
constexpr size_t kBatch = 8;
// Of super-blocks fewer, if they come from memory: with all of their heads
// first, they arrive late (16 bits of Q6_K 1.2 times as fast by that). And
// nothing of a head is slow that is an F32.
template <class B>
constexpr size_t kSuperBatch =
    B::kScales[0].kind == ScaleField::kF32 ? 2 : kBatch;
template <class K>
constexpr size_t kBatchOf = kBatch;
template <class K>
requires(K::Block::kElements == 256) constexpr size_t kBatchOf<K> =
    K::kStream ? HWY_MIN(kSuperBatch<typename K::Block>, size_t{4})
               : kSuperBatch<typename K::Block>;

// The scales of a block, and of each block of a batch.
template <class B>
using BlockScales = float[HWY_MAX(std::size(B::kScales), size_t{1})];
template <class B>
using Scales = BlockScales<B>[kBatch];

template <class B>
constexpr bool kSubtracts = requires {
  Unpack<B>::kSubtracts;
};

// Whether a block is a row.
template <class B>
constexpr bool kIsRow = requires(const B& b) {
  Unpack<B>::Codes(b);
};

template <class B>
constexpr bool kIsNibbles = requires {
  &Unpack<B>::Nibbles;
};

template <class B>
constexpr bool kIsByteRow = false;
template <class B>
requires(kIsRow<B>) constexpr bool kIsByteRow<B> = hwy::IsSame<
    decltype(Unpack<B>::Codes(std::declval<const B&>())), ByteRow>();

// Whether codes are unpacked to memory first.
template <class B, class Sink>
constexpr bool kCodesFirst = Sink::kCodesFirst&& kIsRow<B> && !kIsByteRow<B>;
template <class B, class Sink>
requires requires { Unpack<B>::template kCodesFirst<Sink>; }
constexpr bool kCodesFirst<B, Sink> = Unpack<B>::template kCodesFirst<Sink>;

// Whether two blocks are unpacked at once.
template <class B, class Sink>
constexpr bool kTwoAtOnce = false;
template <class B, class Sink>
requires requires { Unpack<B>::template kTwoAtOnce<Sink>; }
constexpr bool kTwoAtOnce<B, Sink> = Unpack<B>::template kTwoAtOnce<Sink>;

// Whether scales do not come times a unit.
template <class B, class Sink>
constexpr bool kPlainScales = kCodesFirst<B, Sink>;
template <class B, class Sink>
requires requires { Unpack<B>::template kPlainScales<Sink>; }
constexpr bool kPlainScales<B, Sink> = Unpack<B>::template kPlainScales<Sink>;

// Whether codes are subnormals, and the bit of their byte from which they start
// then: see kSubnormalFrom.
template <class B, class Sink>
constexpr bool kBySubnormals = false;
#if DEQUANT_HAS_VBMI
template <class B, class Sink>
requires requires { Unpack<B>::kMayBeSubnormal; }
constexpr bool kBySubnormals<B, Sink> = Sink::kTakesSubnormals;
template <class Sink>
constexpr int kCodesFrom = Sink::kTakesSubnormals ? kSubnormalFrom % 8 : 0;
#else
template <class Sink>
constexpr int kCodesFrom = 0;
#endif

// Whether the sink takes bytes as floats with an offset, for which scales must
// be above 0.
template <class B, class Sink>
constexpr bool kByOffset = false;
#if DEQUANT_HAS_VBMI
template <class B, class Sink>
requires(kIsByteRow<B>) constexpr bool kByOffset<B, Sink> =
    Sink::kTakesOffsetBytes;
#endif

// Whether it looks up the values of bytes, of which a block has fewer than
// codes.
template <class B, class Sink>
constexpr bool kByMagnitude = false;
#if HWY_TARGET <= HWY_AVX3
template <class B, class Sink>
requires requires { Unpack<B>::kByMagnitude; }
constexpr bool kByMagnitude<B, Sink> = Sink::kLooksUpMagnitudes;
#endif

// Whether that is for usual scales only, so that others are left to a kernel
// for any scale.
template <class B, class Sink>
constexpr bool kForUsualScales = kBySubnormals<B, Sink> || kByOffset<B, Sink>;
template <class B, class Sink>
requires(kByMagnitude<B, Sink>) constexpr bool kForUsualScales<B, Sink> =
    Sink::kHalvesMagnitudes;

// What the first scale comes times, if it is an F16; of subnormals, in two
// steps.
template <class B, class Sink>
constexpr float kScaleUnit = kBySubnormals<B, Sink> ? 0x1p100f : kUnit;
template <class B, class Sink>
requires(kPlainScales<B, Sink>) constexpr float kScaleUnit<B, Sink> = 1.0f;
template <class B, class Sink>
requires(!kPlainScales<B, Sink> && requires {
  Unpack<B>::kSignedRows;
}) constexpr float kScaleUnit<B, Sink> = kUnit * kSignedUnit;
template <class B, class Sink>
constexpr float kSecondUnit = kBySubnormals<B, Sink> ? 0x1p31f : 1.0f;

// The first exponent of an F16 scale that is too large: that of NaN and Inf, or
// that of 2^-3.
template <class B, class Sink, size_t kIndex>
constexpr uint32_t kTooLarge = kIndex == 0 && kBySubnormals<B, Sink> ? 12 : 31;

// Whether all that was read was finite, or not too large. That is asked once,
// at the end: a branch for each batch took up to 5 % of the time.
class Finite {
 public:
  HWY_INLINE void Expect(bool finite) { carry_ |= uint64_t{!finite} << 63; }
  /// F16, up to four, with what each exponent lacks to 32 in kSpare.
  template <uint64_t kSpare>
  HWY_INLINE void ExpectF16(uint64_t halves) {
    carry_ |= (halves & 0x7C007C007C007C00) + kSpare;
  }
  /// The same, above 0.
  HWY_INLINE void ExpectAbove0(uint64_t halves) {
    carry_ |= halves | (halves - 0x0001000100010001);
  }
  HWY_INLINE bool All() const { return (carry_ & 0x8000800080008000) == 0; }

 private:
  uint64_t carry_ = 0;
};

// One field of one block.
template <class B, class Sink, size_t kIndex>
HWY_INLINE void ReadScale(const uint8_t* block, float* scale, Finite& finite) {
  constexpr ScaleField kField = B::kScales[kIndex];
  const uint8_t* p = block + kField.offset;
  if constexpr (kField.kind == ScaleField::kF32) {
    const uint32_t bits = Load32(p);
    *scale = hwy::BitCastScalar<float>(bits);
    finite.Expect(IsFiniteF32(bits));
  } else {
    const uint16_t bits =
        kField.kind == ScaleField::kF16 ? Load16(p) : HalfInTopNibbles(p);
    constexpr float kFactor = kIndex == 0     ? kScaleUnit<B, Sink>
                              : kSubtracts<B> ? -1.0f
                                              : 1.0f;
    *scale = Half(bits) * kFactor;
    if constexpr (kIndex == 0) *scale *= kSecondUnit<B, Sink>;
    finite.ExpectF16<((32 - kTooLarge<B, Sink, kIndex>) << 10)>(bits);
  }
}

// What the scales of kBatch blocks come times.
template <class B, class Sink>
struct ScaleUnits {
  static constexpr size_t kFields = std::size(B::kScales);
  alignas(64) float of[kBatch * kFields];
  alignas(64) float second[kBatch * kFields];
  constexpr ScaleUnits() : of{}, second{} {
    for (size_t i = 0; i < kBatch * kFields; ++i) {
      of[i] = i % kFields == 0 ? kScaleUnit<B, Sink> : 1;
      second[i] = i % kFields == 0 ? kSecondUnit<B, Sink> : 1;
    }
  }
};
template <class B, class Sink>
inline constexpr ScaleUnits<B, Sink> kScaleUnits;
template <class B, class Sink>
constexpr uint64_t kSpareExponents = [] {
  constexpr size_t kFields = std::size(B::kScales);
  constexpr uint64_t kFirst = (32 - kTooLarge<B, Sink, 0>) << 10;
  constexpr uint64_t kLast = (32 - kTooLarge<B, Sink, kFields - 1>) << 10;
  return (kFirst | kLast << 16) * 0x100000001;
}();

// How many scales become floats at once. AVX-512 could take all of a batch, but
// the headers of super-blocks, which are read next, wait less for four.
template <class B>
constexpr size_t kScaleLanes = HWY_TARGET <= HWY_AVX3&& B::kElements < 256
                                   ? kBatch* std::size(B::kScales)
                                   : 4;

// Four F16 fields of a batch, one of each block or two that are next to each
// other: word w of kF16Words.
template <class B>
constexpr size_t kF16Words = kBatch* std::size(B::kScales) / 4;
template <class B, class Sink>
HWY_INLINE uint64_t ReadF16Word(const uint8_t* blocks, size_t w,
                                Finite& finite) {
  constexpr size_t kFields = std::size(B::kScales), kPerWord = 4 / kFields;
  uint64_t word = 0;
  EachOf(kTimes<kPerWord>, [&](size_t i) DEQUANT_LAMBDA {
    const uint8_t* block = blocks + (w * kPerWord + i) * sizeof(B);
    const uint8_t* p = block + B::kScales[0].offset;
    const uint64_t bits = kFields == 2 ? Load32(p) : Load16(p);
    word |= bits << (16 * kFields * i);
  });
  finite.ExpectF16<kSpareExponents<B, Sink>>(word);
  if constexpr (kByOffset<B, Sink>) finite.ExpectAbove0(word);
  return kSubtracts<B> ? word ^ 0x8000000080000000 : word;
}

// The scales of kBatch blocks with such fields.
template <class B, class Sink>
HWY_INLINE void ReadF16Batch(const uint8_t* blocks, BlockScales<B>* scale,
                             Finite& finite) {
  uint64_t words[kF16Words<B>];
  EachOf(kTimes<kF16Words<B>>, [&](size_t w) DEQUANT_LAMBDA {
    words[w] = ReadF16Word<B, Sink>(blocks, w, finite);
  });

  const hn::FixedTag<float, kScaleLanes<B>> df;
  const auto put = [&](size_t at, auto halves) DEQUANT_LAMBDA {
    const auto& units = kScaleUnits<B, Sink>;
    auto v = hn::Mul(halves, hn::Load(df, units.of + at));
    if constexpr (kBySubnormals<B, Sink>) {
      v = hn::Mul(v, hn::Load(df, units.second + at));
    }
    hn::StoreU(v, df, scale[0] + at);
  };
#if DEQUANT_NO_F16C
  ForEach(kTimes<kF16Words<B>>, [&](auto w) DEQUANT_LAMBDA {
    put(4 * w, LoadF16(df, reinterpret_cast<const uint8_t*>(words + w)));
  });
#else
  // Not through memory: a load from two stores would wait for all stores
  // before.
  const hn::FixedTag<uint64_t, 2> du64;
  const auto pair = [&](size_t w) DEQUANT_LAMBDA {
    return hn::Dup128VecFromValues(du64, words[w], words[w + 1]);
  };
  const hn::FixedTag<hwy::float16_t, HWY_MAX(8, kScaleLanes<B>)> dh;
  if constexpr (kScaleLanes<B> == 16) {
    const hn::Repartition<uint64_t, decltype(dh)> d;
    const auto all = hn::Combine(d, pair(2), pair(0));
    put(0, hn::PromoteTo(df, hn::BitCast(dh, all)));
  } else if constexpr (kScaleLanes<B> == 8) {
    put(0, hn::PromoteTo(df, hn::BitCast(dh, pair(0))));
  } else {
    ForEach(kTimes<std::size(B::kScales)>, [&](auto i) DEQUANT_LAMBDA {
      const auto all = hn::BitCast(dh, pair(2 * i));
      put(8 * i, hn::PromoteLowerTo(df, all));
      put(8 * i + 4, hn::PromoteUpperTo(df, all));
    });
  }
#endif
}

// Whether all fields are such.
template <class B, size_t... kIndex>
constexpr bool HasF16Fields(std::index_sequence<kIndex...>) {
  return sizeof...(kIndex) > 0 &&
         ((B::kScales[kIndex].kind == ScaleField::kF16 &&
           B::kScales[kIndex].offset == B::kScales[0].offset + 2 * kIndex) &&
          ...);
}
template <class B>
constexpr bool kHasF16Fields = HasF16Fields<B>(Fields<B>());

// The scales of n blocks.
template <class B, class Sink, size_t... kIndex>
HWY_INLINE void ReadScales(const uint8_t* blocks, size_t n,
                           BlockScales<B>* scale, Finite& finite,
                           std::index_sequence<kIndex...>) {
  if constexpr (kHasF16Fields<B>) {
    if (n == kBatch) return ReadF16Batch<B, Sink>(blocks, scale, finite);
  }
  for (size_t i = 0; i < n; ++i) {
    [[maybe_unused]] const uint8_t* block = blocks + i * sizeof(B);
    (ReadScale<B, Sink, kIndex>(block, &scale[i][kIndex], finite), ...);
  }
}

// What the sink takes T for: what Do gets gives no subnormals of F32.
template <typename T>
using Stored =
    std::conditional_t<kHasNormalBf16 && std::is_same_v<T, hwy::bfloat16_t>,
                       NormalBf16, T>;
template <class K>
#if HWY_TARGET <= HWY_AVX3
using SinkOf = Sink<Stored<typename K::Value>, K::kStream, K::kAnyScale>;
#else
using SinkOf = Sink<Stored<typename K::Value>, K::kStream>;
#endif
template <class K>
constexpr size_t kOutBytes = K::Block::kElements * sizeof(typename K::Value);

// A header of which no vector crosses a line: one that crosses a page is not
// stored before all that was stored earlier, and for streams that is long.
constexpr size_t kLine = 64;
template <class Header>
struct alignas(sizeof(Header) < kLine ? alignof(Header) : kLine) InLines
    : Header {};

// What is made ready for a batch of blocks, before their codes are unpacked.
template <class B>
struct Ready {
  alignas(kLine) Scales<B> scale;
};
#if DEQUANT_HAS_VBMI
template <class B>
requires(kIsByteRow<B>) struct Ready<B> {
  alignas(kLine) Scales<B> scale;
  alignas(kLine) float offset[kBatch];  // if kByOffset
};
#endif
template <class B>
requires(kIsRow<B> && !kIsByteRow<B>) struct Ready<B> {
  alignas(kLine) Scales<B> scale;
  [[no_unique_address]] StoredCodes<kBatch> codes;
};
template <class B>
requires requires { typename Unpack<B>::Header; }
struct Ready<B> {
  InLines<typename Unpack<B>::Header> header[kBatch];
};

template <class B>
HWY_INLINE const B& BlockAt(const uint8_t* blocks, size_t i) {
  return *reinterpret_cast<const B*>(blocks + i * sizeof(B));
}

// The header of a block, from its scales.
template <class Sink, class B, class Header, size_t... kIndex>
HWY_INLINE void ReadHeader(const B& block, const float* scale, Header& header,
                           std::index_sequence<kIndex...>) {
  const auto read = [&](const auto&... scales) DEQUANT_LAMBDA {
    if constexpr (requires { &Unpack<B>::template Read<Sink>; }) {
      Unpack<B>::template Read<Sink>(block, scales..., header);
    } else {
      Unpack<B>::Read(block, scales..., header);
    }
  };
  if constexpr (sizeof...(kIndex) > 1) {
    read(scale);
  } else {
    read(scale[kIndex]...);
  }
}

// n, a number or an integral_constant, blocks. A block that Unpack does not
// take counts as one whose scale is not finite.
template <class B, class Sink, class N, class F>
HWY_INLINE void MakeReady(const uint8_t* blocks, N n, Ready<B>& ready,
                          Finite& finite, F fields) {
  if constexpr (requires { &Unpack<B>::template Takes<Sink>; }) {
    EachOf(n, [&](size_t i) DEQUANT_LAMBDA {
      finite.Expect(Unpack<B>::template Takes<Sink>(BlockAt<B>(blocks, i)));
    });
  }
  if constexpr (requires { ready.header; }) {
    Scales<B> scale;
    ReadScales<B, Sink>(blocks, n, scale, finite, fields);
    EachOf(n, [&](size_t i) DEQUANT_LAMBDA {
      ReadHeader<Sink>(BlockAt<B>(blocks, i), scale[i], ready.header[i],
                       fields);
    });
  } else {
    ReadScales<B, Sink>(blocks, n, ready.scale, finite, fields);
    if constexpr (kCodesFirst<B, Sink>) {
      EachOf(n, [&](size_t i) DEQUANT_LAMBDA {
        const auto codes = Unpack<B>::Codes(BlockAt<B>(blocks, i));
        Sink::StoreCodes(codes, ready.codes.Row(i));
      });
    }
  }
}

template <class Sink, class B>
HWY_INLINE auto CodesOf(const B& block) {
  if constexpr (kBySubnormals<B, Sink>) {
    return Unpack<B>::template Codes<kCodesFrom<Sink>>(block);
  } else {
    return Unpack<B>::Codes(block);
  }
}

// How many the sink takes at once; 0 if blocks are no rows.
template <class B, class Sink>
constexpr size_t kRowsAtOnce = 0;
template <class B, class Sink>
requires(kIsRow<B>) constexpr size_t kRowsAtOnce<B, Sink> =
    kIsByteRow<B> ? 1 : Sink::kRowsAtOnce;

// So many rows.
template <class B, class Sink, size_t... kIndex>
HWY_INLINE void UnpackRows(const uint8_t* blocks, const Scales<B>& scale,
                           size_t first, Sink& sink,
                           std::index_sequence<kIndex...>) {
  const auto codes = [&](size_t i) DEQUANT_LAMBDA {
    return CodesOf<Sink>(BlockAt<B>(blocks, first + i));
  };
  const auto value = [&](size_t i, size_t) DEQUANT_LAMBDA {
    return Unpack<B>::Value(BlockAt<B>(blocks, first + i),
                            scale[first + i][kIndex]...);
  };
  sink.template FourRows<kBySubnormals<B, Sink>>(codes, value);
}

// Whether rows are pipelined, over the ends of batches and super-blocks.
template <class B, class Sink>
constexpr bool kPipelined = kIsByteRow<B>&& Sink::kPipelines;
template <class B, class Sink>
requires requires { Unpack<B>::template kPipelined<Sink>; }
constexpr bool kPipelined<B, Sink> = Unpack<B>::template kPipelined<Sink>;

// The rows of a batch of blocks, and their formulas.
template <class B, class Sink>
HWY_INLINE auto RowsOfBatch(const uint8_t* blocks) {
  return [blocks](size_t i) DEQUANT_LAMBDA {
    const ByteRow row = Unpack<B>::Codes(BlockAt<B>(blocks, i));
    if constexpr (kByOffset<B, Sink>) {
      return OffsetByteRow{row.p};
    } else {
      return row;
    }
  };
}
template <class B, class Sink>
HWY_INLINE auto ValuesOfBatch(const uint8_t* blocks, const Ready<B>& ready) {
  return [blocks, &ready](size_t i, size_t) DEQUANT_LAMBDA {
    if constexpr (kByOffset<B, Sink>) {
      return Formula(ready.scale[i][0], ready.offset[i]);
    } else {
      return Unpack<B>::Value(BlockAt<B>(blocks, i), ready.scale[i][0]);
    }
  };
}

template <class K, class N, class B, size_t... kIndex>
HWY_INLINE void UnpackReady(const uint8_t* blocks, N n, const Ready<B>& ready,
                            uint8_t* to, std::index_sequence<kIndex...>) {
  using To = SinkOf<K>;
  constexpr size_t kTo = kOutBytes<K>;
  constexpr size_t kAtOnce = kRowsAtOnce<B, To>;
  if constexpr (kAtOnce > 1 && !std::is_same_v<N, size_t>) {
    EachOf(kTimes<n() / kAtOnce>, [&](size_t i) DEQUANT_LAMBDA {
      const size_t first = i * kAtOnce;
      To sink(to + first * kTo);
      UnpackRows<B>(blocks, ready.scale, first, sink, Fields<B>());
    });
    return;
  }
  if constexpr (kIsNibbles<B> && !std::is_same_v<N, size_t>) {
    To sink(to);
    const auto row = [&](size_t i) DEQUANT_LAMBDA {
      return Unpack<B>::Nibbles(BlockAt<B>(blocks, i),
                                ready.scale[i][kIndex]...);
    };
    return PutNibbles<n()>(row, sink);
  }
  if constexpr (kTwoAtOnce<B, To> && !std::is_same_v<N, size_t>) {
    static_assert(n() % 2 == 0);
    return EachOf(kTimes<n() / 2>, [&](size_t i) DEQUANT_LAMBDA {
      To sink(to + 2 * i * kTo);
      Unpack<B>::DoTwo(BlockAt<B>(blocks, 2 * i), BlockAt<B>(blocks, 2 * i + 1),
                       ready.scale[2 * i][kIndex]...,
                       ready.scale[2 * i + 1][kIndex]..., sink);
    });
  }
  EachOf(n, [&](size_t i) DEQUANT_LAMBDA {
    const B& block = BlockAt<B>(blocks, i);
    To sink(to + i * kTo);
    if constexpr (requires { ready.header; }) {
      Unpack<B>::Do(block, ready.header[i], sink);
    } else if constexpr (kIsNibbles<B>) {
      sink.Nibbles(Unpack<B>::Nibbles(block, ready.scale[i][kIndex]...));
    } else if constexpr (kIsRow<B>) {
      const auto value = Unpack<B>::Value(block, ready.scale[i][kIndex]...);
      if constexpr (kCodesFirst<B, To>) {
        sink.StoredRow(ready.codes.Row(i), value, value);
      } else if constexpr (kBySubnormals<B, To>) {
        sink.SubnormalRow(CodesOf<To>(block), value);
      } else {
        sink.Row(Unpack<B>::Codes(block), value);
      }
    } else {
      Unpack<B>::Do(block, ready.scale[i][kIndex]..., sink);
    }
  });
}

// Blocks that are rare, such as with a NaN or Inf scale; NaN is made canonical.
template <class B, typename T>
HWY_NOINLINE void RunReference(const uint8_t* blocks, size_t n, uint8_t* to) {
  float values[B::kElements];
  for (size_t i = 0; i < n; ++i) {
    B::Decode(*reinterpret_cast<const B*>(blocks + i * sizeof(B)), values);
    ConvertBlock<T>(reinterpret_cast<const uint8_t*>(values), B::kElements,
                    to + i * (B::kElements * sizeof(T)));
  }
}

template <class K, class N, class B>
HWY_INLINE void MakeReadyFor(const uint8_t* blocks, N n, Ready<B>& ready,
                             Finite& finite) {
  if constexpr (K::kStream) PrefetchAhead(blocks, n * sizeof(B));
  MakeReady<B, SinkOf<K>>(blocks, n, ready, finite, Fields<B>());
}

// Whether scales are read a batch earlier than they are converted. F32 stores
// enough without.
template <class K>
constexpr bool kReadsEarly = HWY_TARGET == HWY_AVX3_ZEN4 &&
                             sizeof(typename K::Value) == 2 &&
                             kHasF16Fields<typename K::Block>&& requires {
  &Ready<typename K::Block>::scale;
};
#if HWY_TARGET <= HWY_AVX3
// Such fields of a batch. They wait in vectors: there is one store a cycle, for
// which the output waits too.
template <class B, class Sink>
class EarlyFields {
 public:
  HWY_INLINE void Read(const uint8_t* blocks, size_t w, Finite& finite) {
    word_[w] = hn::Dup128VecFromValues(
        du64_, ReadF16Word<B, Sink>(blocks, w, finite), 0);
#if !HWY_COMPILER_MSVC
    asm("" : "+x"(word_[w].raw));  // not in integer registers
#endif
  }
  HWY_INLINE void Read(const uint8_t* blocks, Finite& finite) {
    EachOf(kTimes<kF16Words<B>>,
           [&](size_t w) DEQUANT_LAMBDA { Read(blocks, w, finite); });
  }
  HWY_INLINE void Convert(Ready<B>& ready) const {
    const hn::FixedTag<float, 4> df;
    const hn::FixedTag<hwy::float16_t, 8> dh;
    EachOf(kTimes<kF16Words<B>>, [&](size_t w) DEQUANT_LAMBDA {
      const auto units = hn::Load(df, kScaleUnits<B, Sink>.of + 4 * w);
      const auto halves = hn::PromoteLowerTo(df, hn::BitCast(dh, word_[w]));
      const auto scales = hn::Mul(halves, units);
      hn::StoreU(scales, df, ready.scale[0] + 4 * w);
      if constexpr (kByOffset<B, Sink>) {
        const auto offset = hn::Set(df, -kByteOffset);
        hn::StoreU(hn::Mul(scales, offset), df, ready.offset + 4 * w);
      }
    });
  }

 private:
  static constexpr hn::FixedTag<uint64_t, 2> du64_{};
  hn::Vec<hn::FixedTag<uint64_t, 2>> word_[HWY_MAX(kF16Words<B>, size_t{1})];
};
#else
template <class B, class Sink>
struct EarlyFields {};
#endif

// Whether batches are known to be whole: of short blocks, a loop over them
// would be a fifth of the instructions; and others without a header need not
// wait for their scales (16 bits of TQ2_0 1.1 times as fast).
template <class B>
constexpr bool kRunsShort =
    !HWY_IS_ASAN &&
    (B::kElements < 256 || (
                               HWY_TARGET <= HWY_AVX2 && kHasF16Fields<B> &&
                               !requires { typename Unpack<B>::Header; }));

// What is behind a block or batch of so many bytes, or the last one once more.
HWY_INLINE const uint8_t* After(const uint8_t* at, const uint8_t* last,
                                size_t bytes) {
  return at + (at != last) * bytes;
}

// At least one whole batch of short blocks. One is made ready before the codes
// of another: these would wait for their scales, and what comes behind them in
// the CPU's queue waits as well.
template <class K>
HWY_INLINE void RunShort(const uint8_t* HWY_RESTRICT src, size_t batches,
                         uint8_t* HWY_RESTRICT dst, Finite& finite) {
  using B = typename K::Block;
  using To = SinkOf<K>;
  constexpr auto n = kTimes<kBatch>;
  constexpr size_t kBytes = kBatch * sizeof(B);
  const uint8_t* const last = src + (batches - 1) * kBytes;
  [[maybe_unused]] EarlyFields<B, To> fields;
  [[maybe_unused]] const auto read = [&](const uint8_t* from) DEQUANT_LAMBDA {
    if constexpr (kReadsEarly<K>) {
      if constexpr (K::kStream) PrefetchAhead(from, kBytes);
      fields.Read(from, finite);
    }
  };
  const auto make = [&](const uint8_t* from, Ready<B>& ready) DEQUANT_LAMBDA {
    if constexpr (kReadsEarly<K>) {
      fields.Convert(ready);
      if (from != last) read(from + kBytes);
    } else {
      MakeReadyFor<K>(from, n, ready, finite);
    }
  };
  Ready<B> ready[2];
  // (With an index that is even or odd by turns, Q4_0 took 7 % longer: GCC kept
  // the address in a vector register.)
  Ready<B>* now = ready;
  Ready<B>* next = ready + 1;
  read(src);
  make(src, *now);
  [[maybe_unused]] auto ahead = [&]() DEQUANT_LAMBDA {
    if constexpr (kPipelined<B, To>) {
      return To::BeginRows(RowsOfBatch<B, To>(src));
    } else {
      return NoRows();
    }
  }();
  for (;; src += kBytes, dst += kBatch * kOutBytes<K>) {
    const bool more = src != last;
    if (more) make(src + kBytes, *next);
    if constexpr (kPipelined<B, To>) {
      To sink(dst);
      const auto rows = RowsOfBatch<B, To>(src);
      const auto value = ValuesOfBatch<B, To>(src, *now);
      if (!more) return sink.EightRows(rows, value, ahead, NoRows());
      sink.EightRows(rows, value, ahead, RowsOfBatch<B, To>(src + kBytes));
    } else {
      UnpackReady<K>(src, n, *now, dst, Fields<B>());
      if (!more) return;
    }
    std::swap(now, next);
  }
}

// The same for rows of nibbles, whose tables are made a batch ahead of them,
// and scales one more.
template <class K, size_t... kIndex>
HWY_INLINE void RunNibbles(const uint8_t* HWY_RESTRICT src, size_t batches,
                           uint8_t* HWY_RESTRICT dst, Finite& finite,
                           std::index_sequence<kIndex...>) {
  using B = typename K::Block;
  using To = SinkOf<K>;
  constexpr size_t kBytes = kBatch * sizeof(B);
  const uint8_t* const last = src + (batches - 1) * kBytes;
  const auto rows_of = [](const uint8_t* batch,
                          const Ready<B>& ready) DEQUANT_LAMBDA {
    return [batch, &ready](size_t i) DEQUANT_LAMBDA {
      return Unpack<B>::Nibbles(BlockAt<B>(batch, i),
                                ready.scale[i][kIndex]...);
    };
  };
  const auto prefetch = [](const uint8_t* batch) DEQUANT_LAMBDA {
    if constexpr (K::kStream) PrefetchAhead(batch, kBytes);
  };
  Ready<B> ready[2];
  Ready<B>* now = ready;
  Ready<B>* next = ready + 1;
  EarlyFields<B, To> fields;
  const auto read = [&](const uint8_t* batch) DEQUANT_LAMBDA {
    prefetch(batch);
    fields.Read(batch, finite);
  };
  read(src);
  fields.Convert(*now);
  const uint8_t* to_make = After(src, last, kBytes);
  read(to_make);
  fields.Convert(*next);
  const uint8_t* to_read = After(to_make, last, kBytes);
  read(to_read);

  const auto first = rows_of(src, *now);
  constexpr size_t n = kBatch / kMadeAtOnce<To, decltype(first)>;
  decltype(MadeReady<To>(first, 0)) made[n];
  ForEach(kTimes<n>,
          [&](auto i) DEQUANT_LAMBDA { made[i] = MadeReady<To>(first, i); });
  // Half of them are put, then as many made ready, if there are more. (One by
  // one, and a last turn of its own: up to a tenth slower, as GCC copies what
  // is ready; one turn more than there are: rows of 3072 elements 2 to 6 %.)
  constexpr size_t kHalf = n / 2;
  for (To sink(dst);;) {
    const bool more = --batches > 0;
    fields.Convert(*now);
    to_read = After(to_read, last, kBytes);
    prefetch(to_read);
    const auto rows = rows_of(to_make, *next);
    ForEach(kTimes<2>, [&](auto half) DEQUANT_LAMBDA {
      constexpr size_t kFirst = kHalf * half();
      ForEach(kTimes<kHalf>,
              [&](auto i) DEQUANT_LAMBDA { sink.Put(made[kFirst + i]); });
      if (!more) return;
      ForEach(kTimes<kHalf>, [&](auto i) DEQUANT_LAMBDA {
        made[kFirst + i] = MadeReady<To>(rows, kFirst + i);
      });
      constexpr size_t kWords = kF16Words<B> / 2;
      ForEach(kTimes<kWords>, [&](auto w) DEQUANT_LAMBDA {
        fields.Read(to_read, kWords * half() + w, finite);
      });
    });
    if (!more) return;
    to_make = After(to_make, last, kBytes);
    std::swap(now, next);
  }
}

// Super-blocks of eight rows, pipelined. Headers of the next batch are read
// between its blocks, unless those come from memory.
template <class K>
HWY_INLINE void RunRows(const uint8_t* HWY_RESTRICT src, size_t blocks,
                        uint8_t* HWY_RESTRICT dst, Finite& finite) {
  using B = typename K::Block;
  using To = SinkOf<K>;
  constexpr size_t kMost = kBatchOf<K>;
  constexpr bool kHasHeader = requires { typename Unpack<B>::Header; };
  constexpr bool kBetween = kHasHeader && !K::kStream;
  const auto rows = [](const uint8_t* block) DEQUANT_LAMBDA {
    return Unpack<B>::Rows(BlockAt<B>(block, 0));
  };
  if (blocks == 0) return;
  auto ahead = To::BeginRows(rows(src));
  const uint8_t* const last = src + (blocks - 1) * sizeof(B);
  Ready<B> ready[kBetween ? 2 : 1];
  Ready<B>* now = ready;
  Ready<B>* next = ready + kBetween;
  size_t n = HWY_MIN(blocks, kMost);
  if constexpr (kBetween) MakeReadyFor<K>(src, n, *now, finite);
  while (true) {
    blocks -= n;
    const uint8_t* const after = src + n * sizeof(B);
    const size_t n_after = HWY_MIN(blocks, kMost);
    const bool between = kBetween && n_after == kMost;
    [[maybe_unused]] Scales<B> scale;
    if constexpr (!kBetween) {
      MakeReadyFor<K>(src, n, *now, finite);
    } else if (between) {
      ReadScales<B, To>(after, kMost, scale, finite, Fields<B>());
    } else {
      MakeReadyFor<K>(after, n_after, *next, finite);
    }
    for (size_t i = 0; i < n; ++i, dst += kOutBytes<K>) {
      if constexpr (kBetween) {
        if (between) {
          ReadHeader<To>(BlockAt<B>(after, i), scale[i], next->header[i],
                         Fields<B>());
        }
      }
      const auto value = [&](size_t row, size_t half) DEQUANT_LAMBDA {
        if constexpr (kHasHeader) {
          return Unpack<B>::Value(now->header[i], row, half);
        } else {
          return Unpack<B>::Value(now->scale[i], row, half);
        }
      };
      To sink(dst);
      if (src == last) {
        return sink.EightRows(rows(src), value, ahead, NoRows());
      }
      const uint8_t* block = src;
      src += sizeof(B);
      sink.EightRows(rows(block), value, ahead, rows(src));
    }
    n = n_after;
    if constexpr (kBetween) std::swap(now, next);
  }
}

#if DEQUANT_HAS_VBMI
// For the compiler, which would keep them in integer registers.
template <class V>
HWY_INLINE void StayInMemory([[maybe_unused]] V& values) {
#if !HWY_COMPILER_MSVC
  asm("" : "+m"(values));
#endif
}

// Super-blocks of four times two rows, by magnitude. While two rows are stored,
// the next two are looked up, indices are made for the two after them, and one
// of four steps is done for the values of the next block.
template <class K>
HWY_INLINE void RunMagnitudes(const uint8_t* HWY_RESTRICT src, size_t blocks,
                              uint8_t* HWY_RESTRICT dst, Finite& finite) {
  using B = typename K::Block;
  using To = SinkOf<K>;
  static_assert(B::kElements == 4 * 64);
  if (blocks == 0) return;
  const uint8_t* const last = src + (blocks - 1) * sizeof(B);
  const auto scale_of = [](const uint8_t* block) DEQUANT_LAMBDA {
    return Load32(block + B::kScales[0].offset);
  };
  const auto indices = [](const uint8_t* block, size_t i,
                          const auto& scale) DEQUANT_LAMBDA {
    const auto rows = Unpack<B>::Rows(BlockAt<B>(block, 0));
    return To::IndicesOf(rows(2 * i).p, scale);
  };
  using Scale = typename To::MagnitudeScale;
  Scale scale(scale_of(src)), next_scale(scale_of(After(src, last, sizeof(B))));
  typename To::MagnitudesToMake table;
  ForEach(kTimes<4>,
          [&](auto step) DEQUANT_LAMBDA { table.template Do<step()>(scale); });
  auto values = table.Made();
  auto now = indices(src, 0, scale), next = indices(src, 1, scale);
  typename To::BytesOfRows rows;
  To sink(dst);
  const uint8_t* const first = src;
  for (bool more = true; more;) {
    if constexpr (K::kStream) PrefetchAhead(src, sizeof(B));
    finite.Expect(To::TakesMagnitudes(scale_of(src)));
    more = src != last;
    const uint8_t* const block = src;
    src = After(src, last, sizeof(B));
    StayInMemory(next_scale);
    ForEach(kTimes<4>, [&](auto i) DEQUANT_LAMBDA {
      const auto looked_up = To::LookedUp(now, values);
      table.template Do<i()>(next_scale);
      now = next;
      if constexpr (i < 2) {
        next = indices(block, i + 2, scale);
      } else {
        next = indices(src, i - 2, next_scale);
      }
      if (i > 0 || block != first) sink.PutRows(rows);
      rows = looked_up;
      KeepOrder();
    });
    values = table.Made();
    scale = next_scale;
    next_scale = Scale(scale_of(After(src, last, sizeof(B))));
  }
  sink.PutRows(rows);
}
#endif

// Whether headers of a batch are read between the codes of the one before.
template <class B, class Sink>
constexpr bool kHeadersBetween = false;
template <class B, class Sink>
requires requires { Unpack<B>::template kHeadersBetween<Sink>; }
constexpr bool kHeadersBetween<B, Sink> =
    Unpack<B>::template kHeadersBetween<Sink>;

// The codes of one batch, which is ready, and the headers of the next.
template <class K, class B>
HWY_INLINE void UnpackAndRead(const uint8_t* HWY_RESTRICT src,
                              const Ready<B>& ready, uint8_t* HWY_RESTRICT dst,
                              Ready<B>& next, Finite& finite) {
  using To = SinkOf<K>;
  static_assert(
      !requires { &Unpack<B>::template Takes<To>; }, "is not asked");
  const uint8_t* ahead = src + kBatchOf<K> * sizeof(B);
  Scales<B> scale;
  ReadScales<B, To>(ahead, kBatchOf<K>, scale, finite, Fields<B>());
  for (size_t i = 0; i < kBatchOf<K>; ++i) {
    ReadHeader<To>(BlockAt<B>(ahead, i), scale[i], next.header[i], Fields<B>());
    To sink(dst + i * kOutBytes<K>);
    Unpack<B>::Do(BlockAt<B>(src, i), ready.header[i], sink);
  }
}

// (As the loop of RunFinite, with a loop in it, 16 bits of IQ2_S took 5 %
// longer and those of IQ1_M 3 %.)
template <class K>
HWY_INLINE void RunBetween(const uint8_t* HWY_RESTRICT src, size_t blocks,
                           uint8_t* HWY_RESTRICT dst, Finite& finite) {
  using B = typename K::Block;
  constexpr size_t kMost = kBatchOf<K>;
  Ready<B> ready[2];
  Ready<B>* now = ready;
  Ready<B>* next = ready + 1;
  while (blocks > 0) {
    size_t n = HWY_MIN(blocks, kMost);
    MakeReadyFor<K>(src, n, *now, finite);
    for (; blocks >= 2 * kMost; blocks -= kMost) {
      UnpackAndRead<K>(src, *now, dst, *next, finite);
      src += kMost * sizeof(B);
      dst += kMost * kOutBytes<K>;
      std::swap(now, next);
    }
    UnpackReady<K>(src, n, *now, dst, Fields<B>());
    src += n * sizeof(B);
    dst += n * kOutBytes<K>;
    blocks -= n;
  }
}

// Where Unpack makes vectors of a block.
template <class B, class Sink>
constexpr bool kMakes = requires {
  &Unpack<B>::template Make<Sink>;
};

// Vectors of one block before the codes of another, and begun one before that:
// what waits for each other stops what comes behind it. And the scales of
// kBatch blocks before those of kBatch others, the first of which stand behind
// them, too.
template <class K, size_t... kIndex>
HWY_INLINE void RunOneAhead(const uint8_t* HWY_RESTRICT src, size_t blocks,
                            uint8_t* HWY_RESTRICT dst, Finite& finite,
                            std::index_sequence<kIndex...> fields) {
  using B = typename K::Block;
  using To = SinkOf<K>;
  // (One more than a batch; none crosses a line.)
  alignas(kLine) BlockScales<B> scales[2][2 * kBatch];
  BlockScales<B>* now = scales[0];
  BlockScales<B>* next = scales[1];
  const auto begin = [](const uint8_t* block) DEQUANT_LAMBDA {
    return Unpack<B>::template Begin<To>(BlockAt<B>(block, 0));
  };
  const auto make = [](const uint8_t* block, const auto& begun, const float* of)
                        DEQUANT_LAMBDA {
                          return Unpack<B>::template Make<To>(
                              BlockAt<B>(block, 0), begun, of[kIndex]...);
                        };
  const uint8_t* const last = src + (blocks - 1) * sizeof(B);
  ReadScales<B, To>(src, HWY_MIN(blocks, kBatch), now, finite, fields);
  auto made = make(src, begin(src), now[0]);
  const uint8_t* ahead = After(src, last, sizeof(B));
  auto begun = begin(ahead);
  while (true) {
    const size_t n = HWY_MIN(blocks, kBatch);
    blocks -= n;
    if (blocks > 0) {
      ReadScales<B, To>(src + n * sizeof(B), HWY_MIN(blocks, kBatch), next,
                        finite, fields);
      std::memcpy(now[kBatch], next[0], sizeof(next[0]));
    }
    for (size_t i = 0; i < n; ++i) {
      if constexpr (K::kStream) PrefetchAhead(src, sizeof(B));
      const auto next_made = make(ahead, begun, now[i + (ahead != src)]);
      ahead = After(ahead, last, sizeof(B));
      begun = begin(ahead);
      To sink(dst);
      Unpack<B>::Do(BlockAt<B>(src, 0), made, sink);
      made = next_made;
      src += sizeof(B);
      dst += kOutBytes<K>;
    }
    if (blocks == 0) return;
    std::swap(now, next);
  }
}

// Any number of blocks. What is written of a block is right if it is finite.
template <class K>
HWY_INLINE Finite RunFinite(const uint8_t* HWY_RESTRICT src, size_t blocks,
                            uint8_t* HWY_RESTRICT dst) {
  using B = typename K::Block;
  Finite finite;
#if DEQUANT_HAS_VBMI
  if constexpr (kByMagnitude<B, SinkOf<K>>) {
    RunMagnitudes<K>(src, blocks, dst, finite);
    return finite;
  }
#endif
  if constexpr (kMakes<B, SinkOf<K>>) {
    if (blocks > 0) RunOneAhead<K>(src, blocks, dst, finite, Fields<B>());
    return finite;
  } else {
    constexpr size_t kTo = kOutBytes<K>;
    if constexpr (kRunsShort<B>) {
      if (blocks >= kBatch) {
        if constexpr (kIsNibbles<B> && kReadsEarly<K>) {
          RunNibbles<K>(src, blocks / kBatch, dst, finite, Fields<B>());
        } else {
          RunShort<K>(src, blocks / kBatch, dst, finite);
        }
        const size_t done = blocks / kBatch * kBatch;
        src += done * sizeof(B);
        dst += done * kTo;
        blocks -= done;
      }
    }
    if constexpr (kPipelined<B, SinkOf<K>> && B::kElements == 256) {
      RunRows<K>(src, blocks, dst, finite);
      return finite;
    }
    // Blocks that come from memory are late for that: 16 bits of Q5_K took up
    // to twice as long.
    if constexpr (kHeadersBetween<B, SinkOf<K>> && !K::kStream) {
      RunBetween<K>(src, blocks, dst, finite);
      return finite;
    }
    // (Counted by `blocks` alone, one block of IQ1_M takes 6 ns more.)
    const uint8_t* const end = src + blocks * sizeof(B);
    while (src != end) {
      const size_t n = HWY_MIN(blocks, kBatchOf<K>);
      Ready<B> ready;
      MakeReadyFor<K>(src, n, ready, finite);
      UnpackReady<K>(src, n, ready, dst, Fields<B>());
      src += n * sizeof(B);
      dst += n * kTo;
      blocks -= n;
    }
    return finite;
  }
}

// Of super-blocks, in a function of its own: else the arguments, which may be
// needed again, wait on the stack: up to 4 ns of a call on one block.
template <class K>
HWY_NOINLINE Finite CallFinite(const uint8_t* HWY_RESTRICT src, size_t blocks,
                               uint8_t* HWY_RESTRICT dst) {
  return RunFinite<K>(src, blocks, dst);
}
template <class K>
HWY_INLINE bool AllFinite(const uint8_t* src, size_t blocks, uint8_t* dst) {
  if constexpr (K::Block::kElements == 256) {
    return CallFinite<K>(src, blocks, dst).All();
  } else {
    return RunFinite<K>(src, blocks, dst).All();
  }
}

template <class K>
void Run(const uint8_t* HWY_RESTRICT src, size_t blocks,
         uint8_t* HWY_RESTRICT dst);

template <class K>
HWY_NOINLINE void RunPieces(const uint8_t* HWY_RESTRICT src, size_t blocks,
                            uint8_t* HWY_RESTRICT dst, size_t piece) {
  for (size_t i = 0; i < blocks; i += piece) {
    Run<K>(src + i * sizeof(typename K::Block), HWY_MIN(blocks - i, piece),
           dst + i * kOutBytes<K>);
  }
}

// After some were not finite: few at a time, and then those by the reference.
template <class K>
HWY_NOINLINE void RunAgain(const uint8_t* HWY_RESTRICT src, size_t blocks,
                           uint8_t* HWY_RESTRICT dst) {
  if constexpr (K::kStream) hwy::FlushStream();  // or it might come later
  if (blocks > kBatch) return RunPieces<K>(src, blocks, dst, kBatch);
  RunReference<typename K::Block, typename K::Value>(src, blocks, dst);
}

template <class K>
void Run(const uint8_t* HWY_RESTRICT src, size_t blocks,
         uint8_t* HWY_RESTRICT dst) {
  using B = typename K::Block;
  // So many are run before it is asked whether all were finite.
  constexpr size_t kAtOnce =
      kForUsualScales<B, SinkOf<K>> ? 32768 / B::kElements : 4096;
  if constexpr (B::kElements == 1) {
    Unpack<B>::template All<typename K::Value, K::kStream>(src, blocks, dst);
  } else if constexpr (kForUsualScales<B, SinkOf<K>>) {
    // Where one scale is unusual, others are: all that are left.
    while (blocks > 0) {
      const size_t n = HWY_MIN(blocks, kAtOnce);
      if (HWY_UNLIKELY(!AllFinite<K>(src, n, dst))) {
        if constexpr (K::kStream) hwy::FlushStream();  // or it might come later
        return Run<typename K::ForAnyScale>(src, blocks, dst);
      }
      src += n * sizeof(B);
      dst += n * kOutBytes<K>;
      blocks -= n;
    }
  } else if (HWY_UNLIKELY(blocks > kAtOnce)) {
    RunPieces<K>(src, blocks, dst, kAtOnce);
  } else if (HWY_UNLIKELY(!AllFinite<K>(src, blocks, dst))) {
    RunAgain<K>(src, blocks, dst);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace dequant
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dequant {

// One kernel of every target.
template <class K>
const RunFn* AllTargets() {
  HWY_EXPORT_T(Table, Run<K>);
  return HWY_DISPATCH_TABLE(Table);
}
#if HWY_ARCH_X86
constexpr bool kStreams = true;
#else
constexpr bool kStreams = false;  // whose stores are the same ones
#endif

// A kernel file ends with `template const Format& FormatOf<B>();`.
template <class B>
const Format& FormatOf() {
  static_assert(alignof(B) == 1, "blocks stand anywhere in a file");
  static const Format format = {
      .type = {B::kName, B::kId, static_cast<int64_t>(B::kElements), sizeof(B),
               B::kElements == 1 ? TypeKind::kFloat : TypeKind::kBlock},
      .scales = B::kScales,
      .decode =
          [](const uint8_t* block, float* values) {
            B::Decode(*reinterpret_cast<const B*>(block), values);
          },
      .kernels = {{AllTargets<Kernel<B, float, false>>(),
                   AllTargets<Kernel<B, float, kStreams>>()},
                  {AllTargets<Kernel<B, hwy::float16_t, false>>(),
                   AllTargets<Kernel<B, hwy::float16_t, kStreams>>()},
                  {AllTargets<Kernel<B, hwy::bfloat16_t, false>>(),
                   AllTargets<Kernel<B, hwy::bfloat16_t, kStreams>>()}}};
  return format;
}

}  // namespace dequant
#endif  // HWY_ONCE

#endif  // per-target include guard
