// The code tables of the 4-bit formats: data of ggml (MIT, see THIRD_PARTY.md),
// kvalues_iq4nl and kvalues_mxfp4 in ggml-common.h.
#pragma once

#include <cstdint>

namespace dequant {

/// IQ4_NL and IQ4_XS.
inline constexpr int8_t kValuesIq4nl[16] = {
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

/// MXFP4 and NVFP4: E2M1 values times two.
inline constexpr int8_t kValuesFp4[16] = {0, 1,  2,  3,  4,  6,  8,  12,
                                          0, -1, -2, -3, -4, -6, -8, -12};

}  // namespace dequant
