#include "src/model/name_filter.h"

#if defined(__GNUC__) && !defined(__clang__)
// GCC 12 sees ghosts in <regex> when it builds for the sanitizers.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <optional>
#include <regex>

#include "dequant/error.h"

namespace dequant {
namespace {

std::optional<std::regex> Compile(const std::string& pattern) {
  if (pattern.empty()) return std::nullopt;
  try {
    return std::regex(pattern);
  } catch (const std::regex_error& e) {
    throw Error(
        "", Error::kNoOffset, "",
        "'" + Escape(pattern) + "' is not a regular expression: " + e.what());
  }
}

bool Contains(std::string_view name, const std::regex& pattern) {
  // std::regex recurses once per character and would run out of stack.
  constexpr size_t kMatchedBytes = 1024;
  name = name.substr(0, kMatchedBytes);
  return std::regex_search(name.begin(), name.end(), pattern);
}

}  // namespace

struct NameFilter::Patterns {
  std::optional<std::regex> include, exclude;
};

NameFilter::NameFilter(const std::string& include, const std::string& exclude)
    : patterns_(new Patterns{Compile(include), Compile(exclude)}) {}
NameFilter::~NameFilter() = default;

bool NameFilter::Accepts(std::string_view name) const {
  return (!patterns_->include || Contains(name, *patterns_->include)) &&
         (!patterns_->exclude || !Contains(name, *patterns_->exclude));
}

struct DTypeRules::Rule {
  std::optional<std::regex> pattern;  // nothing: any name
  DType dtype;
};

DTypeRules::DTypeRules(const std::vector<DTypeRule>& rules) {
  for (const DTypeRule& r : rules) {
    rules_.push_back({Compile(r.pattern), r.dtype});
  }
}
DTypeRules::~DTypeRules() = default;

std::optional<DType> DTypeRules::Find(std::string_view name) const {
  for (const Rule& r : rules_) {
    if (!r.pattern || Contains(name, *r.pattern)) return r.dtype;
  }
  return std::nullopt;
}

}  // namespace dequant
