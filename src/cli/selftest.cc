// dequant selftest: every format x output x target against the scalar
// reference.
#include "src/core/selftest.h"

#include <iostream>

#include "src/cli/cli.h"

namespace dequant::cli {

void AddSelftest(CLI::App& app, Command* command) {
  auto* sub = app.add_subcommand(
      "selftest",
      "Check every format, output and SIMD target that this CPU runs against "
      "the scalar reference");
  sub->footer(
      "Examples:\n"
      "  dequant selftest\n"
      "  DEQUANT_TARGET=AVX2 dequant selftest");
  sub->callback(
      [command] { *command = [] { return Selftest(std::cout) ? 0 : 1; }; });
}

}  // namespace dequant::cli
