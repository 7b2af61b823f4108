// The parts that the subcommands share. Each has a file of its own and one
// function that adds it to the program.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <functional>
#include <iosfwd>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "dequant/model.h"

namespace dequant::cli {

/// What the chosen subcommand does once the arguments are known good. Returns
/// the exit code; throws Error.
using Command = std::function<int()>;

void AddInfo(CLI::App& app, Command* command);
void AddConvert(CLI::App& app, Command* command);
void AddVerify(CLI::App& app, Command* command);
void AddSelftest(CLI::App& app, Command* command);
void AddFormats(CLI::App& app, Command* command);

/// --like and --shapes.
struct ReferenceOptions {
  std::string like, shapes;

  void AddTo(CLI::App& app);
  std::optional<ShapeReference> Load() const;
};

/// --threads
void AddThreads(CLI::App& app, int* threads);
/// --include, --exclude
void AddFilters(CLI::App& app, std::string* include, std::string* exclude);
/// --strict
void AddStrict(CLI::App& app, bool* strict);
/// --json, --progress, --quiet
void AddOutput(CLI::App& app, bool* json, bool* progress, bool* quiet);

/// Rows of text in aligned columns; numbers to the right.
class Table {
 public:
  explicit Table(std::vector<std::string> head);
  void Add(std::vector<std::string> row);
  void Print(std::ostream& out) const;
  void PrintMarkdown(std::ostream& out) const;

 private:
  std::vector<size_t> Widths() const;
  static bool IsNumber(const std::string& cell);
  std::vector<std::vector<std::string>> rows_;  // the first is the head
};

/// "1336 F32, 732 Q4_K", most first.
std::string TypeCounts(const std::map<std::string, uint64_t>& counts);

/// JSON of shape provenance, the same in all commands.
nlohmann::ordered_json ToJson(const ShapeReport& report);
/// Any bytes: what is not UTF-8 is replaced.
void PrintJson(const nlohmann::ordered_json& json);

void PrintWarnings(const std::string& path,
                   const std::vector<std::string>& warnings);

/// From now on SIGINT, SIGTERM and SIGHUP ask to stop; a second one kills.
void CatchStopSignals();
/// The signal that asked to stop, 0 if none.
int StopSignal();

/// Progress of long work on stderr: a bar on a terminal; else nothing, or, if
/// asked for, a line per 10 %. Stops the work after a stop signal.
class ProgressDisplay {
 public:
  ProgressDisplay(bool quiet, bool lines);
  /// Clears the bar.
  ~ProgressDisplay();
  ProgressFn Function();

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace dequant::cli
