#include "bench/blocks.h"

#include <algorithm>
#include <cstring>
#include <random>
#include <string_view>

#include "src/core/block_gen.h"

namespace dequant::bench {
namespace {

constexpr size_t kPoolBytes = 1 << 20;

// Scales that are bytes, so that no ScaleField names them: `count` bytes at the
// start of the block, from `low` on in a range of 16.
struct ByteScale {
  std::string_view format;
  size_t count;
  uint8_t low;
};
constexpr ByteScale kByteScales[] = {
    {"MXFP4", 1, 112},  // powers of two: 2^-15 to 1
    {"NVFP4", 4, 32},   // 3 mantissa bits: 2^-3 to 2^-1
};

// Super-blocks with one scale.
constexpr std::string_view kWithoutGroups[] = {"Q8_K", "TQ1_0", "TQ2_0"};

// A positive half: of a block from 2^-10 to 2^-5; of a super-block whose groups
// have codes of scales as well, from 2^-16 to 2^-11, a fifth subnormal.
uint16_t UsualScale(const Format& format, std::mt19937_64& random) {
  if (format.type.block_elements < 256 ||
      std::ranges::count(kWithoutGroups, format.type.name) > 0) {
    return static_cast<uint16_t>(0x1400 + random() % 0x1400);
  }
  return static_cast<uint16_t>(0x0100 + random() % 0x0F00);
}

void SetScales(const Format& format, std::mt19937_64& random, uint8_t* block) {
  for (const ScaleField& field : format.scales) {
    SetScale(field, UsualScale(format, random), block);
  }
  for (const ByteScale& s : kByteScales) {
    if (s.format != format.type.name) continue;
    for (size_t i = 0; i < s.count; ++i) {
      block[i] = static_cast<uint8_t>(s.low + block[i] % 16);
    }
  }
}

// A plain type: any sign and mantissa, a usual exponent.
void SetExponent(const Format& format, uint8_t* value) {
  uint8_t& top = value[format.type.block_bytes - 1];
  const bool is_half = format.type.name == "F16";
  top = static_cast<uint8_t>((top & 0x83) | (is_half ? 0x2C : 0x3C));
}

}  // namespace

void FillBlocks(const Format& format, size_t blocks, uint8_t* to) {
  const auto size = static_cast<size_t>(format.type.block_bytes);
  const size_t bytes = blocks * size;
  const size_t pool = std::min(bytes, kPoolBytes / size * size);
  std::mt19937_64 random(1);
  size_t i = 0;
  for (; i + 8 <= pool; i += 8) {
    const uint64_t word = random();
    std::memcpy(to + i, &word, 8);
  }
  for (; i < pool; ++i) to[i] = static_cast<uint8_t>(random());
  for (i = 0; i < pool; i += size) {
    if (format.type.kind == TypeKind::kFloat) {
      SetExponent(format, to + i);
    } else {
      SetScales(format, random, to + i);
    }
  }
  for (i = pool; i < bytes; i += pool) {
    std::memcpy(to + i, to, std::min(pool, bytes - i));
  }
}

}  // namespace dequant::bench
