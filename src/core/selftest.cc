#include "src/core/selftest.h"

#include <algorithm>
#include <cstring>
#include <iomanip>
#include <string>
#include <vector>

#include "dequant/dequant.h"
#include "src/core/block_gen.h"
#include "src/core/registry.h"
#include "src/core/target.h"

namespace dequant {
namespace {

constexpr DType kOutputs[] = {DType::kF32, DType::kF16, DType::kBF16};
constexpr size_t kElementsPerPattern = 16384;

struct Tally {
  uint64_t values = 0;
  uint64_t wrong = 0;
};

// All patterns of one format as one output type, on the target in use.
Tally Check(const Format& format, DType out) {
  Tally tally;
  // An odd count, so that no loop over several blocks comes out even.
  const size_t blocks =
      kElementsPerPattern / static_cast<size_t>(format.type.block_elements) + 1;
  for (Pattern pattern : kPatterns) {
    const auto src = MakeBlocks(format, pattern, blocks, 1);
    const auto want = Expected(format, out, src);
    std::vector<uint8_t> got(want.size());
    const size_t n = want.size() / SizeOf(out);
    const Status status = Dequantize(format.type.id, src.data(), out,
                                     got.data(), static_cast<int64_t>(n), 1);
    tally.values += n;
    for (size_t i = 0; i < n; ++i) {
      tally.wrong += status != Status::kOk ||
                     std::memcmp(&want[i * SizeOf(out)], &got[i * SizeOf(out)],
                                 SizeOf(out)) != 0;
    }
  }
  return tally;
}

// Prints one target's part of the table; returns the number of wrong values.
uint64_t CheckTarget(const std::string& target, std::ostream& out) {
  out << target << "\n";
  uint64_t wrong = 0, values = 0;
  for (const Format* format : Formats()) {
    out << "  " << std::left << std::setw(10) << format->type.name;
    for (DType dtype : kOutputs) {
      const Tally tally = Check(*format, dtype);
      out << std::setw(5) << Name(dtype);
      if (tally.wrong == 0) {
        out << std::setw(12) << "ok";
      } else {
        out << std::setw(12) << std::to_string(tally.wrong) + " wrong";
      }
      wrong += tally.wrong;
      values += tally.values;
    }
    out << "\n";
  }
  out << "  " << values << " values, " << wrong << " wrong\n";
  return wrong;
}

}  // namespace

bool Selftest(std::ostream& out) {
  const ScopedTarget restore;
  const std::vector<std::string> present = Targets();
  uint64_t wrong = 0;
  std::vector<std::string> tested;
  for (const std::string& target : present) {
    // What Dequantize will use, not what was asked for, is what was tested.
    if (!SetTarget(target) || Target() != target) continue;
    wrong += CheckTarget(target, out);
    tested.push_back(target);
  }

  out << "tested:";
  for (const std::string& t : tested) out << " " << t;
  out << "\n";
  for (const std::string& t : CompiledTargets()) {
    if (std::find(present.begin(), present.end(), t) == present.end()) {
      out << "not on this CPU: " << t << "\n";
    }
  }
  const bool skipped = tested != present;
  if (skipped) out << "FAILED: a target of this CPU was skipped\n";
  if (wrong != 0) out << "FAILED: " << wrong << " wrong values\n";
  if (!skipped && wrong == 0) {
    out << "ok: " << Formats().size() << " formats x " << std::size(kOutputs)
        << " outputs x " << tested.size() << " targets\n";
  }
  return !skipped && wrong == 0;
}

}  // namespace dequant
