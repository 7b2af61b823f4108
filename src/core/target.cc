#include "src/core/target.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <functional>
#include <string_view>

#include "dequant/dequant.h"
#include "hwy/targets.h"

namespace dequant {
namespace {

// In Highway's mask a lower bit is a better target. But where SVE's vectors are
// no longer than NEON's, NEON needs fewer instructions: see
// docs/bench/estimates.md.
std::vector<int64_t> BestFirst(std::vector<int64_t> targets) {
  const auto is_sve = [](int64_t t) { return (t & HWY_ALL_SVE) != 0; };
  if (std::count(targets.begin(), targets.end(), HWY_SVE2_128) > 0) {
    std::stable_partition(targets.begin(), targets.end(), std::not_fn(is_sve));
  }
  return targets;
}

// The targets that kernels were compiled for and this CPU has, best first.
// Asked once, because SupportedTargets() also chooses the best.
const std::vector<int64_t>& Usable() {
  static const std::vector<int64_t> usable =
      BestFirst(hwy::SupportedAndGeneratedTargets());
  return usable;
}

int64_t Named(std::string_view name) {
  for (int64_t t : Usable()) {
    if (name == hwy::TargetName(t)) return t;
  }
  return 0;
}

// The index of a target in Highway's tables.
int IndexOf([[maybe_unused]] int64_t target) {
#if (HWY_TARGETS & (HWY_TARGETS - 1)) == 0
  return 0;  // the only one
#else
  hwy::ChosenTarget only;
  only.Update(target);
  return static_cast<int>(only.GetIndex());
#endif
}

// For kernels, and for what Highway dispatches itself.
void Choose(int64_t target) {
  hwy::GetChosenTarget().Update(target);
  target_index = IndexOf(target);
}

// Chooses what DEQUANT_TARGET names, else the best; the error, if it names
// none.
std::string ChooseByEnvironment() {
  const char* wanted = std::getenv("DEQUANT_TARGET");
  const bool any = wanted == nullptr || *wanted == '\0';
  if (const int64_t t = any ? Usable().front() : Named(wanted)) {
    Choose(t);
    return "";
  }
  std::string error = std::string("DEQUANT_TARGET=") + wanted +
                      ": this CPU and build have only";
  for (const std::string& t : Targets()) error += " " + t;
  return error;
}

const std::string& EnvironmentError() {
  static const std::string error = ChooseByEnvironment();
  return error;
}

}  // namespace

std::atomic<int> target_index = -1;

bool ChooseTargetOnce() {
  EnvironmentError();
  return target_index >= 0;
}

const char* TargetError() {
  return ChooseTarget() ? "" : EnvironmentError().c_str();
}

const char* Target() {
  if (!ChooseTarget()) return TargetError();
  for (int64_t t : Usable()) {
    if (IndexOf(t) == target_index) return hwy::TargetName(t);
  }
  return "unknown";
}

std::vector<std::string> Targets() {
  std::vector<std::string> names;
  for (int64_t t : Usable()) names.emplace_back(hwy::TargetName(t));
  return names;
}

std::vector<std::string> CompiledTargets() {
  std::vector<std::string> names;
  for (int64_t left = HWY_TARGETS; left != 0; left &= left - 1) {
    names.emplace_back(hwy::TargetName(left & -left));
  }
  return names;
}

ScopedTarget::ScopedTarget() : name_(Target()) {}
ScopedTarget::~ScopedTarget() { SetTarget(name_); }

bool SetTarget(std::string_view name) {
  ChooseTarget();  // so that the environment can't overrule a later call
  const int64_t t = name.empty() ? Usable().front() : Named(name);
  if (t != 0) Choose(t);
  return t != 0;
}

}  // namespace dequant
