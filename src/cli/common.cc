#include <algorithm>
#include <cctype>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <iostream>

#include "src/cli/cli.h"
#include "src/cli/system.h"
#include "src/file/text.h"
#include "src/model/name_filter.h"

namespace dequant::cli {

void ReferenceOptions::AddTo(CLI::App& app) {
  auto* like_option = app.add_option(
      "--like", like,
      "Take names and shapes from this safetensors file (or .index.json); its "
      "data is not read");
  app.add_option("--shapes", shapes,
                 "Take shapes from this JSON: {\"NAME\": [1, 6, 3072], ...}")
      ->excludes(like_option);
}

std::optional<ShapeReference> ReferenceOptions::Load() const {
  if (!like.empty()) return ShapeReference::FromSafetensors(like);
  if (!shapes.empty()) return ShapeReference::FromJson(shapes);
  return std::nullopt;
}

void AddThreads(CLI::App& app, int* threads) {
  app.add_option("--threads", *threads, "Threads; 0 for all")
      ->check(CLI::Range(0, 4096));
}

namespace {

CLI::Validator IsRegex() {
  return CLI::Validator(
      [](const std::string& pattern) {
        try {
          const NameFilter compiled(pattern, "");
          return std::string();
        } catch (const Error& e) {
          return e.reason();
        }
      },
      "REGEX");
}

}  // namespace

void AddFilters(CLI::App& app, std::string* include, std::string* exclude) {
  app.add_option("--include", *include,
                 "Only tensors whose name contains a match")
      ->check(IsRegex());
  app.add_option("--exclude", *exclude,
                 "Not the tensors whose name contains a match")
      ->check(IsRegex());
}

void AddStrict(CLI::App& app, bool* strict) {
  app.add_flag("--strict", *strict,
               "Take warnings for errors: bytes behind the last tensor, types "
               "that are not known, ...");
}

void AddOutput(CLI::App& app, bool* json, bool* progress, bool* quiet) {
  app.add_flag("--json", *json, "Print the summary as JSON");
  app.add_flag("--progress", *progress,
               "Report every 10 % where stderr is not a terminal");
  app.add_flag("--quiet", *quiet, "No progress, no summary");
}

Table::Table(std::vector<std::string> head) {
  rows_.push_back(std::move(head));
}

void Table::Add(std::vector<std::string> row) {
  rows_.push_back(std::move(row));
}

bool Table::IsNumber(const std::string& cell) {
  return !cell.empty() && std::all_of(cell.begin(), cell.end(), [](char c) {
    return (c >= '0' && c <= '9') || c == '.' || c == '-';
  });
}

std::vector<size_t> Table::Widths() const {
  std::vector<size_t> widths(rows_[0].size());
  for (const auto& row : rows_) {
    for (size_t i = 0; i < row.size(); ++i) {
      widths[i] = std::max(widths[i], row[i].size());
    }
  }
  return widths;
}

void Table::Print(std::ostream& out) const {
  const auto widths = Widths();
  for (const auto& row : rows_) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) {
      const std::string pad(widths[i] - row[i].size(), ' ');
      if (i > 0) line += "  ";
      // The column's first value tells which kind it holds.
      const bool right = rows_.size() > 1 && IsNumber(rows_[1][i]);
      line += right ? pad + row[i] : row[i] + pad;
    }
    line.erase(line.find_last_not_of(' ') + 1);
    out << line << '\n';
  }
}

void Table::PrintMarkdown(std::ostream& out) const {
  for (size_t r = 0; r < rows_.size(); ++r) {
    for (const std::string& cell : rows_[r]) out << "| " << cell << ' ';
    out << "|\n";
    if (r > 0) continue;
    for (size_t i = 0; i < rows_[0].size(); ++i) {
      out << (rows_.size() > 1 && IsNumber(rows_[1][i]) ? "|---:" : "|---");
    }
    out << "|\n";
  }
}

