#include <windows.h>

#include "src/cli/system.h"
// After it, because it needs its types.
#include <shellapi.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <memory>

#include "src/file/win32.h"

namespace dequant::cli {
std::vector<std::string> StartProgram(int argc, char** argv) {
  // Names are printed as UTF-8. The console outlives the program, and its next
  // one may count on what it was.
  static const UINT code_page = ::GetConsoleOutputCP();
  if (::SetConsoleOutputCP(CP_UTF8)) {
    std::atexit([] { ::SetConsoleOutputCP(code_page); });
  }
  // In argv what the system's code page lacks is lost.
  int n = 0;
  const std::unique_ptr<wchar_t*, HLOCAL (*)(HLOCAL)> wide(
      ::CommandLineToArgvW(::GetCommandLineW(), &n), ::LocalFree);
  if (!wide) return {argv + std::min(argc, 1), argv + argc};
  std::vector<std::string> args;
  for (int i = 1; i < n; ++i) args.push_back(Utf8(wide.get()[i]));
  return args;
}

void OnStopSignals(void (*handler)(int)) {
  // The runtime forgets a handler once it has called it. Ctrl-Break is also
  // what a closed window and the end of a session become.
  for (const int signal : {SIGINT, SIGTERM, SIGBREAK}) {
    std::signal(signal, handler);
  }
}

bool StderrIsTerminal() {
  const HANDLE console = ::GetStdHandle(STD_ERROR_HANDLE);
  DWORD mode = 0;
  return ::GetConsoleMode(console, &mode) &&
         ::SetConsoleMode(console, mode | ENABLE_VIRTUAL_TERMINAL_PROCESSING);
}

}  // namespace dequant::cli
