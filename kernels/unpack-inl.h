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
HWY_INLINE I8x16 Signed(U8x16 v) { return hn::BitCast(di8, v); }

// Moves the kBits-bit field that starts at bit kFrom of each byte to bit kTo,
// other bits zero. Shifts 16-bit lanes: x86 has no byte shift, and the mask is
// needed anyway.
template <int kFrom, int kBits, int kTo = 0>
HWY_INLINE U8x16 Field(U8x16 v) {
  const hn::Repartition<uint16_t, decltype(du8)> du16;
  const U8x16 mask =
      hn::Set(du8, static_cast<uint8_t>(((1 << kBits) - 1) << kTo));
  const auto wide = hn::BitCast(du16, v);
  if constexpr (kFrom > kTo) {
    v = hn::BitCast(du8, hn::ShiftRight<kFrom - kTo>(wide));
  } else if constexpr (kFrom < kTo) {
    v = hn::BitCast(du8, hn::ShiftLeft<kTo - kFrom>(wide));
  }
  return hn::And(v, mask);
}
HWY_INLINE U8x16 LowNibbles(U8x16 v) { return Field<0, 4>(v); }
HWY_INLINE U8x16 HighNibbles(U8x16 v) { return Field<4, 4>(v); }

// The mask of 16 bits at p, the lowest bit first.
HWY_INLINE hn::Mask<decltype(du8)> Bits16(const uint8_t* p) {
  return hn::LoadMaskBits(du8, p);
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

// q * scale, and q * scale + offset.
struct Scaled {
  float scale;
  template <class D, class V>
  HWY_INLINE V operator()(D d, V q) const {
    return hn::Mul(q, hn::Set(d, scale));
  }
};
struct ScaledOffset {
  float scale, offset;
  template <class D, class V>
  HWY_INLINE V operator()(D d, V q) const {
    return hn::Add(hn::Mul(q, hn::Set(d, scale)), hn::Set(d, offset));
  }
};

// Writes groups as T, one after the other.
template <typename T>
class Sink {
 public:
  HWY_INLINE explicit Sink(uint8_t* to) : to_(to) {}
  HWY_INLINE void operator()(I8x16 q, float scale) { Put(q, Scaled{scale}); }
  HWY_INLINE void operator()(I8x16 q, float scale, float offset) {
    Put(q, ScaledOffset{scale, offset});
  }

 private:
  template <class Fn>
  HWY_INLINE void Put(I8x16 q, Fn value) {
    const hn::CappedTag<float, 16> df;
    PutWide(df, q, value);
    to_ += 16 * sizeof(T);
  }

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
HWY_INLINE void Scales16(I8x16 codes, float d, float* HWY_RESTRICT scales) {
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
