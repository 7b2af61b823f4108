// What the program asks of the system: system_posix.cc, system_windows.cc.
#pragma once

#include <string>
#include <vector>

namespace dequant::cli {

/// Once, at the start: readies the process and its terminal. Returns the
/// arguments behind the program's name, in UTF-8.
std::vector<std::string> StartProgram(int argc, char** argv);

/// The first SIGINT, SIGTERM or SIGHUP (Ctrl-C, Ctrl-Break and a closed window
/// on Windows) goes to `handler`; a second one kills.
void OnStopSignals(void (*handler)(int));

/// Whether stderr is a terminal that knows escape sequences.
bool StderrIsTerminal();

}  // namespace dequant::cli
