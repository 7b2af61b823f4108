// F32 vectors to F32, F16 and BF16 in memory, once per target: rounded once, to
// nearest even; subnormals kept. Nothing here needs any alignment, but for
// stores that stream.

#if defined(DEQUANT_KERNELS_NARROW_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef DEQUANT_KERNELS_NARROW_INL_H_
#undef DEQUANT_KERNELS_NARROW_INL_H_
#else
#define DEQUANT_KERNELS_NARROW_INL_H_
#endif

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "hwy/cache_control.h"
#include "hwy/highway.h"
#include "kernels/scalar.h"

HWY_BEFORE_NAMESPACE();
namespace dequant {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// x86 before AVX2 has no instruction for F32 <-> F16.
#define DEQUANT_NO_F16C (HWY_TARGET == HWY_SSE2 || HWY_TARGET == HWY_SSE4)

// Permutes of bytes, multishift (VBMI) and GFNI, which every CPU of AVX3_ZEN4
// and AVX3_SPR has. (Of AVX3_DL, which has them too, nothing is built.)
#define DEQUANT_HAS_VBMI (HWY_TARGET <= HWY_AVX3_DL)

// AVX-512's instruction for BF16, which flushes subnormals.
#undef DEQUANT_HAS_BF16
#if HWY_TARGET <= HWY_AVX3_ZEN4 && HWY_AVX3_HAVE_F32_TO_BF16C
#define DEQUANT_HAS_BF16 1
#else
#define DEQUANT_HAS_BF16 0
#endif
// BF16 of values that are no subnormals of F32 and below 2^111.
struct NormalBf16 {
  uint16_t bits;
};
// (Vectors of any length compute MXFP4, whose scales go up to 2^127.)
constexpr bool kHasNormalBf16 = HWY_TARGET <= HWY_AVX3 ||
                                HWY_TARGET == HWY_AVX2 || HWY_TARGET_IS_NEON ||
                                (HWY_TARGET_IS_SVE && !HWY_HAVE_SCALABLE);

// 2^16 v - less. The product is exact, so NEON, which cannot subtract in the
// same instruction, gives the same.
template <class DF, class V>
HWY_INLINE V Times64KLess(DF df, V v, V less) {
  const V factor = hn::Set(df, 0x1p16f);
  if constexpr (HWY_TARGET_IS_NEON) return hn::Sub(hn::Mul(v, factor), less);
  return hn::MulSub(v, factor, less);
}
// NaN where v is, or Inf.
template <class DF, class V>
HWY_INLINE V Probe(DF df, V v) {
  return Times64KLess(df, v, v);
}
// The BF16 of each value in the upper half of its 32-bit lane; rests below.
// NaN must be canonical already.
template <typename T, class DF, class V>
HWY_INLINE hn::Vec<hn::RebindToUnsigned<DF>> RoundedBf16(DF df, V v) {
  const hn::RebindToUnsigned<DF> du;
  if constexpr (std::is_same_v<T, NormalBf16>) {
    // The last bit of 2^16 v - v is where v's eighth is; the other difference
    // is exact. (In this order, -0 stays.)
    return hn::BitCast(du, Times64KLess(df, v, Probe(df, v)));
  }
  const auto bits = hn::BitCast(du, v);
  const auto up = hn::Add(bits, hn::Set(du, 0x7FFF));
#if HWY_TARGET <= HWY_AVX3
  const auto odd = hn::TestBit(bits, hn::Set(du, 0x10000));
  return hn::MaskedAddOr(up, odd, up, hn::Set(du, 1));
#else
  return hn::Add(up, hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1)));
#endif
}
// The same of constants times a scale, whose products are exact: so are those
// by 2^16, and the difference is a product as well, rounded once. Both factors
// are constants; `less` is 2^16 - 1 times the constant. (0 is added for -0.)
template <class DF, class V>
HWY_INLINE hn::Vec<hn::RebindToUnsigned<DF>> RoundedBf16(DF df,
                                                         const float* less,
                                                         const float* whole,
                                                         V scale) {
  const auto probe = hn::MulAdd(hn::Load(df, less), scale, hn::Zero(df));
  return hn::BitCast(hn::RebindToUnsigned<DF>(),
                     hn::MulSub(hn::Load(df, whole), scale, probe));
}
// The 16 bits of each value in 32-bit lanes.
template <typename T, class DF, class V>
HWY_INLINE hn::Vec<hn::RebindToUnsigned<DF>> Bf16Bits(DF df, V v) {
  return hn::ShiftRight<16>(RoundedBf16<T>(df, v));
}

