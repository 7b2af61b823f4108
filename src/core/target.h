// Which of the compiled targets runs.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace dequant {

extern std::atomic<int> target_index;
bool ChooseTargetOnce();

inline bool IsTargetChosen() { return target_index >= 0; }

/// Makes Highway choose: what SetTarget() or DEQUANT_TARGET names, else the
/// best. Called before a kernel is picked. False if DEQUANT_TARGET names a
/// target that this CPU or build lacks.
inline bool ChooseTarget() { return IsTargetChosen() || ChooseTargetOnce(); }

/// Highway's index of the target that was chosen, which must be one.
inline size_t TargetIndex() { return static_cast<size_t>(target_index.load()); }

/// Why ChooseTarget() is false; empty if it is not. Lives as long as the
/// process.
const char* TargetError();

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
