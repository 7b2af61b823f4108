// blocks -> values, once per target: what a kernel file is made of.
//
// Every block format is, in element order, a run of groups of 16 signed bytes
// with one F32 scale and at most one F32 offset:
//
//   value = q * scale [+ offset]
//
// Unpack<B> turns one block into calls of a sink, one call a group (128-bit
// work, the same on every target). Sink<T> turns groups into T and stores them:
// the only code that depends on the vector's width or on the output type.
//
// Vectors never stand in structs or arrays: SVE's have no size.

#if defined(DEQUANT_KERNELS_UNPACK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef DEQUANT_KERNELS_UNPACK_INL_H_
#undef DEQUANT_KERNELS_UNPACK_INL_H_
#else
#define DEQUANT_KERNELS_UNPACK_INL_H_
#endif

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <utility>

#include "hwy/highway.h"
#include "kernels/format.h"
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

HWY_INLINE Codes LoadCodes(const uint8_t* p) {
#if HWY_TARGET == HWY_AVX2
  return hn::LoadDup128(dcodes, p);
#else
  return hn::LoadU(dcodes, p);
#endif
}

HWY_INLINE SignedCodes LoadCodes(const int8_t* p) {
  return hn::BitCast(dsigned, LoadCodes(reinterpret_cast<const uint8_t*>(p)));
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

// The mask of the 16 bits at p, the lowest bit first. (LoadMaskBits may read
// eight bytes.)
HWY_INLINE hn::Mask<decltype(dcodes)> CodeBits(const uint8_t* p) {
#if HWY_TARGET == HWY_AVX2
  alignas(16) static constexpr uint8_t kByte[16] = {0, 0, 0, 0, 0, 0, 0, 0,
                                                    1, 1, 1, 1, 1, 1, 1, 1};
  alignas(16) static constexpr uint8_t kBit[16] = {1, 2, 4, 8, 16, 32, 64, 128,
                                                   1, 2, 4, 8, 16, 32, 64, 128};
  const hn::Repartition<uint16_t, decltype(dcodes)> du16;
  const Codes bits = hn::BitCast(dcodes, hn::Set(du16, Load16(p)));
  return hn::TestBit(hn::TableLookupBytes(bits, LoadCodes(kByte)),
                     LoadCodes(kBit));
#else
  return hn::Dup128MaskFromMaskBits(dcodes, Load16(p));
#endif
}

// An F16 scale field; NaN and Inf pass through.
HWY_INLINE float Half(const uint8_t* p) {
#if DEQUANT_NO_F16C
  return F16ToF32(p);  // no F16C: bits are cheaper than emulated vectors
#else
  const hn::FixedTag<float, 4> df;
  const hn::Rebind<hwy::float16_t, decltype(df)> dh;
  const hn::Rebind<uint16_t, decltype(df)> du16;
  return hn::GetLane(
      hn::PromoteTo(df, hn::BitCast(dh, hn::Set(du16, Load16(p)))));
#endif
}

// q * scale, and q * scale + offset. kShift: codes come times 2^kShift, which
// is taken back from the scale, exactly.
template <int kShift>
struct Scaled {
  float scale;
  template <class D>
  HWY_INLINE hn::Vec<D> Scale(D d) const {
    const auto s = hn::Set(d, scale);
    if constexpr (kShift == 0) return s;
    return hn::Mul(s, hn::Set(d, 1.0f / (1 << kShift)));
  }
  template <class D, class V>
  HWY_INLINE V operator()(D d, V q) const {
    return hn::Mul(q, Scale(d));
  }
};
template <int kShift>
struct ScaledOffset {
  float scale, offset;
  template <class D, class V>
  HWY_INLINE V operator()(D d, V q) const {
    return hn::Add(Scaled<kShift>{scale}(d, q), hn::Set(d, offset));
  }
};

#if HWY_TARGET == HWY_AVX2
// Byte 4 i + kAt of 32-bit lane i is code kFirst + kStep i, the others are 0.
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
#endif

// Writes groups as T, one after the other: Codes, SignedCodes or I8x16. With
// SignedCodes the scale must be exact times 2^-24, as everything made of F16
// is.
template <typename T>
class Sink {
 public:
  HWY_INLINE explicit Sink(uint8_t* to) : to_(to) {}
  template <class V>
  HWY_INLINE void operator()(V q, float scale) {
    Put(q, Scaled<kShift<V>>{scale});
  }
  template <class V>
  HWY_INLINE void operator()(V q, float scale, float offset) {
    Put(q, ScaledOffset<kShift<V>>{scale, offset});
  }

 private:
#if HWY_TARGET == HWY_AVX2
  // Signed codes are widened to the top of a lane, which keeps their sign.
  template <class V>
  static constexpr int kShift = hwy::IsSame<V, SignedCodes>() ? 24 : 0;
#else
  template <class V>
  static constexpr int kShift = 0;
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
    PutWide(df, hn::BitCast(di8, q), value);
#endif
    to_ += 16 * sizeof(T);
  }

#if HWY_TARGET == HWY_AVX2
  template <int kFirst, int kStep, class DF, class V>
  HWY_INLINE static hn::Vec<DF> Widen(DF df, V q) {
    const hn::Repartition<int8_t, DF> dindex;
    const auto& index = kWidenIndex<kFirst, kStep, (kShift<V> == 24 ? 3 : 0)>;
    const auto wide = hn::TableLookupBytesOr0(q, hn::Load(dindex, index.bytes));
    return hn::ConvertTo(df, hn::BitCast(hn::Rebind<int32_t, DF>(), wide));
  }
  template <class DF, class V, class Fn>
  HWY_INLINE void PutTwice(DF df, V q, Fn value) {
    if constexpr (hwy::IsSame<T, hwy::bfloat16_t>()) {
      StoreBf16InTurn(df, value(df, Widen<0, 2>(df, q)),
                      value(df, Widen<1, 2>(df, q)), to_);
    } else {
      StoreAs2<T>(df, value(df, Widen<0, 1>(df, q)),
                  value(df, Widen<8, 1>(df, q)), to_);
    }
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
      const hn::FixedTag<int16_t, 8> di16;
      const auto lo = hn::PromoteLowerTo(di16, q);
      const auto hi = hn::PromoteUpperTo(di16, q);
      PutHalf(df, lo, value, to_);
      PutHalf(df, hi, value, to_ + 8 * sizeof(T));
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

// The byte groups of a super-block's scales are values like any other: 16 codes
// times d, kept in a small array that broadcasts load from.
template <class V>
HWY_INLINE void Scales16(V codes, float d, float* HWY_RESTRICT scales) {
  Sink<float> sink(reinterpret_cast<uint8_t*>(scales));
  sink(codes, d);
}

// One format: a kernel file specializes it with
//   template <class Sink> static void Do(const B& block, Sink& sink);
// or, for plain types, with
//   template <typename T> static void All(const uint8_t* src, size_t n,
//   uint8_t* dst);
template <class B>
struct Unpack;

template <class B, size_t kIndex>
HWY_INLINE bool IsFinite(const uint8_t* block) {
  constexpr ScaleField kField = B::kScales[kIndex];
  const uint8_t* p = block + kField.offset;
  if constexpr (kField.kind == ScaleField::kF16) {
    return IsFiniteF16(Load16(p));
  } else if constexpr (kField.kind == ScaleField::kF32) {
    return IsFiniteF32(Load32(p));
  } else {
    return IsFiniteF16(HalfInTopNibbles(p));
  }
}
// Unrolled by hand: at -O2 a loop over the fields stays one.
template <class B, size_t... kIndex>
HWY_INLINE bool AllFinite([[maybe_unused]] const uint8_t* block,
                          std::index_sequence<kIndex...>) {
  return (IsFinite<B, kIndex>(block) && ...);
}
template <class B>
HWY_INLINE bool AllFinite(const uint8_t* block) {
  return AllFinite<B>(block, std::make_index_sequence<std::size(B::kScales)>());
}

// A block with a NaN or Inf scale: through F32, where NaN is made canonical.
template <class B>
HWY_NOINLINE void ToFloats(const uint8_t* block, uint8_t* floats) {
  Sink<float> sink(floats);
  Unpack<B>::Do(*reinterpret_cast<const B*>(block), sink);
}
template <class B, typename T>
HWY_INLINE void RunNonFinite(const uint8_t* block, uint8_t* to) {
  uint8_t floats[B::kElements * sizeof(float)];
  ToFloats<B>(block, floats);
  ConvertBlock<T>(floats, B::kElements, to);
}

template <class K>
void Run(const uint8_t* HWY_RESTRICT src, size_t blocks,
         uint8_t* HWY_RESTRICT dst) {
  using B = typename K::Block;
  using T = typename K::Value;
  if constexpr (B::kElements == 1) {
    Unpack<B>::template All<T>(src, blocks, dst);
  } else {
    for (size_t i = 0; i < blocks; ++i) {
      const uint8_t* block = src + i * sizeof(B);
      uint8_t* to = dst + i * (B::kElements * sizeof(T));
      if (HWY_UNLIKELY(!AllFinite<B>(block))) {
        RunNonFinite<B, T>(block, to);
      } else {
        Sink<T> sink(to);
        Unpack<B>::Do(*reinterpret_cast<const B*>(block), sink);
      }
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace dequant
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dequant {

// A kernel file ends with `template const Format& FormatOf<B>();`.
template <class K>
RunFn Pick() {
  HWY_EXPORT_T(Table, Run<K>);
  return HWY_DYNAMIC_POINTER_T(Table);
}

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
      .kernel = [](DType out) -> RunFn {
        switch (out) {
          case DType::kF32:
            return Pick<Kernel<B, float>>();
          case DType::kF16:
            return Pick<Kernel<B, hwy::float16_t>>();
          case DType::kBF16:
            return Pick<Kernel<B, hwy::bfloat16_t>>();
        }
        return nullptr;
      }};
  return format;
}

}  // namespace dequant
#endif  // HWY_ONCE

#endif  // per-target include guard
