// Every format x output x target against the scalar reference.
#pragma once

#include <ostream>

namespace dequant {

/// Runs the kernels of every target that this CPU has and prints a table.
/// False if a bit differs, or if a target was skipped that was compiled and
/// that this CPU has. Leaves the target as it was.
bool Selftest(std::ostream& out);

}  // namespace dequant
