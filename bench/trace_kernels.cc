// trace_kernels [FORMAT]: runs every kernel, or those of one format, under an
// emulator that logs each instruction.
// scripts/estimate starts it, and reads the log. Our own lines in it begin with
// "kernel": a write appears where it belongs, between two instructions.

#include <link.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "bench/blocks.h"
#include "bench/machine.h"
#include "dequant/dequant.h"
#include "src/core/registry.h"

namespace {

void Say(const std::string& line) {
  const std::string text = "kernel " + line + "\n";
  if (write(STDERR_FILENO, text.data(), text.size()) < 0) _exit(1);
}

// Where the code stands: the log has addresses.
int SayObject(dl_phdr_info* info, size_t, void*) {
  char text[4096];
  const bool is_program = info->dlpi_name[0] == '\0';
  std::snprintf(text, sizeof(text), "object %llx %s",
                static_cast<unsigned long long>(info->dlpi_addr),
                is_program ? "-" : info->dlpi_name);
  Say(text);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  using namespace dequant;
  // Batches of 8 blocks: enough of them that some are surely neither the first
  // nor the last.
  constexpr int64_t kBlocks = 32;
  constexpr int64_t kPlainElements = 1024;
  dl_iterate_phdr(SayObject, nullptr);
  Say(std::string("target ") + std::string(Target()));
  Say("compiler " + bench::CompilerName());
  for (const Format* format : Formats()) {
    const TypeInfo& type = format->type;
    if (argc > 1 && type.name != argv[1]) continue;
    const bool is_plain = type.block_elements == 1;
    const int64_t n = is_plain ? kPlainElements : kBlocks * type.block_elements;
    const auto blocks = static_cast<size_t>(2 * n / type.block_elements);
    std::vector<uint8_t> src(blocks * static_cast<size_t>(type.block_bytes));
    std::vector<uint8_t> dst(static_cast<size_t>(2 * n) * sizeof(float));
    bench::FillBlocks(*format, blocks, src.data());
    for (DType out : {DType::kF32, DType::kF16, DType::kBF16}) {
      // A copy of the same type is memcpy: not our instructions.
      if (type.name == Name(out)) continue;
      // The difference of both is n elements without the start and the end.
      for (int64_t elements : {n, 2 * n}) {
        Say("run " + std::string(type.name) + " " + std::string(Name(out)) +
            " " + std::to_string(elements));
        const Status status =
            Dequantize(type.id, src.data(), out, dst.data(), elements, 1);
        Say("end");
        if (status != Status::kOk) {
          std::fprintf(stderr, "trace_kernels: %s\n", ErrorString(status));
          return 1;
        }
      }
    }
  }
  return 0;
}
