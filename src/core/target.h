// Which of the compiled targets runs.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace dequant {

/// Makes Highway choose: what SetTarget() or DEQUANT_TARGET names, else the
/// best. Called before a kernel is picked. False if DEQUANT_TARGET names a
/// target that this CPU or build lacks; then `error`, if given, says so.
bool ChooseTarget(std::string* error = nullptr);

/// Every target that kernels were compiled for, best first, whether this CPU
/// has it or not.
std::vector<std::string> CompiledTargets();

/// Restores on destruction the target in use at construction.
class ScopedTarget {
 public:
  ScopedTarget();
  ~ScopedTarget();
  ScopedTarget(const ScopedTarget&) = delete;
  ScopedTarget& operator=(const ScopedTarget&) = delete;

 private:
  std::string name_;
};

}  // namespace dequant
