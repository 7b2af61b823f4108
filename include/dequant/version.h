// The one place where the version stands; CMake and pyproject read it from
// here.
#pragma once

namespace dequant {
inline constexpr char kVersion[] = "0.1.0";
}  // namespace dequant
