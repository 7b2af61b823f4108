#include "src/core/block_gen.h"

#include <algorithm>
#include <cstring>
#include <random>

#include "kernels/scalar.h"

namespace dequant {
namespace {

// F16: zeros, the smallest and largest subnormals, one, the largest, Inf, and
// quiet and signalling NaN.
constexpr uint16_t kHostileHalfs[] = {
    0x0000, 0x8000, 0x0001, 0x8001, 0x03FF, 0x83FF, 0x0400, 0x3C00, 0xBC00,
    0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7C01, 0x7E00, 0xFE00, 0xFFFF};

}  // namespace

std::string_view Name(Pattern p) {
  switch (p) {
    case Pattern::kRandom:
      return "random";
    case Pattern::kZeros:
      return "zeros";
    case Pattern::kOnes:
      return "ones";
    case Pattern::kFinite:
      return "finite";
    case Pattern::kUsual:
      return "usual";
    case Pattern::kPositive:
      return "positive";
    case Pattern::kNormal:
      return "normal";
    case Pattern::kHostile:
      return "hostile";
  }
  return "?";
}

void SetScale(const ScaleField& field, uint16_t bits, uint8_t* block) {
  uint8_t* p = block + field.offset;
  switch (field.kind) {
    case ScaleField::kF16:
      std::memcpy(p, &bits, sizeof(bits));
      break;
    case ScaleField::kF32: {
      const float f = F16ToF32(bits);
      std::memcpy(p, &f, sizeof(f));
      break;
    }
    case ScaleField::kF16InTopNibbles:
      for (int i = 0; i < 4; ++i) {
        uint8_t& top = p[2 * i + 1];
        top = static_cast<uint8_t>((top & 15) | (bits >> (4 * i) & 15) << 4);
      }
      break;
  }
}

std::vector<uint8_t> MakeBlocks(const Format& format, Pattern pattern,
                                size_t blocks, uint64_t seed) {
  const auto size = static_cast<size_t>(format.type.block_bytes);
  std::vector<uint8_t> bytes(blocks * size);
  if (pattern == Pattern::kZeros) return bytes;
  if (pattern == Pattern::kOnes) {
    std::memset(bytes.data(), 0xFF, bytes.size());
    return bytes;
  }
  std::mt19937_64 random(seed);
  for (size_t i = 0; i < bytes.size(); i += sizeof(uint64_t)) {
    const uint64_t word = random();
    std::memcpy(&bytes[i], &word, std::min(sizeof(word), bytes.size() - i));
  }
  if (pattern == Pattern::kRandom) return bytes;
  for (size_t i = 0; i < blocks; ++i) {
    for (const ScaleField& field : format.scales) {
      uint16_t half = kHostileHalfs[random() % std::size(kHostileHalfs)];
      if (pattern == Pattern::kFinite) {
        do {
          half = static_cast<uint16_t>(random());
        } while (!IsFiniteF16(half));
      }
      if (pattern == Pattern::kUsual) {
        half = static_cast<uint16_t>(random());
        half =
            static_cast<uint16_t>((half & 0x8000) | (half & 0x7FFF) % 0x2400);
      }
      if (pattern == Pattern::kPositive) {
        half = static_cast<uint16_t>(1 + random() % 0x7BFF);
      }
      if (pattern == Pattern::kNormal) {
        half = static_cast<uint16_t>(random());
        half = static_cast<uint16_t>((half & 0x8000) |
                                     (0x0400 + (half & 0x7FFF) % 0x2800));
      }
      SetScale(field, half, bytes.data() + i * size);
    }
  }
  return bytes;
}

std::vector<uint8_t> Expected(const Format& format, DType out,
                              std::span<const uint8_t> src) {
  if (format.type.id == static_cast<int32_t>(out)) {
    return {src.begin(), src.end()};
  }
  const auto size = static_cast<size_t>(format.type.block_bytes);
  const auto elements = static_cast<size_t>(format.type.block_elements);
  const size_t blocks = src.size() / size;
  std::vector<uint8_t> bytes(blocks * elements * SizeOf(out));
  std::vector<float> values(elements);
  uint8_t* to = bytes.data();
  for (size_t i = 0; i < blocks; ++i) {
    format.decode(src.data() + i * size, values.data());
    for (float f : values) {
      if (out == DType::kF32) {
        const uint32_t bits = f != f ? 0x7FC00000 : std::bit_cast<uint32_t>(f);
        std::memcpy(to, &bits, sizeof(bits));
      } else {
        const uint16_t bits = out == DType::kF16 ? F32ToF16(f) : F32ToBf16(f);
        std::memcpy(to, &bits, sizeof(bits));
      }
      to += SizeOf(out);
    }
  }
  return bytes;
}

}  // namespace dequant