#if DEQUANT_NO_F16C
template <class DF, class V>
HWY_INLINE hn::Vec<hn::RebindToUnsigned<DF>> F16Bits(DF df, V v) {
  const hn::RebindToUnsigned<DF> du;
  const hn::RebindToSigned<DF> di;
  const auto bits = hn::BitCast(du, v);
  const auto abs = hn::And(bits, hn::Set(du, 0x7FFFFFFF));
  const auto sign = hn::ShiftRight<16>(hn::Xor(bits, abs));
  // Normal: rebias the exponent, round away 13 bits; a carry may give Inf.
  const auto odd = hn::And(hn::ShiftRight<13>(abs), hn::Set(du, 1));
  const auto normal =
      hn::ShiftRight<13>(hn::Add(hn::Add(abs, odd), hn::Set(du, 0xC8000FFF)));
  // Subnormal: adding 0.5 makes the adder round at bit 2^-24.
  const auto magic = hn::Set(df, 0.5f);
  const auto tiny =
      hn::Sub(hn::BitCast(du, hn::Add(hn::BitCast(df, abs), magic)),
              hn::BitCast(du, magic));
  const auto special = hn::IfThenElse(
      hn::RebindMask(du, hn::Gt(hn::BitCast(di, abs), hn::Set(di, 0x7F800000))),
      hn::Set(du, 0x7E00), hn::Or(hn::Set(du, 0x7C00), sign));
  const auto finite = hn::Or(
      sign, hn::IfThenElse(hn::RebindMask(du, hn::Lt(hn::BitCast(di, abs),
                                                     hn::Set(di, 113 << 23))),
                           tiny, normal));
  return hn::IfThenElse(
      hn::RebindMask(du, hn::Gt(hn::BitCast(di, abs), hn::Set(di, 0x477FFFFF))),
      special, finite);
}

template <class DF>
HWY_INLINE hn::Vec<DF> LoadF16(DF df, const uint8_t* from) {
  const hn::RebindToUnsigned<DF> du;
  const hn::Rebind<uint16_t, DF> du16;
  const auto h = hn::PromoteTo(
      du, hn::LoadU(du16, reinterpret_cast<const uint16_t*>(from)));
  const auto abs = hn::And(h, hn::Set(du, 0x7FFF));
  const auto sign = hn::ShiftLeft<16>(hn::Xor(h, abs));
  // Exponent and mantissa in place, the bias mended by an exact product.
  const auto value =
      hn::Mul(hn::BitCast(df, hn::ShiftLeft<13>(abs)), hn::Set(df, 0x1p112f));
  const auto special = hn::Or(hn::BitCast(du, value), hn::Set(du, 0x7F800000));
  const auto is_special =
      hn::RebindMask(du, hn::Gt(hn::BitCast(hn::RebindToSigned<DF>(), abs),
                                hn::Set(hn::RebindToSigned<DF>(), 0x7BFF)));
  return hn::BitCast(df, hn::Or(sign, hn::IfThenElse(is_special, special,
                                                     hn::BitCast(du, value))));
}
#endif  // DEQUANT_NO_F16C

// One vector as F16 or BF16.
template <typename T, class DF, class V>
HWY_INLINE hn::Vec<hn::Rebind<uint16_t, DF>> Narrow(DF df, V v) {
  const hn::Rebind<uint16_t, DF> du16;
  if constexpr (std::is_same_v<T, hwy::float16_t>) {
#if DEQUANT_NO_F16C
    return hn::TruncateTo(du16, F16Bits(df, v));
#else
    const hn::Rebind<hwy::float16_t, DF> dh;
    return hn::BitCast(du16, hn::DemoteTo(dh, v));
#endif
#if DEQUANT_HAS_BF16
  } else if constexpr (std::is_same_v<T, NormalBf16>) {
    const hn::Rebind<hwy::bfloat16_t, DF> dbf16;
    return hn::BitCast(du16, hn::DemoteTo(dbf16, v));
#endif
  } else {
    return hn::TruncateTo(du16, Bf16Bits<T>(df, v));
  }
}

#if !HWY_HAVE_SCALABLE
// Two vectors as F16 or BF16 in one, one after the other.
template <typename T, class DF, class V>
HWY_INLINE hn::Vec<hn::Repartition<uint16_t, DF>> Narrow2(DF df, V lo, V hi) {
  const hn::Repartition<uint16_t, DF> du16;
#if DEQUANT_HAS_BF16
  if constexpr (std::is_same_v<T, NormalBf16>) {
    const hn::Repartition<hwy::bfloat16_t, DF> dbf16;
    return hn::BitCast(du16, hn::OrderedDemote2To(dbf16, lo, hi));
  }
#endif
#if HWY_ARCH_X86 && HWY_TARGET > HWY_AVX3
  const hn::RebindToSigned<DF> di;  // the pack instruction takes signed lanes
#if DEQUANT_NO_F16C
  if constexpr (std::is_same_v<T, hwy::float16_t>) {
    return hn::OrderedDemote2To(du16, hn::BitCast(di, F16Bits(df, lo)),
                                hn::BitCast(di, F16Bits(df, hi)));
  }
#endif
  if constexpr (!std::is_same_v<T, hwy::float16_t>) {
    return hn::OrderedDemote2To(du16, hn::BitCast(di, Bf16Bits<T>(df, lo)),
                                hn::BitCast(di, Bf16Bits<T>(df, hi)));
  }
#else
  if constexpr (!std::is_same_v<T, hwy::float16_t>) {
    return hn::ConcatOdd(du16, hn::BitCast(du16, RoundedBf16<T>(df, hi)),
                         hn::BitCast(du16, RoundedBf16<T>(df, lo)));
  }
#endif
  return hn::Combine(du16, Narrow<T>(df, hi), Narrow<T>(df, lo));
}
#endif

