// TQ1_0: 256 weights in 54 bytes, 1.6875 bits per weight, ternary: a byte is
// the fraction byte / 256 of five base-3 digits, the first the highest.
//
//   byte 0    qs  32 bytes: elements 32 n + i are digit n of byte i; then 16
//                 bytes: elements 160 + 16 n + i are digit n of byte 32 + i
//   byte 48   qh  4 bytes: elements 240 + 4 n + i are digit n of byte i
//   byte 52   d   F16 scale
//
//   value = d * (digit - 1), digit n = (byte * 3^n mod 256) * 3 / 256
//
// Source: block_tq1_0 in ggml-common.h, dequantize_row_tq1_0 in ggml-quants.c.

#include "kernels/unpack-inl.h"

#ifndef DEQUANT_KERNELS_TQ1_0_CC_
#define DEQUANT_KERNELS_TQ1_0_CC_
namespace dequant {

struct TQ1_0 {
  static constexpr char kName[] = "TQ1_0";
  static constexpr int32_t kId = 34;
  static constexpr size_t kElements = 256;
  static constexpr ScaleField kScales[] = {{ScaleField::kF16, 52}};

  uint8_t qs[48];
  uint8_t qh[4];
  uint8_t d[2];

  static void Decode(const TQ1_0& b, float* y) {
    constexpr int kPowers[5] = {1, 3, 9, 27, 81};
    const float d = F16ToF32(b.d);
    for (int i = 0; i < 256; ++i) {
      uint8_t byte;
      int n;
      if (i < 160) {
        byte = b.qs[i % 32], n = i / 32;
      } else if (i < 240) {
        byte = b.qs[32 + i % 16], n = (i - 160) / 16;
      } else {
        byte = b.qh[i % 4], n = (i - 240) / 4;
      }
      const int digit = (byte * kPowers[n] & 255) * 3 >> 8;
      y[i] = static_cast<float>(digit - 1) * d;
    }
  }
};
static_assert(sizeof(TQ1_0) == 54);

}  // namespace dequant
#endif

HWY_BEFORE_NAMESPACE();
namespace dequant {
namespace HWY_NAMESPACE {

#if DEQUANT_HAS_VBMI
// The digits of each byte, the first four of them and the fifth: 2 bits each.
struct DigitTables {
  alignas(64) uint8_t four[256];
  alignas(64) uint8_t fifth[256];
  constexpr DigitTables() : four{}, fifth{} {
    for (int i = 0; i < 256; ++i) {
      int byte = i;
      for (int n = 0; n < 5; ++n) {
        const int digit = byte * 3 >> 8;
        if (n < 4) four[i] = static_cast<uint8_t>(four[i] | digit << 2 * n);
        if (n == 4) fifth[i] = static_cast<uint8_t>(digit);
        byte = byte * 3 & 255;
      }
    }
  }
};
inline constexpr DigitTables kDigits;

// Which byte and which of its digits each lane of a vector of values gets.
struct Place {
  int byte, digit;
};
template <typename Lane>
struct Places {
  alignas(64) uint8_t byte[64];
  alignas(64) Lane shift[64 / sizeof(Lane)];
  template <class Fn>
  constexpr explicit Places(const Fn& place) : byte{}, shift{} {
    for (int i = 0; i < static_cast<int>(64 / sizeof(Lane)); ++i) {
      byte[i * sizeof(Lane)] = static_cast<uint8_t>(place(i).byte);
      shift[i] = static_cast<Lane>(2 * place(i).digit);
    }
  }
};
#endif

template <>
struct Unpack<TQ1_0> {
#if DEQUANT_HAS_VBMI
  template <class Sink>
  HWY_INLINE static void Do(const TQ1_0& b, float d, Sink& sink) {
    using Lane = typename Sink::CodeLane;
    const hn::FixedTag<uint8_t, 64> d8;
    const hn::Repartition<Lane, decltype(d8)> dl;
    const U8x64 bytes = hn::MaskedLoad(hn::FirstN(d8, 52), d8, b.qs);
    const U8x64 four = LookUp256(kDigits.four, bytes);
    const U8x64 fifth = LookUp256(kDigits.fifth, bytes);
    const auto values = Sink::ValuesOfFour(Minus1(), d);
    const auto widened = [&](const Places<Lane>& at, U8x64 v) DEQUANT_LAMBDA {
      const auto index = hn::SetTableIndices(d8, at.byte);
      return hn::BitCast(dl, hn::TableLookupLanes(v, index));
    };
    const auto put = [&](auto... lanes) DEQUANT_LAMBDA {
      (sink.PutLanes(lanes, values), ...);
    };
    const auto put_four = [&](auto... lanes) DEQUANT_LAMBDA {
      put(lanes...);
      put(hn::ShiftRight<2>(lanes)...);
      put(hn::ShiftRight<4>(lanes)...);
      put(hn::ShiftRight<6>(lanes)...);
    };
    if constexpr (sizeof(Lane) == 4) {
      static constexpr Places<Lane> k0([](int i) { return Place{i, 0}; });
      static constexpr Places<Lane> k16([](int i) { return Place{16 + i, 0}; });
      static constexpr Places<Lane> k32([](int i) { return Place{32 + i, 0}; });
      static constexpr Places<Lane> kTail([](int i) {
        return Place{48 + i % 4, i / 4};
      });
      put_four(widened(k0, four), widened(k16, four));
      put(widened(k0, fifth), widened(k16, fifth));
      put_four(widened(k32, four));
      put(widened(k32, fifth));
      put(hn::Shr(widened(kTail, four), hn::Load(dl, kTail.shift)));
    } else {
      static constexpr Places<Lane> k0([](int i) { return Place{i, 0}; });
      static constexpr Places<Lane> k32([](int i) {
        return Place{32 + i % 16, i / 16};
      });
      // The fifth digits, which are in the second vector, then the tail.
      static constexpr Places<Lane> kLast([](int i) {
        return i < 16 ? Place{64 + 32 + i, 0} : Place{48 + i % 4, i / 4 - 4};
      });
      put_four(widened(k0, four));
      put(widened(k0, fifth));
      const auto two = hn::Shr(widened(k32, four), hn::Load(dl, k32.shift));
      put(two, hn::ShiftRight<4>(two));
      const auto last = hn::TwoTablesLookupLanes(
          d8, four, fifth, hn::SetTableIndices(d8, kLast.byte));
      put(hn::Shr(hn::BitCast(dl, last), hn::Load(dl, kLast.shift)));
    }
  }
#else
  template <class Sink>
  HWY_INLINE static void Do(const TQ1_0& b, float d, Sink& sink) {
    if constexpr (requires { typename Sink::LookedUpRow; }) {
      Digits<5>(d, sink, LoadCodes(typename Sink::LookedUpRow(), b.qs));
    } else {
      Digits<5>(d, sink, LoadCodes(b.qs), LoadCodes(b.qs + 16));
    }
    const Codes v0 = LoadCodes(b.qs + 32), v1 = Next(v0), v2 = Next(v1);
    const Codes v3 = Next(v2), v4 = Next(v3);
    Digits<1>(d, sink, v0, v1);
    Digits<1>(d, sink, v2, v3);
    Digits<1>(d, sink, v4, LoadTail(b.qh));
  }

