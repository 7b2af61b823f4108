// trace_kernels [--step] [FORMAT]: runs every kernel, or those of one format,
// under an emulator that logs each instruction, or with --step logs them
// itself. scripts/estimate starts it, and reads the log. Our own lines in it
// begin with "kernel": a write appears where it belongs, between two
// instructions.

#include <link.h>
#include <signal.h>
#include <ucontext.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "bench/blocks.h"
#include "bench/machine.h"
#include "dequant/dequant.h"
#include "src/core/registry.h"

namespace {

void Write(std::string_view text) {
  while (!text.empty()) {
    const ssize_t n = write(STDERR_FILENO, text.data(), text.size());
    if (n < 0) _exit(1);
    text.remove_prefix(static_cast<size_t>(n));
  }
}

void Say(const std::string& line) { Write("kernel " + line + "\n"); }

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

#ifdef __x86_64__

// Where the program was before each instruction. Only a fraction of this is
// ever touched; a signal handler can't ask for more.
constexpr size_t kMostSteps = size_t{1} << 22;
uintptr_t* g_steps;
size_t g_step_count = 0;

// SIGUSR1 turns the trap flag of the CPU on or off. While it is on, SIGTRAP
// comes after each instruction of the program, though not in here.
void OnSignal(int signal, siginfo_t*, void* context) {
  constexpr greg_t kTrapFlag = 0x100;
  greg_t* registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
  if (signal == SIGUSR1) {
    registers[REG_EFL] ^= kTrapFlag;
  } else if (g_step_count < kMostSteps) {
    g_steps[g_step_count++] = static_cast<uintptr_t>(registers[REG_RIP]);
  } else {
    _exit(1);
  }
}

bool PrepareSteps() {
  static const std::unique_ptr<uintptr_t[]> steps(new uintptr_t[kMostSteps]);
  g_steps = steps.get();
  struct sigaction action = {};
  action.sa_sigaction = OnSignal;
  action.sa_flags = SA_SIGINFO;
  return sigaction(SIGTRAP, &action, nullptr) == 0 &&
         sigaction(SIGUSR1, &action, nullptr) == 0;
}

// The signal comes before kill() returns; raise() may block SIGTRAP.
void ToggleSteps() { kill(getpid(), SIGUSR1); }

// As QEMU logs them.
void SaySteps() {
  std::string text;
  char line[40];
  for (size_t i = 0; i < g_step_count; ++i) {
    std::snprintf(line, sizeof(line), "Trace 0: - [0/%llx/]\n",
                  static_cast<unsigned long long>(g_steps[i]));
    text += line;
  }
  g_step_count = 0;
  Write(text);
}

#else

bool PrepareSteps() { return false; }
void ToggleSteps() {}
void SaySteps() {}

#endif

}  // namespace

int main(int argc, char** argv) {
  using namespace dequant;
  // Batches of 8 blocks: enough of them that most are neither the first nor the
  // last ones.
  constexpr int64_t kBlocks = 64;
  constexpr int64_t kPlainElements = 1024;
  const bool steps = argc > 1 && std::strcmp(argv[1], "--step") == 0;
  const char* only = argc > 1 + steps ? argv[1 + steps] : nullptr;
  if (steps && !PrepareSteps()) {
    std::fprintf(stderr, "trace_kernels: no --step on this kind of CPU\n");
    return 1;
  }
  dl_iterate_phdr(SayObject, nullptr);
  Say(std::string("target ") + std::string(Target()));
  Say("compiler " + bench::CompilerName());
  for (const Format* format : Formats()) {
    const TypeInfo& type = format->type;
    if (only != nullptr && type.name != only) continue;
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
        const int64_t bytes = elements / type.block_elements * type.block_bytes;
        Say("run " + std::string(type.name) + " " + std::string(Name(out)) +
            " " + std::to_string(elements) + " " + std::to_string(bytes));
        if (steps) ToggleSteps();
        const Status status =
            Dequantize(type.id, src.data(), out, dst.data(), elements, 1);
        if (steps) ToggleSteps();
        SaySteps();
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