#if HWY_TARGET == HWY_AVX2
// Two vectors of RoundedBf16 in one, in turn one value of each.
template <class V>
HWY_INLINE hn::Vec<hn::Repartition<uint16_t, hn::DFromV<V>>> InTurnOfRounded(
    V even, V odd) {
  const hn::Repartition<uint16_t, hn::DFromV<V>> du16;
  return hn::OddEven(hn::BitCast(du16, odd),
                     hn::BitCast(du16, hn::ShiftRight<16>(even)));
}
template <typename T, class DF, class V>
HWY_INLINE hn::Vec<hn::Repartition<uint16_t, DF>> Bf16InTurn(DF df, V even,
                                                             V odd) {
  return InTurnOfRounded(RoundedBf16<T>(df, even), RoundedBf16<T>(df, odd));
}
#endif

// Stores a vector; past the caches, if it streams, for which `to` must be
// aligned to it.
template <bool kStream, class D, class V>
HWY_INLINE void Store(D d, V v, uint8_t* to) {
  auto* const lanes = reinterpret_cast<hn::TFromD<D>*>(to);
  if constexpr (kStream) {
    static_assert(hn::MaxLanes(d) * sizeof(*lanes) >= 16);
    hn::Stream(v, d, lanes);
  } else {
    hn::StoreU(v, d, lanes);
  }
}

// Stores one vector as T.
template <typename T, bool kStream = false, class DF, class V>
HWY_INLINE void StoreAs(DF df, V v, uint8_t* to) {
  if constexpr (std::is_same_v<T, float>) {
    Store<kStream>(df, v, to);
#if HWY_TARGET <= HWY_AVX3 && !HWY_COMPILER_MSVC
  } else if constexpr (!kStream && std::is_same_v<T, hwy::float16_t> &&
                       hn::MaxLanes(df) == 16) {
    // Conversion and store in one, which needs a port less: GCC sees that only
    // in vectors of 16 bits.
    using Halves __attribute__((vector_size(32), aligned(1), may_alias)) =
        int16_t;
    *reinterpret_cast<Halves*>(to) =
        reinterpret_cast<Halves>(Narrow<T>(df, v).raw);
#endif
  } else {
    Store<kStream>(hn::Rebind<uint16_t, DF>(), Narrow<T>(df, v), to);
  }
}

// Stores two vectors as T, one after the other; 16-bit results are packed first
// where that saves instructions.
template <typename T, bool kStream = false, class DF, class V>
HWY_INLINE void StoreAs2(DF df, V lo, V hi, uint8_t* to) {
#if !HWY_HAVE_SCALABLE
  constexpr bool kIsBf16 = sizeof(T) == 2 && !std::is_same_v<T, hwy::float16_t>;
  constexpr bool kPack =
      kIsBf16 || (sizeof(T) == 2 && (HWY_TARGET_IS_NEON || DEQUANT_NO_F16C));
  if constexpr (kPack) {
    Store<kStream>(hn::Repartition<uint16_t, DF>(), Narrow2<T>(df, lo, hi), to);
  } else
#endif
  {
    StoreAs<T, kStream>(df, lo, to);
    StoreAs<T, kStream>(df, hi, to + hn::Lanes(df) * sizeof(T));
  }
}

// Loads one vector of From as F32; NaN passes through.
template <typename From, class DF>
HWY_INLINE hn::Vec<DF> LoadAs(DF df, const uint8_t* from) {
  if constexpr (std::is_same_v<From, float>) {
    return hn::LoadU(df, reinterpret_cast<const float*>(from));
  } else if constexpr (std::is_same_v<From, hwy::float16_t>) {
#if DEQUANT_NO_F16C
    return LoadF16(df, from);
#else
    const hn::Rebind<hwy::float16_t, DF> dh;
    const hn::Rebind<uint16_t, DF> du16;
    return hn::PromoteTo(
        df, hn::BitCast(
                dh, hn::LoadU(du16, reinterpret_cast<const uint16_t*>(from))));
#endif
  } else {
    const hn::Rebind<uint16_t, DF> du16;
    const hn::RebindToUnsigned<DF> du;
    return hn::BitCast(
        df, hn::ShiftLeft<16>(hn::PromoteTo(
                du, hn::LoadU(du16, reinterpret_cast<const uint16_t*>(from)))));
  }
}

