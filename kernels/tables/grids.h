// The grids of the IQ1, IQ2 and IQ3 formats, once in the binary. An entry is a
// row: the bytes of 8 (IQ3: 4) neighbours, the first lowest. They are data of
// ggml, see grids.cc.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace dequant {

template <typename Row, int kIndexBits>
using Grid = std::array<Row, size_t{1} << kIndexBits>;

extern const Grid<uint64_t, 8> kGridIq2xxs;
extern const Grid<uint64_t, 9> kGridIq2xs;
extern const Grid<uint64_t, 10> kGridIq2s;
extern const Grid<uint32_t, 8> kGridIq3xxs;
extern const Grid<uint32_t, 9> kGridIq3s;
/// Shared by IQ1_S and IQ1_M; 8 times ggml's values, so that their offsets of
/// +-1/8 are whole numbers as well.
extern const Grid<uint64_t, 11> kGridIq1;
/// The same as codes for tables of values, in bits 2 and 3 of each byte: 0, 1
/// and 3 stand for 0, 8 and -8, and 2, the opposite of 0, for 0 as well.
extern const Grid<uint64_t, 11> kGridIq1Codes;

/// Rows of 8 as codes, 2 bits each, the first lowest: IQ2's 0 to 2 stand for 8,
/// 25, 43, IQ1's for -8, 0, 8.
extern const Grid<uint16_t, 8> kPackedIq2xxs;
extern const Grid<uint16_t, 9> kPackedIq2xs;
/// From 2048 on, the opposite of each row.
extern const Grid<uint16_t, 12> kPackedIq1;

/// Rows of 4 as codes, for look-ups of bytes: [j][i] are those of the values 2
/// j and 2 j + 1 of row i, 4 bits each.
template <int kIndexBits>
struct alignas(64) GridPairs {
  uint8_t of[2][size_t{1} << kIndexBits];
};
extern const GridPairs<8> kPairsIq3xxs;
extern const GridPairs<9> kPairsIq3s;

}  // namespace dequant
