// Which of the compiled targets runs.
#pragma once

#include <string>

namespace dequant {

/// Makes Highway choose: what SetTarget() or DEQUANT_TARGET names, else the
/// best. Called before a kernel is picked. False if DEQUANT_TARGET names a
/// target that this CPU or build lacks; then `error`, if given, says so.
bool ChooseTarget(std::string* error = nullptr);

}  // namespace dequant