std::string TypeCounts(const std::map<std::string, uint64_t>& counts) {
  std::vector<std::pair<std::string, uint64_t>> order(counts.begin(),
                                                      counts.end());
  std::stable_sort(order.begin(), order.end(),
                   [](auto& a, auto& b) { return a.second > b.second; });
  std::string text;
  for (const auto& [type, n] : order) {
    text += (text.empty() ? "" : ", ") + std::to_string(n) + " " + type;
  }
  return text.empty() ? "none" : text;
}

nlohmann::ordered_json ToJson(const ShapeReport& report) {
  nlohmann::ordered_json json;
  for (const ShapeSource s :
       {ShapeSource::kReference, ShapeSource::kOrigShape, ShapeSource::kDims}) {
    const auto it = report.counts.find(s);
    json[std::string(Name(s))] = it == report.counts.end() ? 0 : it->second;
  }
  json["corrected"] = nlohmann::ordered_json::array();
  for (const CorrectedShape& c : report.corrected) {
    json["corrected"].push_back({{"name", c.name},
                                 {"shape", c.shape},
                                 {"file_shape", c.file_shape},
                                 {"file_source", Name(c.file_source)}});
  }
  return json;
}

void PrintJson(const nlohmann::ordered_json& json) {
  std::cout << json.dump(1, ' ', false,
                         nlohmann::ordered_json::error_handler_t::replace)
            << '\n';
}

void PrintWarnings(const std::string& path,
                   const std::vector<std::string>& warnings) {
  for (const std::string& w : warnings) {
    std::cerr << "dequant: warning: "
              << Error(path, Error::kNoOffset, "", w).what() << '\n';
  }
}

namespace {

volatile std::sig_atomic_t stop_signal = 0;

extern "C" void OnStopSignal(int signal) { stop_signal = signal; }

}  // namespace

void CatchStopSignals() { OnStopSignals(OnStopSignal); }

int StopSignal() { return stop_signal; }

struct ProgressDisplay::State {
  using Clock = std::chrono::steady_clock;
  bool bar = false, lines = false;
  bool drawn = false;
  int tenths = 0;
  Clock::time_point start = Clock::now();

  void Show(uint64_t done, uint64_t total) {
    if (total == 0 || done == 0 || (!bar && !lines)) return;
    const double seconds =
        std::chrono::duration<double>(Clock::now() - start).count();
    const double part = static_cast<double>(done) / static_cast<double>(total);
    const double rate = static_cast<double>(done) / seconds;
    char text[160];
    constexpr int kWidth = 30;
    if (bar) {
      const int filled = static_cast<int>(part * kWidth);
      const auto left = static_cast<int>(seconds / part - seconds + 0.5);
      std::snprintf(text, sizeof(text),
                    "\r[%.*s%*s] %3.0f %%  %.2f GB/s  %d:%02d left ", filled,
                    "##############################", kWidth - filled, "",
                    part * 100, rate / 1e9, left / 60, left % 60);
      drawn = true;
    } else {
      const int now = static_cast<int>(part * 10);
      if (now <= tenths) return;
      tenths = now;
      std::snprintf(text, sizeof(text), "%d %%  %.2f GB/s  %.1f s\n", now * 10,
                    rate / 1e9, seconds);
    }
    std::cerr << text << std::flush;
  }
};

ProgressDisplay::ProgressDisplay(bool quiet, bool lines)
    : state_(std::make_shared<State>()) {
  state_->bar = !quiet && StderrIsTerminal();
  state_->lines = lines;
}

ProgressDisplay::~ProgressDisplay() {
  if (state_->drawn) std::cerr << "\r\x1B[K" << std::flush;
}

ProgressFn ProgressDisplay::Function() {
  return [state = state_](uint64_t done, uint64_t total) {
    state->Show(done, total);
    return StopSignal() == 0;
  };
}

}  // namespace dequant::cli