// The same two for one value.
template <typename From>
HWY_INLINE float LoadScalar(const uint8_t* from) {
  if constexpr (std::is_same_v<From, float>) {
    return std::bit_cast<float>(Load32(from));
  } else if constexpr (std::is_same_v<From, hwy::float16_t>) {
    return F16ToF32(from);
  } else {
    return Bf16ToF32(Load16(from));
  }
}
template <typename T>
HWY_INLINE void StoreScalar(float f, uint8_t* to) {
  if constexpr (std::is_same_v<T, float>) {
    uint32_t bits = std::bit_cast<uint32_t>(f);
    if (!IsFiniteF32(bits) && (bits & 0x7FFFFF)) bits = 0x7FC00000;
    std::memcpy(to, &bits, sizeof(bits));
  } else {
    const uint16_t bits =
        std::is_same_v<T, hwy::float16_t> ? F32ToF16(f) : F32ToBf16(f);
    std::memcpy(to, &bits, sizeof(bits));
  }
}

// n values of From to T, NaN made canonical.
template <typename From, typename T, bool kStream = false>
HWY_INLINE void Convert(const uint8_t* HWY_RESTRICT from, size_t n,
                        uint8_t* HWY_RESTRICT to) {
  // F16 has no subnormals of F32.
  constexpr bool kNormal = kHasNormalBf16 &&
                           std::is_same_v<From, hwy::float16_t> &&
                           std::is_same_v<T, hwy::bfloat16_t>;
  using Stored = std::conditional_t<kNormal, NormalBf16, T>;
  const hn::ScalableTag<float> df;
  const auto nan = hn::BitCast(
      df, hn::Set(hn::RebindToUnsigned<decltype(df)>(), 0x7FC00000));
  const size_t lanes = hn::Lanes(df);
  // Four vectors have one test, since hardly any has a NaN.
  for (; n >= 4 * lanes; n -= 4 * lanes) {
    auto v0 = LoadAs<From>(df, from);
    auto v1 = LoadAs<From>(df, from + lanes * sizeof(From));
    auto v2 = LoadAs<From>(df, from + 2 * lanes * sizeof(From));
    auto v3 = LoadAs<From>(df, from + 3 * lanes * sizeof(From));
    const auto probe = [df](auto v)
                           HWY_ATTR { return kNormal ? Probe(df, v) : v; };
    const auto any = hn::Or(hn::IsEitherNaN(probe(v0), probe(v1)),
                            hn::IsEitherNaN(probe(v2), probe(v3)));
    if (HWY_UNLIKELY(!hn::AllFalse(df, any))) {
      v0 = hn::IfThenElse(hn::IsNaN(v0), nan, v0);
      v1 = hn::IfThenElse(hn::IsNaN(v1), nan, v1);
      v2 = hn::IfThenElse(hn::IsNaN(v2), nan, v2);
      v3 = hn::IfThenElse(hn::IsNaN(v3), nan, v3);
      StoreAs2<T, kStream>(df, v0, v1, to);
      StoreAs2<T, kStream>(df, v2, v3, to + 2 * lanes * sizeof(T));
    } else {
      StoreAs2<Stored, kStream>(df, v0, v1, to);
      StoreAs2<Stored, kStream>(df, v2, v3, to + 2 * lanes * sizeof(T));
    }
    from += 4 * lanes * sizeof(From);
    to += 4 * lanes * sizeof(T);
  }
  for (; n >= lanes; n -= lanes) {
    const auto v = LoadAs<From>(df, from);
    StoreAs<T>(df, hn::IfThenElse(hn::IsNaN(v), nan, v), to);
    from += lanes * sizeof(From);
    to += lanes * sizeof(T);
  }
  for (; n > 0; --n) {
    StoreScalar<T>(LoadScalar<From>(from), to);
    from += sizeof(From);
    to += sizeof(T);
  }
}

template <typename T>
HWY_NOINLINE void ConvertBlock(const uint8_t* from, size_t n, uint8_t* to) {
  Convert<float, T>(from, n, to);
}

// The kernel of a plain type: values of its own type are copied.
template <typename From, typename T, bool kStream>
HWY_INLINE void Plain(const uint8_t* HWY_RESTRICT from, size_t n,
                      uint8_t* HWY_RESTRICT to) {
  if constexpr (std::is_same_v<From, T>) {
    std::memcpy(to, from, n * sizeof(T));
  } else {
    Convert<From, T, kStream>(from, n, to);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace dequant
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