  // The kCount uppermost digits of 32 bytes, in one vector or two.
  template <int kCount, class Sink, class... V>
  HWY_INLINE static void Digits(float d, Sink& sink, V... v) {
    if constexpr (requires { sink.Thirds(d, v...); }) {
      sink.Thirds(d, v...);
    } else {
      sink.template TwoBitsOfMany<6>(Minus1(), d, Digit(v)...);
    }
    if constexpr (kCount > 1) Digits<kCount - 1>(d, sink, Next(v)...);
  }

  // byte * 3 mod 256: the next digit moves up.
  template <class V>
  HWY_INLINE static V Next(V v) {
    return hn::Add(hn::Add(v, v), v);
  }

  // byte * 3 / 256 in bits 6-7: about byte * 3 / 4. Less 1, the first bytes of
  // the digits 1 and 2 are 86 and 171, as they must be.
  template <class V>
  HWY_INLINE static V Digit(V v) {
    const V less1 = hn::SaturatedSub(v, hn::Set(hn::DFromV<V>(), 1));
    return hn::Sub(less1, Field<2, 6>(less1));
  }

  // The four bytes of qh, then those with the next digits 1, 2 and 3 on top.
  HWY_INLINE static Codes LoadTail(const uint8_t* qh) {
    const hn::Repartition<uint32_t, decltype(dcodes)> du32;
    const hn::Repartition<uint64_t, decltype(dcodes)> du64;
    const Codes v0 = hn::BitCast(dcodes, hn::Set(du32, Load32(qh)));
    const Codes v01 = hn::BitCast(
        dcodes,
        hn::OddEven(hn::BitCast(du32, Next(v0)), hn::BitCast(du32, v0)));
    const Codes v23 = Next(Next(v01));
    return hn::BitCast(
        dcodes, hn::OddEven(hn::BitCast(du64, v23), hn::BitCast(du64, v01)));
  }
#endif
};

}  // namespace HWY_NAMESPACE
}  // namespace dequant
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dequant {
template const Format& FormatOf<TQ1_0>();
}  // namespace dequant
#endif
