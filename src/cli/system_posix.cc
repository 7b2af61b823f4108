#include <unistd.h>

#include <algorithm>
#include <csignal>

#include "src/cli/system.h"

namespace dequant::cli {
std::vector<std::string> StartProgram(int argc, char** argv) {
  // A file over the limit of `ulimit -f` shall be an error with a message.
  std::signal(SIGXFSZ, SIG_IGN);
  return {argv + std::min(argc, 1), argv + argc};
}

void OnStopSignals(void (*handler)(int)) {
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    struct sigaction action = {}, old = {};
    action.sa_handler = handler;
    action.sa_flags = static_cast<int>(SA_RESTART | SA_RESETHAND);
    // Under nohup SIGHUP stays ignored.
    if (::sigaction(signal, nullptr, &old) == 0 && old.sa_handler != SIG_IGN) {
      ::sigaction(signal, &action, nullptr);
    }
  }
}

bool StderrIsTerminal() { return ::isatty(STDERR_FILENO) == 1; }

}  // namespace dequant::cli
