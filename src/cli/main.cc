// The program `dequant`. Exit codes: 0 done, 1 error, 2 wrong usage, 128 + n
// stopped by signal n.
#include <iostream>
#include <new>

#include "dequant/version.h"
#include "src/cli/cli.h"
#include "src/cli/system.h"

namespace dequant::cli {
namespace {

constexpr int kError = 1, kUsage = 2;

int Run(const std::vector<std::string>& args) {
  CLI::App app("GGUF files back into dense tensors, on a CPU.", "dequant");
  app.set_version_flag("--version", std::string("dequant ") + kVersion);
  app.add_flag_callback(
      "--targets",
      [] {
        for (const std::string& name : Targets()) std::cout << name << "\n";
        throw CLI::Success();
      },
      "List the SIMD targets that this CPU runs, best first, and exit");
  app.require_subcommand(1);
  app.footer(
      "DEQUANT_TARGET=AVX2 (or another Highway target) forces a SIMD target.\n"
      "`dequant COMMAND --help` shows options and examples.");
  Command command;
  AddInfo(app, &command);
  AddConvert(app, &command);
  AddVerify(app, &command);
  AddSelftest(app, &command);
  AddFormats(app, &command);
  try {
    // It wants the last one first.
    app.parse(std::vector<std::string>(args.rbegin(), args.rend()));
  } catch (const CLI::ParseError& e) {
    if (e.get_exit_code() == 0) return app.exit(e);  // --help, --version
    const auto chosen = app.get_subcommands();
    const bool unknown =
        chosen.empty() && !args.empty() && !args[0].starts_with('-');
    std::cerr << "dequant: "
              << (unknown ? "there is no subcommand '" + Escape(args[0]) + "'"
                          : e.what())
              << "\ndequant: try `dequant "
              << (chosen.empty() ? "" : chosen[0]->get_name() + " ")
              << "--help`\n";
    return kUsage;
  }
  // With no elements: does DEQUANT_TARGET name a target that is there?
  if (const Status s = Dequantize(0, nullptr, DType::kF32, nullptr, 0);
      s != Status::kOk) {
    throw Error("", Error::kNoOffset, "", ErrorString(s));
  }
  const int code = command();
  std::cout.flush();
  if (!std::cout) {
    throw Error("", Error::kNoOffset, "", "cannot write to standard output");
  }
  return code;
}

}  // namespace
}  // namespace dequant::cli

int main(int argc, char** argv) {
  using dequant::cli::kError;
  try {
    return dequant::cli::Run(dequant::cli::StartProgram(argc, argv));
  } catch (const dequant::Cancelled&) {
    const int signal = dequant::cli::StopSignal();
    std::cerr << "dequant: stopped by signal " << signal
              << "; nothing was written\n";
    return 128 + signal;
  } catch (const std::bad_alloc&) {
    std::cerr << "dequant: out of memory\n";
  } catch (const std::exception& e) {
    std::cerr << "dequant: " << e.what() << '\n';
  }
  return kError;
}
